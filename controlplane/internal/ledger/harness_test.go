package ledger

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

// watched is a store that counts commits and does with them what a test says.
type watched struct {
	store.Store
	commits    atomic.Int64
	before     atomic.Pointer[func() error]
	afterwards atomic.Bool // before runs after the commit: what it refuses is stored
}

// intercept makes fn run before each commit; nil: nothing does.
func (w *watched) intercept(fn func() error) {
	if fn == nil {
		w.before.Store(nil)
		return
	}
	w.before.Store(&fn)
}

func (w *watched) Commit(ctx context.Context, commits []store.Commit) error {
	w.commits.Add(1)
	if w.afterwards.Load() {
		if err := w.Store.Commit(ctx, commits); err != nil {
			return err
		}
	}
	if before := w.before.Load(); before != nil {
		if err := (*before)(); err != nil {
			return err
		}
	}
	if w.afterwards.Load() {
		return nil
	}
	return w.Store.Commit(ctx, commits)
}

// running is a ledger whose writer runs.
type running struct {
	*Ledger
	t     *testing.T
	path  string
	store *watched
	stop  func()
	mu    sync.Mutex
	told  []*tandemv1.Revision // that nobody asked for
}

func (r *running) announced(_ string, revision *tandemv1.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, revision)
}

// heard are the revisions that were announced until now.
func (r *running) heard() []*tandemv1.Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

func start(t *testing.T, path string) *running {
	t.Helper()
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, path: path, store: &watched{Store: db}}
	if r.Ledger, err = Open(context.Background(), r.store, Options{Announce: r.announced}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, db.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func fresh(t *testing.T) *running {
	t.Helper()
	return start(t, filepath.Join(t.TempDir(), "store.db"))
}

func (r *running) restart() *running {
	r.t.Helper()
	r.stop()
	return start(r.t, r.path)
}

// commit makes a change that must succeed.
func (r *running) commit(q Request) Result {
	r.t.Helper()
	res, err := r.Commit(context.Background(), DefaultCluster, q)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *running) head() *state.Config {
	r.t.Helper()
	c, err := r.Head(DefaultCluster)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// refused returns the code of the error that must be a *state.Error.
func (r *running) refused(err error) state.Code {
	r.t.Helper()
	var se *state.Error
	if !errors.As(err, &se) {
		r.t.Fatalf("got %v, want a *state.Error", err)
	}
	return se.Code
}

func pool(id string) Request { return Request{Change: state.CreatePool(id, nil), Author: "alice"} }

func backend(pool, id, address string) Request {
	return Request{Author: "alice", Change: state.CreateBackend(pool, id, &tandemv1.Backend{Address: address, Port: 80})}
}
