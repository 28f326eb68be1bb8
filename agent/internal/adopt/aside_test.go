package adopt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files makes a hand-written file and one of Tandem's.
func files(t *testing.T) (path, ours string) {
	t.Helper()
	dir := t.TempDir()
	path, ours = filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "ours.cfg")
	write(t, path, "by hand")
	write(t, ours, "ours")
	return path, ours
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// There and back the file is the same one, not a copy.
func TestPutAsideAndBack(t *testing.T) {
	path, ours := files(t)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again does nothing
		if err := putAside(path, ours); err != nil {
			t.Fatal(err)
		}
	}
	if content(t, path) != "ours" || content(t, original(path)) != "by hand" {
		t.Errorf("%q is in place, %q is aside", content(t, path), content(t, original(path)))
	}
	for range 2 {
		if err := putBack(path, ours); err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() || original(path) != path {
		t.Errorf("not back as it was: %v, %v", after, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A crash between any two steps leaves the name with a file, and the next try
// goes on.
func TestPutAsideGoesOn(t *testing.T) {
	path, ours := files(t)
	if err := os.Link(path, path+asideSuffix); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ours, path+".tandem"); err != nil {
		t.Fatal(err)
	}
	if err := putAside(path, ours); err != nil || content(t, path) != "ours" || content(t, original(path)) != "by hand" {
		t.Errorf("%v: %q is in place", err, content(t, path))
	}
}

// Nothing that somebody else has written is overwritten, there or back.
func TestNothingIsOverwritten(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"an older file aside": {func(t *testing.T, path string) { write(t, path+asideSuffix, "older") }, ".before-tandem exists already and is left alone: move it away"},
		"a file in the way":   {func(t *testing.T, path string) { write(t, path+".tandem", "other") }, ".tandem"},
		"a link already": {func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+".d"), os.Symlink(path+".d", path)); err != nil {
				t.Fatal(err)
			}
		}, "is no plain file"},
	} {
		t.Run(name, func(t *testing.T) {
			path, ours := files(t)
			tt.spoil(t, path)
			if err := putAside(path, ours); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if got := content(t, path); got != "by hand" {
				t.Errorf("in place is %q", got)
			}
		})
	}
	path, ours := files(t)
	if err := putAside(path, ours); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "new by hand")
	if err := putBack(path, ours); err == nil || content(t, path) != "new by hand" || content(t, path+asideSuffix) != "by hand" {
		t.Errorf("%v: in place is %q", err, content(t, path))
	}
}

// What becomes part of a file that root's HAProxy reads must be as hard to
// change.
func TestReadSafely(t *testing.T) {
	path, _ := files(t)
	if text, err := readSafely(path); err != nil || text != "by hand" {
		t.Errorf("%q, %v", text, err)
	}
	for _, mode := range []fs.FileMode{0o660, 0o646} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := readSafely(path); err == nil || !strings.Contains(err.Error(), "can be changed by others than root") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12345, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := readSafely(path); err == nil {
		t.Error("another user's file is read")
	}
}
