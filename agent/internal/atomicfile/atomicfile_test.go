package atomicfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// writers share everything but fsync.
var writers = map[string]func(string, []byte, os.FileMode) error{
	"WriteFile":     atomicfile.WriteFile,
	"WriteVolatile": atomicfile.WriteVolatile,
}

func each(t *testing.T, test func(t *testing.T, write func(string, []byte, os.FileMode) error)) {
	for name, write := range writers {
		t.Run(name, func(t *testing.T) { test(t, write) })
	}
}

func TestReplacesContentAndPermissions(t *testing.T) { each(t, replaces) }

func replaces(t *testing.T, write func(string, []byte, os.FileMode) error) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("a longer old content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(path, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "new" {
		t.Errorf("read %q, %v; want \"new\"", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v; want 0644 whatever the umask", info.Mode(), err)
	}
	onlyEntry(t, dir, "file")
}

func TestFailureLeavesNothingBehind(t *testing.T) { each(t, leavesNothing) }

func leavesNothing(t *testing.T, write func(string, []byte, os.FileMode) error) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(path, []byte("x"), 0o644); err == nil {
		t.Error("a directory was replaced by a file")
	}
	onlyEntry(t, dir, "taken")
	if err := write(filepath.Join(dir, "none", "file"), nil, 0o644); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
}

// A reader sees one of the contents whole, never a part or none.
func TestIsNeverSeenHalf(t *testing.T) { each(t, neverHalf) }

func neverHalf(t *testing.T, write func(string, []byte, os.FileMode) error) {
	path := filepath.Join(t.TempDir(), "file")
	contents := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<12)}
	if err := write(path, contents[0], 0o644); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, err := os.ReadFile(path)
			if err != nil || (!bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1])) {
				t.Errorf("saw %d bytes, %v", len(got), err)
				return
			}
		}
	})
	for i := range 100 {
		if err := write(path, contents[i%2], 0o644); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
}

func onlyEntry(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v, %v; want only %q", entries, err, name)
	}
}

func TestLinkReplacesAndIsRepeated(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := errors.Join(os.WriteFile(from, []byte("new"), 0o600), os.WriteFile(to, []byte("old"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := atomicfile.Link(from, to); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(to); err != nil || string(data) != "new" {
			t.Errorf("%q, %v", data, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v is left, %v", entries, err)
	}
	if err := atomicfile.Link(filepath.Join(dir, "missing"), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if data, err := os.ReadFile(to); err != nil || string(data) != "new" {
		t.Errorf("after a failure: %q, %v", data, err)
	}
}
