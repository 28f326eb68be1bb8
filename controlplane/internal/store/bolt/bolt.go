// Package bolt is the store in one file, by bbolt: one transaction and one
// fsync a commit.
package bolt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/tandem-lb/tandem/controlplane/internal/boltfile"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// format is the version of the file's layout:
//
//	meta      format, epoch; restored: JSON of store.Restored, while it waits
//	clusters  one bucket a cluster:
//	  head       JSON of head
//	  resources  name → tandem.v1.Resource
//	  secrets    reference → secret
//	  revisions  number → tandem.v1.Revision without changes
//	  changes    number, name → tandem.v1.Change
//	records   one bucket a bucket of records: key → value
//
// Numbers are big-endian, so that keys are in their order.
const format = "1"

var (
	metaBucket     = []byte("meta")
	clustersBucket = []byte("clusters")
	recordsBucket  = []byte("records")

	formatKey = []byte("format")
	epochKey  = []byte("epoch")

	restoredKey = []byte("restored")
)

// Options of a store; the zero value is good.
type Options struct {
	// KeepRevisions is how many revisions of a cluster are kept; 0 means 10,000.
	KeepRevisions uint64
}

// Store is a store.Store in one file. Close it before another process opens
// the file.
type Store struct {
	db    *boltfile.File
	epoch string
	keep  uint64
}

var _ store.Store = (*Store)(nil)

// Open opens the store at path, and makes it if there is none. It fails when
// another process has it open, or when a newer version has made it.
func Open(path string, o Options) (*Store, error) {
	if o.KeepRevisions == 0 {
		o.KeepRevisions = 10_000
	}
	db, err := boltfile.Open(path, prepare)
	if errors.Is(err, boltfile.ErrInUse) {
		return nil, fmt.Errorf("store %s: %w: only one controller may use a data directory", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	s := &Store{db: db, keep: o.KeepRevisions}
	if err := db.View(s.identify); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	return s, nil
}

// prepare makes the buckets of a new file and mints its epoch.
func prepare(tx *bolt.Tx) error {
	for _, b := range [][]byte{metaBucket, clustersBucket, recordsBucket} {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	meta := tx.Bucket(metaBucket)
	return errors.Join(meta.Put(formatKey, []byte(format)), meta.Put(epochKey, newEpoch()))
}

// identify reads what the file is. It writes nothing: a full disk keeps no
// controller from starting.
func (s *Store) identify(tx *bolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return errors.New("it is no store of a controller")
	}
	if v := meta.Get(formatKey); string(v) != format {
		return fmt.Errorf("it has format %q and this controller knows %q: use the version that made it", v, format)
	}
	s.epoch = string(meta.Get(epochKey))
	return nil
}

func newEpoch() []byte {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return fmt.Appendf(nil, "%x", b)
}

// Epoch was minted when the file was made.
func (s *Store) Epoch() string { return s.epoch }

// Close ends the store; it waits for what is under way.
func (s *Store) Close() error { return s.db.Close() }

// view runs fn in a transaction that reads.
func (s *Store) view(ctx context.Context, fn func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(fn)
}

// update runs fn in a transaction that is durable when update returns nil. The
// error is fn's own, or store.ErrNotWritable.
func (s *Store) update(ctx context.Context, fn func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return notWritable(s.db.Update(fn))
}

// Settle makes certain what is durable after a change has failed.
func (s *Store) Settle(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return notWritable(s.db.Settle())
}

func notWritable(err error) error {
	if failed, ok := errors.AsType[*boltfile.NotWritableError](err); ok {
		return fmt.Errorf("%w: %w", store.ErrNotWritable, failed)
	}
	return err
}
