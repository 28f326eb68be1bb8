// Package atomicfile writes files that are either old or new, never between,
// whenever the machine stops.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts data at path with the permissions perm, whatever the umask.
// The data go to a temporary file in the same directory, which is fsynced and
// renamed over path; then the directory is fsynced. When it returns an error,
// path is as it was, except that after a failed fsync of the directory it may
// be either.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	if err := replace(path, data, perm, (*os.File).Sync); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteVolatile is WriteFile without fsync, for files that are written anew at
// each boot: readers see old or new, and nobody waits for a disk.
func WriteVolatile(path string, data []byte, perm os.FileMode) error {
	noSync := func(*os.File) error { return nil }
	if err := replace(path, data, perm, noSync); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// replace renames a new file over path.
func replace(path string, data []byte, perm os.FileMode, sync func(*os.File) error) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = fill(temp, data, perm, sync)
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// fill writes, syncs and closes the file.
func fill(f *os.File, data []byte, perm os.FileMode, sync func(*os.File) error) (err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return sync(f)
}

// Rename moves a file over another one in the same directory and makes that
// durable. On error the directory may be either.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s: %w", from, err)
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

// Remove removes a file and makes that durable. On error it may be there or not.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// Link gives a file a second name in the same directory, in place of what has
// that name, and makes that durable. It needs no space for the content. On error
// the directory may be either.
func Link(from, to string) error {
	if err := link(from, to); err != nil {
		return fmt.Errorf("link %s to %s: %w", from, to, err)
	}
	return nil
}

func link(from, to string) error {
	source, err := os.Stat(from)
	if err != nil {
		return err
	}
	if target, err := os.Stat(to); err == nil && os.SameFile(source, target) {
		return nil
	}
	temp := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".link")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(from, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, to); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(to))
}

// syncDir makes what was done in the directory durable.
func syncDir(path string) (err error) {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}
