package fleet

import (
	"context"
	"errors"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heartbeat is how long a status watch is silent at most.
const heartbeat = 10 * time.Second

// maxQueued bounds the names that wait for one watcher beyond those that
// exist: a reader that never reads while names come and go is cut off.
const maxQueued = 1 << 16

// Errors of a status watch.
var (
	// ErrSlow means that a watcher fell so far behind that it must start anew.
	ErrSlow = errors.New("the watch fell too far behind: start it again")
	// ErrClosed means that the cluster was deleted, or that the controller
	// ends.
	ErrClosed = errors.New("the cluster is no longer served here")
)

// kind is what a step of a status watch tells of. Steps at the start come in
// this order.
type kind uint8

const (
	kindDesired kind = iota
	kindNode
	kindVip
	kindBackend
	kindAlarm
	kindSynced
)

// key names one thing whose state a watch follows.
type key struct {
	kind kind
	name string
}

// Watcher follows the status of one cluster. It holds names, not messages:
// Next renders the newest state of the name whose turn it is, so that a slow
// reader skips states and never blocks anyone.
type Watcher struct {
	cluster *cluster
	wake    mailbox[struct{}]

	// Guarded by the cluster's lock.
	queue  []key
	queued map[key]struct{}
	first  bool
	err    error
}

// enqueue notes that k has a new state. The cluster's lock is held.
func (w *Watcher) enqueue(k key, limit int) {
	if _, waits := w.queued[k]; waits || w.err != nil {
		return
	}
	if len(w.queue) >= limit {
		w.fail(ErrSlow)
		return
	}
	w.queued[k] = struct{}{}
	w.queue = append(w.queue, k)
	w.wake.put(struct{}{})
}

// fail ends the watch with err. The cluster's lock is held.
func (w *Watcher) fail(err error) {
	if w.err != nil {
		return
	}
	w.err = err
	w.queue, w.queued = nil, nil
	delete(w.cluster.watchers, w)
	w.wake.put(struct{}{})
}

// Next returns the next step and blocks until there is one, ctx ends or
// heartbeat passes, which is a step as well. One goroutine calls it. The
// message is shared: the caller must not change it.
func (w *Watcher) Next(ctx context.Context) (*tandemv1.WatchStatusResponse, error) {
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	for {
		if m, err := w.take(); m != nil || err != nil {
			return m, err
		}
		select {
		case <-w.wake:
		case <-timer.C:
			return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Heartbeat{Heartbeat: true}}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns the step whose turn it is, nil if there is none.
func (w *Watcher) take() (*tandemv1.WatchStatusResponse, error) {
	c := w.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	if len(w.queue) == 0 {
		return nil, nil
	}
	k := w.queue[0]
	w.queue = w.queue[1:]
	delete(w.queued, k)
	m := c.describe(k)
	if w.first {
		w.first = false
		m.Epoch = c.head.Epoch()
	}
	return m, nil
}

// watch starts a watch: everything that is, then synced, then what changes.
func (c *cluster) watch(ctx context.Context) (*Watcher, error) {
	w := &Watcher{cluster: c, wake: newMailbox[struct{}](), queued: make(map[key]struct{}), first: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	w.queue = append(c.keys(), key{kind: kindSynced})
	for _, k := range w.queue {
		w.queued[k] = struct{}{}
	}
	c.watchers[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		w.fail(context.Cause(ctx))
	})
	return w, nil
}

// mark tells all watchers that k has a new state. The lock is held.
func (c *cluster) mark(k key) {
	if k.kind == kindBackend {
		delete(c.rendered, k.name)
	}
	for w := range c.watchers {
		w.enqueue(k, c.live+maxQueued)
	}
}
