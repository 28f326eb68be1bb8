package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(victimEnv); path != "" {
		if err := victim(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func openIn(t *testing.T, dir string) store.Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "store.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) { storetest.Run(t, openIn) }

func TestOneProcessOnly(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	defer s.Close()
	_, err := Open(filepath.Join(dir, "store.db"), Options{})
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: got %v", err)
	}
}

func TestOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	defer s.Close()
	info, err := os.Stat(filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the secrets has mode %v", info.Mode())
	}
}

func TestNewerFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte("2")) }), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), `format "2"`) {
		t.Errorf("got %v", err)
	}
}

// TestPrune keeps the newest revisions, and no changes of older ones.
func TestPrune(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{KeepRevisions: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	for base := range uint64(300) {
		n := 1
		if base == 10 {
			n = 1000 // so big that its removal takes several commits
		}
		k := store.Commit{Cluster: "a", Base: base, Revision: &tandemv1.Revision{Number: base + 1}}
		for i := range n {
			k.Revision.Changes = append(k.Revision.Changes, &tandemv1.Change{Name: fmt.Sprint("r", i), After: &tandemv1.Resource{}})
		}
		if err := s.Commit(ctx, []store.Commit{k}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Revisions(ctx, "a", store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 5 || got[0].GetNumber() != 300 {
		t.Errorf("kept %d revisions, the newest is %d", len(got), got[0].GetNumber())
	}
	changes := 0
	err = s.db.View(func(tx *bolt.Tx) error {
		c, err := open(tx, "a")
		if err != nil {
			return err
		}
		return c.Bucket.Bucket(changesBucket).ForEach(func(_, _ []byte) error { changes++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	if changes != 5 {
		t.Errorf("kept %d changes, want 5", changes)
	}
}
