package disktest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// page is what a disk writes whole or not at all, in bytes.
const page = 4096

// Recorder keeps the calls on the files of one directory that was empty, and
// what the code under test has acknowledged between them.
type Recorder struct {
	mu    sync.Mutex
	steps []step
}

func (r *Recorder) add(s step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, s)
}

// step is a call, or the news that something was acknowledged.
type step struct {
	call   Call
	failed bool
	mark   uint64
}

// Record is a Judge that lets every call happen.
func (r *Recorder) Record(c Call) error {
	r.add(step{call: c})
	return nil
}

// Fail is a Judge that makes a call fail. What a failed sync was to write never
// comes to the disk, though readers see it: Linux then takes it for written.
func (r *Recorder) Fail(c Call, with unix.Errno) error {
	r.add(step{call: c, failed: true})
	return with
}

// Mark says that from here on n is acknowledged; it is called where f runs.
func (r *Recorder) Mark(n uint64) { r.add(step{mark: n}) }

// PowerLosses plays a loss of power after each step, several times with other
// luck, and calls check with a directory as it is found then and with the last
// mark before. It returns how many it played, and the first error of check.
//
// What was not synced may be on disk or not, each page for itself, in any order:
// first none of it is, then all, then a random part. A file whose name was not
// synced with its directory may not be there, and names come in order.
func (r *Recorder) PowerLosses(t testing.TB, random *rand.Rand, luck int, check func(dir string, mark uint64) error) (int, error) {
	t.Helper()
	d := &disk{names: map[string]*file{}, durable: map[string]*file{}}
	played, mark := 0, uint64(0)
	for i, s := range r.steps {
		switch f := d.names[s.call.Path]; {
		case s.mark != 0:
			mark = s.mark
		case !s.failed:
			d.do(s.call)
		case s.call.Op == Sync && f != nil:
			f.pending = nil
		}
		for n := range 2 + luck {
			dir := t.TempDir()
			if err := d.lose(dir, func() bool { return n == 1 || n > 1 && random.IntN(2) == 0 }); err != nil {
				t.Fatal(err)
			}
			played++
			if err := check(dir, mark); err != nil {
				return played, fmt.Errorf("power lost after step %d of %d, luck %d, %d acknowledged: %w", i+1, len(r.steps), n, mark, err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	return played, nil
}

// disk is a directory and what of it is durable.
type disk struct {
	names, durable map[string]*file
	pending        []map[string]*file // names after each change that is not synced
}

// file is a file's content and what of it is durable.
type file struct {
	durable content
	pending []Call
}

// content is a file's pages by their numbers; those that are missing are zero.
type content struct {
	size  int64
	pages map[int64][]byte
}

func (d *disk) do(c Call) {
	f := d.names[c.Path]
	switch c.Op {
	case Create:
		d.rename(func(names map[string]*file) { names[c.Path] = &file{} })
	case Remove:
		d.rename(func(names map[string]*file) { delete(names, c.Path) })
	case Rename:
		d.rename(func(names map[string]*file) { names[c.To] = f; delete(names, c.Path) })
	case Truncate:
		f.pending = append(f.pending, c)
	case Write:
		for data, at := c.Data, c.Offset; len(data) > 0; {
			n := min(len(data), page-int(at%page))
			f.pending = append(f.pending, Call{Op: Write, Offset: at, Data: data[:n]})
			data, at = data[n:], at+int64(n)
		}
	case Sync:
		if f == nil { // the directory
			d.durable, d.pending = d.names, nil
			return
		}
		f.durable, f.pending = f.after(func() bool { return true }), nil
	}
}

func (d *disk) rename(change func(map[string]*file)) {
	d.names = maps.Clone(d.names)
	change(d.names)
	d.pending = append(d.pending, d.names)
}

// after is the content with the changes that made it to the disk.
func (f *file) after(made func() bool) content {
	c := content{f.durable.size, maps.Clone(f.durable.pages)}
	if c.pages == nil {
		c.pages = map[int64][]byte{}
	}
	for _, p := range f.pending {
		switch {
		case !made():
		case p.Op == Truncate:
			c.size = p.Size
			maps.DeleteFunc(c.pages, func(n int64, _ []byte) bool { return n*page >= p.Size })
		default:
			c.size = max(c.size, p.Offset+int64(len(p.Data)))
			whole := make([]byte, page)
			copy(whole, c.pages[p.Offset/page])
			copy(whole[p.Offset%page:], p.Data)
			c.pages[p.Offset/page] = whole
		}
	}
	return c
}

// write makes a file of the content.
func (c content) write(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for n, data := range c.pages {
		_, bad := f.WriteAt(data, n*page)
		err = errors.Join(err, bad)
	}
	return errors.Join(err, f.Truncate(c.size), f.Close())
}

// lose fills dir with what is found after a loss of power.
func (d *disk) lose(dir string, made func() bool) error {
	names := d.durable
	for _, next := range d.pending {
		if !made() {
			break
		}
		names = next
	}
	var failed error
	for path, f := range names {
		failed = errors.Join(failed, f.after(made).write(filepath.Join(dir, filepath.Base(path))))
	}
	return failed
}
