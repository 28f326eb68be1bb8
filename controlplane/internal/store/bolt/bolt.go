// Package bolt is the store in one file, by bbolt.
package bolt

import (
	"context"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Store is a store.Store in one file.
type Store struct{}

// Options of a store; the zero value is good.
type Options struct {
	// KeepRevisions is how many revisions of a cluster are kept at least; 0
	// means 10,000.
	KeepRevisions uint64
}

var _ store.Store = (*Store)(nil)

// Open opens the store at path, and makes it if there is none.
func Open(path string, o Options) (*Store, error) { panic("not yet") }

func (s *Store) Epoch() string                                   { panic("not yet") }
func (s *Store) Heads(ctx context.Context) ([]store.Head, error) { panic("not yet") }
func (s *Store) Content(ctx context.Context, cluster string) (store.Head, state.Content, error) {
	panic("not yet")
}
func (s *Store) Commit(ctx context.Context, commits []store.Commit) error { panic("not yet") }
func (s *Store) Revision(ctx context.Context, cluster string, number uint64) (*tandemv1.Revision, error) {
	panic("not yet")
}
func (s *Store) Revisions(ctx context.Context, cluster string, q store.Query) ([]*tandemv1.Revision, error) {
	panic("not yet")
}
func (s *Store) Create(ctx context.Context, bucket, key string, value []byte) error { panic("not yet") }
func (s *Store) Put(ctx context.Context, bucket, key string, value []byte) error    { panic("not yet") }
func (s *Store) Get(ctx context.Context, bucket, key string) ([]byte, error)        { panic("not yet") }
func (s *Store) List(ctx context.Context, bucket string) (map[string][]byte, error) { panic("not yet") }
func (s *Store) Delete(ctx context.Context, bucket, key string) error               { panic("not yet") }
func (s *Store) Take(ctx context.Context, bucket, key string) ([]byte, error)       { panic("not yet") }
func (s *Store) Close() error                                                       { panic("not yet") }
