package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// take makes a controller's data directory with one record and one revision,
// and a backup of it after some steps of a rotation.
func take(t *testing.T, steps ...func(*pki.Authority) error) (dir, epoch string, plain []byte) {
	t.Helper()
	dir = t.TempDir()
	authority, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if err := step(authority); err != nil {
			t.Fatal(err)
		}
	}
	s, err := bolt.Open(filepath.Join(dir, backup.StateName), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	if err := errors.Join(
		s.Put(ctx, "tokens", "a", []byte("hash")),
		s.Put(ctx, store.Once, "b", []byte("hash")),
		s.Commit(ctx, []store.Commit{{Cluster: "default", Revision: &tandemv1.Revision{Number: 1, Author: "alice"}}}),
	); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (backup.Source{Authority: authority, Store: s, Version: "test"}).Write(ctx, &out); err != nil {
		t.Fatal(err)
	}
	return dir, s.Epoch(), out.Bytes()
}

func TestRestoreHasAllAndWaits(t *testing.T) {
	from, epoch, plain := take(t)
	dir := filepath.Join(t.TempDir(), "made")
	restored, err := backup.Restore(t.Context(), dir, bytes.NewReader(plain), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := backup.CheckFinished(dir); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"ca.pem", "ca-key.pem"} {
		was, _ := os.ReadFile(filepath.Join(from, name))
		is, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(was, is) || len(is) == 0 {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	s, err := bolt.Open(filepath.Join(dir, backup.StateName), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	told, err := s.Restored(ctx)
	if err != nil || told == nil || told.Epoch != epoch || told.Backup.IsZero() || restored.Epoch != epoch || s.Epoch() == epoch {
		t.Errorf("epoch %s was %s; it says %+v, %v", s.Epoch(), epoch, told, err)
	}
	if v, err := s.Get(ctx, "tokens", "a"); err != nil || string(v) != "hash" {
		t.Errorf("record: %s, %v", v, err)
	}
	if v, err := s.List(ctx, store.Once); err != nil || len(v) > 0 {
		t.Errorf("what is good for one use: %v, %v; want nothing", v, err)
	}
	if r, err := s.Revision(ctx, "default", 1); err != nil || r.GetAuthor() != "alice" {
		t.Errorf("revision: %v, %v", r, err)
	}
	if err := s.Confirm(ctx); err != nil {
		t.Fatal(err)
	}
	if told, err := s.Restored(ctx); err != nil || told != nil {
		t.Errorf("after an operator's word it says %+v, %v", told, err)
	}
}

// A backup that is made in the middle of a rotation goes on where that was.
func TestRestoreInTheMiddleOfARotation(t *testing.T) {
	steps := []func(*pki.Authority) error{(*pki.Authority).Begin, (*pki.Authority).Activate, (*pki.Authority).Retire}
	for done := range len(steps) + 1 {
		from, _, plain := take(t, steps[:done]...)
		dir := filepath.Join(t.TempDir(), "made")
		if _, err := backup.Restore(t.Context(), dir, bytes.NewReader(plain), "", nil); err != nil {
			t.Fatal(err)
		}
		was, err := pki.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		is, err := pki.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if is.Phase() != was.Phase() || is.Hash() != was.Hash() || !bytes.Equal(is.Bundle(), was.Bundle()) {
			t.Errorf("after %d steps: phase %v, was %v", done, is.Phase(), was.Phase())
		}
		for _, step := range steps[done:] {
			if err := step(is); err != nil {
				t.Errorf("after %d steps it does not go on: %v", done, err)
			}
		}
	}
}

// Whatever is missing or changed, nothing is left that a controller would start
// on, and the whole backup can be restored into the same directory.
func TestBadBackupsAreRefused(t *testing.T) {
	_, _, plain := take(t)
	sealed := encrypt(t, plain, "secret")
	dir := filepath.Join(t.TempDir(), "made")
	for name, test := range map[string]struct {
		data       []byte
		passphrase string
		want       string
	}{
		"empty":                 {nil, "", "cut off"},
		"cut in the store":      {plain[:len(plain)/2], "", "cut off"},
		"cut before its end":    {plain[:len(plain)-3*512], "", "cut off"},
		"a bit of the store":    {flip(plain, len(plain)-4096), "", "SHA256SUMS"},
		"no backup":             {[]byte(strings.Repeat("global\n  daemon\n", 100)), "", "no backup"},
		"no passphrase":         {sealed, "", "--passphrase-file"},
		"wrong passphrase":      {sealed, "guess", "decrypt"},
		"encrypted and cut":     {sealed[:len(sealed)-100], "secret", ""},
		"encrypted and changed": {flip(sealed, len(sealed)-5000), "secret", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := backup.Restore(t.Context(), dir, bytes.NewReader(test.data), test.passphrase, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v; want it to say %q", err, test.want)
			}
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				t.Errorf("it leaves %v behind", entries)
			}
		})
	}
	if _, err := backup.Restore(t.Context(), dir, bytes.NewReader(sealed), "secret", nil); err != nil {
		t.Error(err)
	}
	if _, err := backup.Restore(t.Context(), dir, bytes.NewReader(plain), "", nil); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a second restore: %v", err)
	}
}

// No controller starts on half a restore.
func TestUnfinishedRestoreIsRecognised(t *testing.T) {
	_, _, plain := take(t)
	dir := t.TempDir()
	_, err := backup.Restore(t.Context(), dir, bytes.NewReader(plain), "", func(context.Context, string) error { return backup.CheckFinished(dir) })
	if err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("got %v", err)
	}
}

func encrypt(t *testing.T, plain []byte, passphrase string) []byte {
	t.Helper()
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	recipient.SetWorkFactor(10)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(plain)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}
