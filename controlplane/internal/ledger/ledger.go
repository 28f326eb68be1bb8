// Package ledger is the one writer of every cluster's configuration. It
// validates changes in order, makes all that are queued durable in one
// transaction, and then publishes the new heads.
package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// DefaultCluster is the cluster that exists from the first start.
const DefaultCluster = "default"

// Controller is the author of changes that nobody asked for, such as the end
// of an override.
const Controller = "controller"

var (
	// ErrRevisionGone means that a revision is no longer kept, or is yet to come.
	ErrRevisionGone = errors.New("the revision is not kept")
	// ErrWaiting means that the store was restored and waits for an operator.
	ErrWaiting = errors.New("the controller was restored from a backup and waits for an operator: look at \"lbctl status\", then let it go on with \"lbctl restore confirm\"")
	// ErrNotWaiting means that there is nothing to confirm.
	ErrNotWaiting = errors.New("the controller does not wait: nothing was restored, or it is confirmed")
	// ErrStopped means that the ledger takes no more changes.
	ErrStopped = errors.New("the controller is stopping")
)

// Options of a ledger.
type Options struct {
	// Logger; nil: none.
	Logger hclog.Logger
	// Passwords hashes statistics passwords; nil means state.Bcrypt.
	Passwords state.Passwords
	// Announce, if given, is told of revisions that nobody asked for, such as the
	// end of an override. It must not block.
	Announce func(cluster string, r *tandemv1.Revision)
	// Ports are those that this controller listens on. Clusters that have a node
	// on its machine cannot have them.
	Ports []state.Reserved
}

// Request is a change that somebody asks for.
type Request struct {
	// Change to make.
	Change state.Change
	// Author is the operator.
	Author string
	// Message is the operator's note for the revision.
	Message string
	// RequestID, if not empty, makes a repeated request of the same author
	// return the first one's result.
	RequestID string
	// ValidateOnly checks the change and makes none.
	ValidateOnly bool
}

// Result of a request.
type Result struct {
	// Revision that the request made, or would make if it is ValidateOnly; nil:
	// nothing has changed.
	Revision *tandemv1.Revision
	// Config with the change.
	Config *state.Config
	// Repeated tells that the request id was seen before: Revision is the first
	// one's, and Config is the current head, which is Deleted when the cluster is.
	Repeated bool
}

// Ledger holds the heads of all clusters. Its methods may be called from any
// goroutine; one goroutine, that of Run, makes the changes.
type Ledger struct {
	store     store.Store
	log       hclog.Logger
	passwords state.Passwords
	announce  func(cluster string, r *tandemv1.Revision)

	queue chan *job
	pulse chan struct{} // taken by Run, for Alive
	done  chan struct{} // closed when Run has returned
	gate

	beside // where this controller is

	writer // owned by Run, and by Open before it
	board  // what is published
}

