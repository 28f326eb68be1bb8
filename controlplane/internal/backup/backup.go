// Package backup makes one file of all that a controller must not lose, and a
// data directory of that file again.
//
// A backup is a tar file: manifest.json, the authority's files, state.db, and at
// last SHA256SUMS of all before it, as sha256sum(1) reads it. One that was cut
// off has no such end. It may be encrypted by age with a passphrase. Events are
// not in it.
package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Names of the entries, beside those of pki.
const (
	manifestName = "manifest.json"
	// StateName is the store's, also in the data directory.
	StateName = "state.db"
	sumsName  = "SHA256SUMS"
)

// format is the version of the layout.
const format = 1

// manifest is the first entry.
type manifest struct {
	Format  int       `json:"format"`
	Epoch   string    `json:"epoch"`
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
}

// Source is what a backup is made of.
type Source struct {
	// Authority is the open authority.
	Authority *pki.Authority
	// Store is the open store.
	Store store.Store
	// Version of the controller.
	Version string
}

// Write writes a backup as of now. It blocks while w does.
func (s Source) Write(ctx context.Context, w io.Writer) error {
	out := &writer{tar: tar.NewWriter(w), now: time.Now()}
	text, err := json.Marshal(manifest{Format: format, Epoch: s.Store.Epoch(), Time: out.now, Version: s.Version})
	if err != nil {
		return err
	}
	if err := out.add(manifestName, append(text, '\n')); err != nil {
		return err
	}
	files, err := s.Authority.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := out.add(f.Name, f.Data); err != nil {
			return err
		}
	}
	var sum hash.Hash
	err = s.Store.Snapshot(ctx, func(size int64) (io.Writer, error) {
		sum = sha256.New()
		return io.MultiWriter(out.tar, sum), out.begin(StateName, size)
	})
	if err != nil {
		return err
	}
	out.note(StateName, sum.Sum(nil))
	if err := out.add(sumsName, out.sums); err != nil {
		return err
	}
	return out.tar.Close()
}

// writer writes the entries and keeps their sums.
type writer struct {
	tar  *tar.Writer
	now  time.Time
	sums []byte
}

func (w *writer) begin(name string, size int64) error {
	return w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: w.now})
}

func (w *writer) add(name string, data []byte) error {
	if err := w.begin(name, int64(len(data))); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	w.note(name, sum[:])
	_, err := w.tar.Write(data)
	return err
}

func (w *writer) note(name string, sum []byte) {
	w.sums = fmt.Appendf(w.sums, "%x  %s\n", sum, name)
}
