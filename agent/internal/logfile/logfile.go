// Package logfile writes lines to a file that is rotated by its size.
package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options of a File.
type Options struct {
	// Path of the file. Its directory is made when it is missing; older files
	// are beside it, with .1 for the newest of them.
	Path string
	// MaxSize in bytes, at least 1, of a file; a single Write may exceed it.
	MaxSize int64
	// Keep is how many older files stay, at least 0.
	Keep int
}

// File is a log file. It has one owner, who alone calls its methods.
type File struct {
	Options
	file *os.File // nil: not open
	size int64
}

// New returns a file that the first Write opens.
func New(o Options) *File { return &File{Options: o} }

// Write appends whole lines, or nothing: what a full disk took of them is cut
// off again. After an error the next call begins anew, so that a file whose
// disk has room again, or that somebody moved away, is found.
func (f *File) Write(lines []byte) (int, error) {
	if err := f.prepare(int64(len(lines))); err != nil {
		return 0, errors.Join(fmt.Errorf("log file: %w", err), f.Close())
	}
	if _, err := f.file.Write(lines); err != nil {
		return 0, errors.Join(fmt.Errorf("log file: %w", err), f.file.Truncate(f.size), f.Close())
	}
	f.size += int64(len(lines))
	return len(lines), nil
}

// Close closes the file; a Write opens it again.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// prepare has the file at Path open, with room for n bytes.
func (f *File) prepare(n int64) error {
	if f.file != nil && !f.current() {
		if err := f.Close(); err != nil {
			return err
		}
	}
	if f.file == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.size == 0 || f.size+n <= f.MaxSize {
		return nil
	}
	if err := errors.Join(f.Close(), f.rotate()); err != nil {
		return err
	}
	return f.open()
}

// current tells whether the open file is still the one at Path.
func (f *File) current() bool {
	mine, err := f.file.Stat()
	there, errThere := os.Lstat(f.Path)
	return err == nil && errThere == nil && os.SameFile(mine, there)
}

func (f *File) open() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: move it away", f.Path)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

// rotate renames the file and those before it, the oldest first, so that an end
// in between loses none but the oldest.
func (f *File) rotate() error {
	if f.Keep == 0 {
		return os.Remove(f.Path)
	}
	for n := f.Keep; n > 1; n-- {
		if err := os.Rename(f.old(n-1), f.old(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(f.Path, f.old(1))
}

func (f *File) old(n int) string { return fmt.Sprintf("%s.%d", f.Path, n) }
