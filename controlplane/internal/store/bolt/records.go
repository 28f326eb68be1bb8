package bolt

import (
	"bytes"
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Create stores a new record.
func (s *Store) Create(ctx context.Context, bucket, key string, value []byte) error {
	return s.update(ctx, func(tx *bolt.Tx) error {
		b, err := tx.Bucket(recordsBucket).CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		if b.Get([]byte(key)) != nil {
			return fmt.Errorf("record %s/%s: %w", bucket, key, store.ErrExists)
		}
		return b.Put([]byte(key), value)
	})
}

// Put stores a record, replacing what was there.
func (s *Store) Put(ctx context.Context, bucket, key string, value []byte) error {
	return s.update(ctx, func(tx *bolt.Tx) error {
		b, err := tx.Bucket(recordsBucket).CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), value)
	})
}

// Get returns a record.
func (s *Store) Get(ctx context.Context, bucket, key string) ([]byte, error) {
	var out []byte
	err := s.view(ctx, func(tx *bolt.Tx) error {
		v, err := record(tx, bucket, key)
		out = v
		return err
	})
	return out, err
}

// List returns all records of a bucket.
func (s *Store) List(ctx context.Context, bucket string) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := s.view(ctx, func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			out[string(k)] = bytes.Clone(v)
			return nil
		})
	})
	return out, err
}

// Delete removes a record.
func (s *Store) Delete(ctx context.Context, bucket, key string) error {
	return s.update(ctx, func(tx *bolt.Tx) error {
		if _, err := record(tx, bucket, key); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).Bucket([]byte(bucket)).Delete([]byte(key))
	})
}

// Swap puts value in place of old.
func (s *Store) Swap(ctx context.Context, bucket, key string, old, value []byte) error {
	return s.update(ctx, func(tx *bolt.Tx) error {
		now, err := record(tx, bucket, key)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, old) {
			return fmt.Errorf("record %s/%s has changed: %w", bucket, key, store.ErrConflict)
		}
		return tx.Bucket(recordsBucket).Bucket([]byte(bucket)).Put([]byte(key), value)
	})
}

// record returns a copy of a record that outlives the transaction.
func record(tx *bolt.Tx, bucket, key string) ([]byte, error) {
	if b := tx.Bucket(recordsBucket).Bucket([]byte(bucket)); b != nil {
		if v := b.Get([]byte(key)); v != nil {
			return bytes.Clone(v), nil
		}
	}
	return nil, fmt.Errorf("record %s/%s: %w", bucket, key, store.ErrNotFound)
}
