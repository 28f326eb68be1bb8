package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Revision returns a revision with its changes.
func (s *Store) Revision(ctx context.Context, id string, number uint64) (*tandemv1.Revision, error) {
	var out *tandemv1.Revision
	err := s.view(ctx, func(tx *bolt.Tx) error {
		c, err := open(tx, id)
		if err != nil {
			return err
		}
		v := c.Bucket.Bucket(revisionsBucket).Get(numberKey(number))
		if v == nil {
			return fmt.Errorf("revision %d of cluster %q: %w", number, id, store.ErrNotFound)
		}
		out = &tandemv1.Revision{}
		if err := proto.Unmarshal(v, out); err != nil {
			return fmt.Errorf("revision %d of cluster %q: %w", number, id, err)
		}
		return c.changes(number, func(name string, v []byte) error {
			change := &tandemv1.Change{}
			if err := proto.Unmarshal(v, change); err != nil {
				return fmt.Errorf("%s in revision %d: %w", name, number, err)
			}
			out.Changes = append(out.Changes, change)
			return nil
		})
	})
	return out, err
}

// Revisions lists revisions, the newest first, with the names of what changed.
func (s *Store) Revisions(ctx context.Context, id string, q store.Query) ([]*tandemv1.Revision, error) {
	var out []*tandemv1.Revision
	err := s.view(ctx, func(tx *bolt.Tx) error {
		c, err := open(tx, id)
		if err != nil {
			return err
		}
		cur := c.Bucket.Bucket(revisionsBucket).Cursor()
		for k, v := newest(cur, q.Before); k != nil && (q.Limit == 0 || len(out) < q.Limit); k, v = cur.Prev() {
			r := &tandemv1.Revision{}
			if err := proto.Unmarshal(v, r); err != nil {
				return fmt.Errorf("revision %d of cluster %q: %w", binary.BigEndian.Uint64(k), id, err)
			}
			out = append(out, r)
			if q.NoChanges {
				continue
			}
			err := c.changes(r.GetNumber(), func(name string, _ []byte) error {
				r.Changes = append(r.Changes, &tandemv1.Change{Name: name})
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// newest moves to the newest revision below before; 0: of all.
func newest(cur *bolt.Cursor, before uint64) (k, v []byte) {
	if before == 0 {
		return cur.Last()
	}
	if k, _ := cur.Seek(numberKey(before)); k == nil {
		return cur.Last()
	}
	return cur.Prev()
}

// changes calls fn with each change of a revision, in order of the names.
func (c *cluster) changes(number uint64, fn func(name string, v []byte) error) error {
	prefix := numberKey(number)
	cur := c.Bucket.Bucket(changesBucket).Cursor()
	for k, v := cur.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cur.Next() {
		if err := fn(string(k[len(prefix):]), v); err != nil {
			return err
		}
	}
	return nil
}
