package bolt

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// blocked is a writer that nobody takes anything from until it is released.
type blocked struct {
	bytes.Buffer
	released chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.released
	return b.Buffer.Write(p)
}

// A snapshot is of one moment, and delays no commit however slowly it is taken,
// also when the file grows meanwhile.
func TestSnapshotDelaysNoCommit(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	commit := func(base uint64) {
		if err := s.Commit(ctx, []store.Commit{after(base)}); err != nil {
			t.Error(err)
		}
	}
	commit(0)
	begun, done := make(chan struct{}), make(chan error, 1)
	out := &blocked{released: make(chan struct{})}
	go func() {
		done <- s.Snapshot(ctx, func(int64) (io.Writer, error) { close(begun); return out, nil })
	}()
	<-begun
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		for base := uint64(1); base < 100; base++ {
			commit(base)
		}
	}()
	select {
	case <-committed:
	case <-time.After(30 * time.Second):
		t.Error("commits wait for the snapshot")
	}
	close(out.released)
	<-committed
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if head := check(t, path); head != 1 {
		t.Errorf("the snapshot is of revision %d", head)
	}
}