// Open reads all clusters from the store. The first time it makes the default
// cluster.
func Open(ctx context.Context, s store.Store, o Options) (*Ledger, error) {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Announce == nil {
		o.Announce = func(string, *tandemv1.Revision) {}
	}
	l := &Ledger{
		store: s, log: o.Logger, passwords: o.Passwords, announce: o.Announce,
		queue: make(chan *job), pulse: make(chan struct{}), done: make(chan struct{}), gate: gate{confirmed: make(chan struct{})},
		beside: beside{ports: o.Ports, nodes: map[string]map[string]string{}},
		writer: writer{ended: map[string]uint64{}, requests: map[string]*requests{}},
		board:  board{clusters: map[string]*published{}, lists: map[chan []string]bool{}},
	}
	restored, err := s.Restored(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	l.begin(restored)
	heads, err := s.Heads(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the clusters: %w", err)
	}
	for _, h := range heads {
		if err := l.load(ctx, h); err != nil {
			return nil, err
		}
	}
	if len(heads) == 0 {
		first := &job{cluster: DefaultCluster, creates: true, Request: Request{
			Change: state.CreateCluster(nil), Author: Controller, Message: "first start"}}
		if l.carryOut(ctx, []*job{first}); first.err != nil {
			return nil, fmt.Errorf("make cluster %q: %w", DefaultCluster, first.err)
		}
	}
	return l, nil
}

// load reads one cluster from the store.
func (l *Ledger) load(ctx context.Context, h store.Head) error {
	revisions, err := l.store.Revisions(ctx, h.Cluster, store.Query{Limit: keepRequests, NoChanges: true})
	if err != nil {
		return fmt.Errorf("read the revisions of cluster %q: %w", h.Cluster, err)
	}
	l.requests[h.Cluster] = newRequests(revisions)
	if h.Deleted {
		l.ended[h.Cluster] = h.Revision
		return nil
	}
	at, content, err := l.store.Content(ctx, h.Cluster)
	if err != nil {
		return fmt.Errorf("read cluster %q: %w", h.Cluster, err)
	}
	c, err := state.Load(h.Cluster, l.store.Epoch(), at.Revision, content)
	if err != nil {
		return err
	}
	l.publish([]*state.Config{c})
	return nil
}

// Commit makes a change; it returns when the change is durable and published.
// Refusals are *state.Error. When ctx ends first, the change may be made or not.
func (l *Ledger) Commit(ctx context.Context, cluster string, r Request) (Result, error) {
	return l.submit(ctx, &job{cluster: cluster, Request: r})
}

// CreateCluster makes a cluster. The request's Change is not used.
func (l *Ledger) CreateCluster(ctx context.Context, id string, x *tandemv1.Cluster, r Request) (Result, error) {
	r.Change = state.CreateCluster(x)
	return l.submit(ctx, &job{cluster: id, creates: true, Request: r})
}

// DeleteCluster removes a cluster that has no nodes; the Config of the result
// is Deleted. The request's Change is not used.
func (l *Ledger) DeleteCluster(ctx context.Context, id, etag string, r Request) (Result, error) {
	r.Change = state.DeleteCluster(etag)
	return l.submit(ctx, &job{cluster: id, Request: r})
}

// Alive returns when the goroutine that makes changes is ready for one.
func (l *Ledger) Alive(ctx context.Context) error {
	select {
	case l.pulse <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return ErrStopped
	}
}

// Epoch is the store's: revisions compare within one epoch only.
func (l *Ledger) Epoch() string { return l.store.Epoch() }

// submit hands a job to the writer and waits until it is done.
func (l *Ledger) submit(ctx context.Context, j *job) (Result, error) {
	if err := l.Ready(); err != nil && !j.ValidateOnly {
		return Result{}, err
	}
	j.finished = make(chan struct{})
	select { // the queue has no buffer: who leaves it is not served
	case l.queue <- j:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case <-l.done:
		return Result{}, ErrStopped
	}
	select {
	case <-j.finished: // Run finishes all that it has taken
		return j.result, j.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Revision returns one revision with its changes. ErrRevisionGone if it is not
// kept; a NotFound *state.Error if the cluster does not exist.
func (l *Ledger) Revision(ctx context.Context, cluster string, number uint64) (*tandemv1.Revision, error) {
	if _, err := l.Head(cluster); err != nil {
		return nil, err
	}
	r, err := l.store.Revision(ctx, cluster, number)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("revision %d of cluster %q: %w", number, cluster, ErrRevisionGone)
	}
	return r, err
}

// Revisions lists at most limit revisions below before (0: the newest), the
// newest first. Their changes carry names only.
func (l *Ledger) Revisions(ctx context.Context, cluster string, before uint64, limit int) ([]*tandemv1.Revision, error) {
	if _, err := l.Head(cluster); err != nil {
		return nil, err
	}
	return l.store.Revisions(ctx, cluster, store.Query{Before: before, Limit: limit})
}
