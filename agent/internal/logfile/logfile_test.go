package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newFile(t *testing.T) *File {
	t.Helper()
	f := New(Options{Path: filepath.Join(t.TempDir(), "log", "access.log"), MaxSize: 20, Keep: 3})
	t.Cleanup(func() { f.Close() })
	return f
}

func (f *File) writes(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if _, err := f.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
}

// contents of the file and the older ones, the newest first.
func contents(t *testing.T, f *File) string {
	t.Helper()
	var all []string
	for _, path := range []string{f.Path, f.old(1), f.old(2), f.old(3), f.old(4)} {
		if text, err := os.ReadFile(path); err == nil {
			all = append(all, strings.ReplaceAll(string(text), "\n", ","))
		}
	}
	return strings.Join(all, " ")
}

func TestRotation(t *testing.T) {
	f := newFile(t)
	for n := range 4 {
		f.writes(t, fmt.Sprintf("%09d", n))
	}
	if got := contents(t, f); got != "000000002,000000003, 000000000,000000001," {
		t.Errorf("%s", got)
	}
	// Another process goes on where this one was.
	f = New(f.Options)
	f.writes(t, "000000004", "a line longer than a file may be", "5")
	if got := contents(t, f); got != "5, a line longer than a file may be, 000000004, 000000002,000000003," {
		t.Errorf("%s", got)
	}
	if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestNoOlderFiles(t *testing.T) {
	f := newFile(t)
	f.Keep = 0
	f.writes(t, "0123456789", "0123456789")
	if got := contents(t, f); got != "0123456789," {
		t.Errorf("%s", got)
	}
}

// Somebody else may rotate the file, or remove its directory.
func TestMovedAway(t *testing.T) {
	f := newFile(t)
	f.writes(t, "1")
	if err := os.RemoveAll(filepath.Dir(f.Path)); err != nil {
		t.Fatal(err)
	}
	f.writes(t, "2")
	if got := contents(t, f); got != "2," {
		t.Errorf("%s", got)
	}
}

// Lines are whole or not there, and the next ones are written when there is
// room again.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a file system here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	f := New(Options{Path: dir + "/access.log", MaxSize: 1 << 20, Keep: 1})
	defer f.Close()
	ballast := dir + "/ballast"
	if err := os.WriteFile(ballast, make([]byte, 50<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 999) + "\n")
	written := 0
	for {
		n, err := f.Write(line)
		if errors.Is(err, unix.ENOSPC) && n == 0 {
			break
		}
		if err != nil || n != len(line) {
			t.Fatalf("%d, %v", n, err)
		}
		written += n
	}
	if info, err := os.Stat(f.Path); err != nil || info.Size() != int64(written) || written == 0 {
		t.Errorf("%d bytes instead of %d whole lines, %v", info.Size(), written/len(line), err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.writes(t, "again")
	text, err := os.ReadFile(f.Path)
	if err != nil || len(text) != written+len("again\n") || !strings.HasSuffix(string(text), "x\nagain\n") {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// A link could lead anywhere.
func TestLinkIsRefused(t *testing.T) {
	f := newFile(t)
	f.writes(t, "1")
	if err := errors.Join(f.Close(), os.Rename(f.Path, f.Path+".x"), os.Symlink(f.Path+".x", f.Path)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("2\n")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v", err)
	}
}
