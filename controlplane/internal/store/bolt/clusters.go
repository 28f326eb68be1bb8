package bolt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/crash"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

var (
	headKey         = []byte("head")
	resourcesBucket = []byte("resources")
	secretsBucket   = []byte("secrets")
	revisionsBucket = []byte("revisions")
	changesBucket   = []byte("changes")
)

// head is where a cluster is, as stored.
type head struct {
	Revision uint64         `json:"revision"`
	Deleted  bool           `json:"deleted,omitempty"`
	Counters state.Counters `json:"counters"`
}

// cluster is a cluster's bucket within a transaction.
type cluster struct {
	*bolt.Bucket
	head head
}

// open returns a cluster's bucket. store.ErrNotFound if there is none.
func open(tx *bolt.Tx, id string) (*cluster, error) {
	b := tx.Bucket(clustersBucket).Bucket([]byte(id))
	if b == nil {
		return nil, fmt.Errorf("cluster %q: %w", id, store.ErrNotFound)
	}
	c := &cluster{Bucket: b}
	if err := json.Unmarshal(b.Get(headKey), &c.head); err != nil {
		return nil, fmt.Errorf("head of cluster %q: %w", id, err)
	}
	return c, nil
}

// create makes the bucket of a new cluster.
func create(tx *bolt.Tx, id string) (*cluster, error) {
	b, err := tx.Bucket(clustersBucket).CreateBucket([]byte(id))
	if err != nil {
		return nil, err
	}
	for _, name := range [][]byte{resourcesBucket, secretsBucket, revisionsBucket, changesBucket} {
		if _, err := b.CreateBucket(name); err != nil {
			return nil, err
		}
	}
	return &cluster{Bucket: b}, nil
}

// Heads lists all clusters, the deleted ones too, sorted by id.
func (s *Store) Heads(ctx context.Context) ([]store.Head, error) {
	var out []store.Head
	err := s.view(ctx, func(tx *bolt.Tx) error {
		return tx.Bucket(clustersBucket).ForEachBucket(func(id []byte) error {
			c, err := open(tx, string(id))
			if err != nil {
				return err
			}
			out = append(out, store.Head{Cluster: string(id), Revision: c.head.Revision, Deleted: c.head.Deleted})
			return nil
		})
	})
	return out, err
}

// Content returns what a cluster is at its head.
func (s *Store) Content(ctx context.Context, id string) (store.Head, state.Content, error) {
	var h store.Head
	content := state.Content{Secrets: map[string]string{}}
	err := s.view(ctx, func(tx *bolt.Tx) error {
		c, err := open(tx, id)
		if err != nil {
			return err
		}
		if c.head.Deleted {
			return fmt.Errorf("cluster %q is deleted: %w", id, store.ErrNotFound)
		}
		h = store.Head{Cluster: id, Revision: c.head.Revision}
		content.Counters = c.head.Counters
		err = c.Bucket.Bucket(resourcesBucket).ForEach(func(name, v []byte) error {
			r := &tandemv1.Resource{}
			if err := proto.Unmarshal(v, r); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			content.Resources = append(content.Resources, r)
			return nil
		})
		if err != nil {
			return err
		}
		return c.Bucket.Bucket(secretsBucket).ForEach(func(ref, v []byte) error {
			content.Secrets[string(ref)] = string(v)
			return nil
		})
	})
	return h, content, err
}

// Commit makes revisions durable, all of them or none.
func (s *Store) Commit(ctx context.Context, commits []store.Commit) error {
	return s.update(ctx, func(tx *bolt.Tx) error {
		for _, k := range commits {
			if err := s.commit(tx, k); err != nil {
				return fmt.Errorf("commit revision %d of cluster %q: %w", k.Revision.GetNumber(), k.Cluster, err)
			}
		}
		crash.InTransaction.Pass()
		return nil
	})
}

func (s *Store) commit(tx *bolt.Tx, k store.Commit) error {
	number := k.Revision.GetNumber()
	if number <= k.Base {
		return fmt.Errorf("number %d is not above its base %d", number, k.Base)
	}
	c, err := open(tx, k.Cluster)
	if k.Base == 0 && errors.Is(err, store.ErrNotFound) {
		c, err = create(tx, k.Cluster)
	}
	if err != nil {
		return err
	}
	if c.head.Revision != k.Base {
		return fmt.Errorf("%w: it is at %d, not %d", store.ErrConflict, c.head.Revision, k.Base)
	}
	if err := c.write(k.Revision); err != nil {
		return err
	}
	for ref, secret := range k.Secrets {
		if err := set(c.Bucket.Bucket(secretsBucket), []byte(ref), []byte(secret)); err != nil {
			return err
		}
	}
	if err := c.prune(number, s.keep, len(k.Revision.GetChanges())); err != nil {
		return err
	}
	h, err := json.Marshal(head{Revision: number, Deleted: k.Deleted, Counters: k.Counters})
	if err != nil {
		return err
	}
	return c.Put(headKey, h)
}

// write adds a revision to the log and its changes to the content.
func (c *cluster) write(r *tandemv1.Revision) error {
	resources, changes := c.Bucket.Bucket(resourcesBucket), c.Bucket.Bucket(changesBucket)
	for _, change := range r.GetChanges() {
		v, err := proto.Marshal(change)
		if err != nil {
			return fmt.Errorf("%s: %w", change.GetName(), err)
		}
		if err := changes.Put(changeKey(r.GetNumber(), change.GetName()), v); err != nil {
			return fmt.Errorf("%s: %w", change.GetName(), err)
		}
		var after []byte
		if change.GetAfter() != nil {
			if after, err = proto.Marshal(change.GetAfter()); err != nil {
				return fmt.Errorf("%s: %w", change.GetName(), err)
			}
		}
		if err := set(resources, []byte(change.GetName()), after); err != nil {
			return fmt.Errorf("%s: %w", change.GetName(), err)
		}
	}
	v, err := proto.Marshal(&tandemv1.Revision{
		Name: r.GetName(), Epoch: r.GetEpoch(), Number: r.GetNumber(), Author: r.GetAuthor(),
		CreateTime: r.GetCreateTime(), Message: r.GetMessage(), RequestId: r.GetRequestId(),
	})
	if err != nil {
		return err
	}
	return c.Bucket.Bucket(revisionsBucket).Put(numberKey(r.GetNumber()), v)
}

// set puts a value, or deletes the key if the value is empty.
func set(b *bolt.Bucket, key, value []byte) error {
	if len(value) == 0 {
		return b.Delete(key)
	}
	return b.Put(key, value)
}

// prune removes revisions that are too old. It removes no more than somewhat
// above what the commit adds, so that a big old revision does not delay it.
func (c *cluster) prune(number, keep uint64, added int) error {
	if number <= keep {
		return nil
	}
	floor := numberKey(number - keep) // the newest to remove
	for _, name := range [][]byte{revisionsBucket, changesBucket} {
		cur := c.Bucket.Bucket(name).Cursor()
		k, _ := cur.First()
		for range 2*added + 64 {
			if k == nil || string(k[:8]) > string(floor) {
				break
			}
			if err := cur.Delete(); err != nil {
				return err
			}
			k, _ = cur.First()
		}
	}
	return nil
}

func numberKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func changeKey(number uint64, name string) []byte { return append(numberKey(number), name...) }
