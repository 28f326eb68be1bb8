// Package store keeps what must survive: the revisions of every cluster, what
// each cluster is at its head, and small records such as tokens.
package store

import (
	"context"
	"errors"
	"io"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

var (
	// ErrNotFound means that there is no such cluster, revision or record.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a cluster's head is not where the commit expects it,
	// or a record not what a swap expects.
	ErrConflict = errors.New("the head has moved")
	// ErrExists means that a record to create exists.
	ErrExists = errors.New("exists")
	// ErrNotWritable means that a change could not be made durable, say because
	// the disk is full. It is absent or whole, and Settle tells which.
	ErrNotWritable = errors.New("the store could not be written")
)

// Once is the bucket of records that are good for one use. A restored store has
// none of them: since the backup they may have been used.
const Once = "join-tokens"

// Restored is where a restored store comes from.
type Restored struct {
	// Epoch of the store that the backup was made of.
	Epoch string `json:"epoch"`
	// Backup is when the backup was made; zero if that is not known.
	Backup time.Time `json:"backup,omitzero"`
	// Restore is when it was restored.
	Restore time.Time `json:"restore"`
}

// Head is where a cluster is.
type Head struct {
	// Cluster is the cluster's id.
	Cluster string
	// Revision is the number of the last revision.
	Revision uint64
	// Deleted tells that the last revision removed the cluster. Its head stays,
	// so that a new cluster of the same name continues the numbers.
	Deleted bool
}

// Commit is one revision to make durable.
type Commit struct {
	// Cluster is the cluster's id.
	Cluster string
	// Base is the revision that the head must be at; 0 for a new cluster.
	Base uint64
	// Revision carries the number (above Base), who, when and what has changed.
	// The content of the cluster follows from the changes: an After replaces
	// the resource of that name, none removes it.
	Revision *tandemv1.Revision
	// Secrets that changed, by reference; "" removes one.
	Secrets map[string]string
	// Counters as they are now.
	Counters state.Counters
	// Deleted tells that the cluster is no more.
	Deleted bool
}

// Query says which revisions to list.
type Query struct {
	// Before is the number that those listed are below; 0: the newest.
	Before uint64
	// Limit is how many to list at most; 0: all.
	Limit int
	// NoChanges leaves the names of what changed out.
	NoChanges bool
}

// Store is a durable store. What a method has returned without an error is on
// disk. Methods may be called from any goroutine.
type Store interface {
	// Epoch was minted when the store was made or restored.
	Epoch() string
	// Restored tells where a restored store comes from while it waits for an
	// operator's word; nil: it does not.
	Restored(ctx context.Context) (*Restored, error)
	// Confirm is an operator's word: the store no longer waits.
	Confirm(ctx context.Context) error
	// Snapshot hands the store as it is at one moment to the writer that begin
	// returns, and delays no commit. begin is told the size, in bytes.
	Snapshot(ctx context.Context, begin func(size int64) (io.Writer, error)) error
	// Heads lists all clusters, the deleted ones too, sorted by id.
	Heads(ctx context.Context) ([]Head, error)
	// Content returns what a cluster is at its head. ErrNotFound if there is no
	// such cluster or it is deleted.
	Content(ctx context.Context, cluster string) (Head, state.Content, error)
	// Commit makes revisions durable, all of them or none, in order; several of
	// one cluster build on each other. ErrConflict if a head is not at its Base.
	Commit(ctx context.Context, commits []Commit) error
	// Revision returns a revision with its changes. ErrNotFound if there is none
	// or it is no longer kept.
	Revision(ctx context.Context, cluster string, number uint64) (*tandemv1.Revision, error)
	// Revisions lists revisions, the newest first. Their changes carry names only.
	Revisions(ctx context.Context, cluster string, q Query) ([]*tandemv1.Revision, error)

	// Settle makes certain what is durable after ErrNotWritable: what is read
	// from then on is on disk. It costs nothing otherwise. ErrNotWritable while
	// the store still cannot be written.
	Settle(ctx context.Context) error

	Records

	// Close ends the store; it waits for what is under way.
	Close() error
}

// Records are small values by bucket and key, such as hashed tokens. A bucket
// exists once something was put into it.
type Records interface {
	// Create stores a new record. ErrExists if the key is taken.
	Create(ctx context.Context, bucket, key string, value []byte) error
	// Put stores a record, replacing what was there.
	Put(ctx context.Context, bucket, key string, value []byte) error
	// Get returns a record. ErrNotFound if there is none.
	Get(ctx context.Context, bucket, key string) ([]byte, error)
	// List returns all records of a bucket by key; none if there is no bucket.
	List(ctx context.Context, bucket string) (map[string][]byte, error)
	// Delete removes a record. ErrNotFound if there is none.
	Delete(ctx context.Context, bucket, key string) error
	// Swap puts value in place of old, in one step: of many callers with the same
	// old one succeeds. ErrConflict if the record is not old, ErrNotFound if
	// there is none.
	Swap(ctx context.Context, bucket, key string, old, value []byte) error
}
