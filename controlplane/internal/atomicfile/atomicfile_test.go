package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
)

func TestWriteFileReplacesContentAndPermissions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("a longer old content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(path, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "new" {
		t.Errorf("read %q, %v; want \"new\"", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v; want 0644", info.Mode(), err)
	}
	onlyEntry(t, dir, "file")
}

func TestWriteFileFailureLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(path, []byte("x"), 0o644); err == nil {
		t.Error("a directory was replaced by a file")
	}
	onlyEntry(t, dir, "taken")
	if err := atomicfile.WriteFile(filepath.Join(dir, "none", "file"), nil, 0o644); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
}

func onlyEntry(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v, %v; want only %q", entries, err, name)
	}
}
