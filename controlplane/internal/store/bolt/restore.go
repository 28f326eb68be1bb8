package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Renew gives the store at path, which nobody has open, a new epoch, and makes
// it wait for an operator as a store restored from a backup of that time (zero:
// not known), without the records of store.Once. It returns what the store will
// say of itself.
func Renew(ctx context.Context, path string, backup time.Time) (*store.Restored, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err // Open would make one
	}
	s, err := Open(path, Options{})
	if err != nil {
		return nil, err
	}
	restored := &store.Restored{Epoch: s.epoch, Backup: backup, Restore: time.Now()}
	v, err := json.Marshal(restored)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	err = s.update(ctx, func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if err := tx.Bucket(recordsBucket).DeleteBucket([]byte(store.Once)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
		return errors.Join(meta.Put(epochKey, newEpoch()), meta.Put(restoredKey, v))
	})
	return restored, errors.Join(err, s.Close())
}

// Restored tells where the store comes from while it waits for an operator.
func (s *Store) Restored(ctx context.Context) (restored *store.Restored, err error) {
	err = s.view(ctx, func(tx *bolt.Tx) error {
		v := tx.Bucket(metaBucket).Get(restoredKey)
		if v == nil {
			return nil
		}
		restored = &store.Restored{}
		if err := json.Unmarshal(v, restored); err != nil {
			return fmt.Errorf("where the store comes from: %w", err)
		}
		return nil
	})
	return restored, err
}

// Confirm is an operator's word: the store no longer waits.
func (s *Store) Confirm(ctx context.Context) error {
	return s.update(ctx, func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Delete(restoredKey) })
}

// Snapshot hands the store as it is at one moment to a writer.
func (s *Store) Snapshot(ctx context.Context, begin func(size int64) (io.Writer, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.Snapshot(begin)
}
