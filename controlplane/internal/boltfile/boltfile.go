// Package boltfile opens bbolt files for the parts of the controller that keep
// something in one.
package boltfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
)

// ErrInUse means that another process has the file open.
var ErrInUse = errors.New("another process has it open")

// NotWritableError means that a transaction could not be made durable, say
// because the disk is full. Its changes are all there or none.
type NotWritableError struct {
	// Err is the cause.
	Err error
}

// Error returns the cause.
func (e *NotWritableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *NotWritableError) Unwrap() error { return e.Err }

// addressSpace is what a file is mapped into from the start, in bytes; it takes
// no memory. While a long reader such as a backup is at work, a writer that
// outgrows the mapping waits for it, so the mapping is far larger than the file.
const addressSpace = 1 << 30

// File is an open file. Its methods may be called from any goroutine.
type File struct {
	db *bolt.DB

	writing   sync.Mutex // held by the one transaction that writes, also while it syncs
	unsettled bool       // the last one has failed
}

// Open opens the file at path, and makes it if there is none: fill puts into a
// new one what must be in it. A file is there whole or not at all, also after a
// loss of power. An existing file is only read, so that a full disk keeps nobody
// from opening it. ErrInUse if another process has it open.
func Open(path string, fill func(*bolt.Tx) error) (*File, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(path, fill)
	}
	if err != nil {
		return nil, err
	}
	db, err := open(path)
	if err != nil {
		return nil, err
	}
	return &File{db: db}, nil
}

// Close ends the use of the file; it waits for what is under way.
func (f *File) Close() error { return f.db.Close() }

// View runs fn in a transaction that reads.
func (f *File) View(fn func(*bolt.Tx) error) error { return f.db.View(fn) }

// Update runs fn in a transaction that is durable when Update returns nil. The
// error is fn's own, or a *NotWritableError.
func (f *File) Update(fn func(*bolt.Tx) error) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.settle(); err != nil {
		return err
	}
	var refusal error
	err := f.db.Update(func(tx *bolt.Tx) error {
		refusal = fn(tx)
		return refusal
	})
	if err != nil && refusal == nil {
		f.unsettled = true
		return &NotWritableError{err}
	}
	return err
}

// Snapshot hands the file as it is at one moment to the writer that begin
// returns, and delays no transaction. begin is told the size, in bytes.
func (f *File) Snapshot(begin func(size int64) (io.Writer, error)) error {
	return f.db.View(func(tx *bolt.Tx) error {
		w, err := begin(tx.Size())
		if err != nil {
			return err
		}
		_, err = tx.WriteTo(w)
		return err
	})
}

// Settle makes certain, after a *NotWritableError, that what is read is durable.
// The error is another one.
func (f *File) Settle() error {
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.settle()
}

// settle writes the two pages again that tell bbolt what the file holds. When
// the sync that ends a transaction fails, the kernel shows readers the new page,
// and the disk may have the old one; the next transaction would then write over
// the other page, the only good one. The lock is held.
func (f *File) settle() error {
	if !f.unsettled {
		return nil
	}
	if err := rewrite(f.db.Path(), 2*f.db.Info().PageSize); err != nil {
		return &NotWritableError{err}
	}
	f.unsettled = false
	return nil
}

// rewrite makes the first n bytes of a file durable as they are read now.
func rewrite(path string, n int) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	head := make([]byte, n)
	if _, err := file.ReadAt(head, 0); err != nil {
		return err
	}
	if _, err := file.WriteAt(head, 0); err != nil {
		return err
	}
	return file.Sync()
}

// create makes the file under another name first: bbolt's own first pages are
// not yet a file that it would open.
func create(path string, fill func(*bolt.Tx) error) error {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := open(unfinished)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(fill), db.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

func open(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: time.Second, FreelistType: bolt.FreelistMapType, InitialMmapSize: addressSpace,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, ErrInUse
	}
	return db, err
}
