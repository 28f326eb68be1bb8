package cmd

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// pieces answer with a backup in two pieces.
func pieces(r *recorder) {
	r.replies["Backup"] = []proto.Message{&tandemv1.BackupResponse{Data: []byte("every ")}, &tandemv1.BackupResponse{Data: []byte("secret")}}
}

// names are the files in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestBackupIsEncryptedAndForItsOwner(t *testing.T) {
	r := newRecorder(t)
	pieces(r)
	file := filepath.Join(t.TempDir(), "b")
	if got := r.run("", "backup", file, "--passphrase-file", r.write("pass", "correct horse\n")); got.code != 0 || !strings.Contains(got.stderr, "encrypted") {
		t.Fatal(got)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	sealed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer sealed.Close()
	identity, err := age.NewScryptIdentity("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(sealed, identity)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(plain); err != nil || string(text) != "every secret" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestBackupReplacesOnlyWhenForced(t *testing.T) {
	r := newRecorder(t)
	pieces(r)
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	if err := os.WriteFile(file, []byte("older"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := r.run("", "backup", file, "--plain"); got.code != 1 || !strings.Contains(got.stderr, "--force") || len(r.taken()) > 0 {
		t.Error(got)
	}
	// A stream that breaks leaves the older one, and nothing beside it.
	r.broken = map[string]error{"Backup": status.Error(codes.Unavailable, "the controller is stopping")}
	if got := r.run("", "backup", file, "--plain", "--force"); got.code != 1 {
		t.Error(got)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "older" || len(names(t, dir)) != 1 {
		t.Errorf("after a broken one: %q, %v, %v", text, err, names(t, dir))
	}
	r.broken = nil
	if got := r.run("", "backup", file, "--plain", "--force"); got.code != 0 {
		t.Error(got)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "every secret" {
		t.Errorf("%q, %v", text, err)
	}
	if got := r.run("", "backup", "-", "--plain"); got.code != 0 || got.stdout != "every secret" {
		t.Error(got)
	}
}

// Nothing is asked of the controller before it is known how the backup is kept.
func TestBackupNeedsAPassphraseOrPlain(t *testing.T) {
	r := newRecorder(t)
	pass := r.write("pass", "x\n")
	for _, args := range [][]string{{"backup", "b"}, {"backup", "b", "--plain", "--passphrase-file", pass}, {"backup"}} {
		if got := r.run("", args...); got.code != 2 || len(r.taken()) > 0 {
			t.Errorf("%v: %v", args, got)
		}
	}
}
