// Package ledger is the one writer of every cluster's configuration. It
// validates changes in order, makes all that are queued durable in one
// transaction, and then publishes the new heads.
package ledger

import (
	"context"
	"errors"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"github.com/hashicorp/go-hclog"

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
	// ErrStopped means that the ledger takes no more changes.
	ErrStopped = errors.New("the controller is stopping")
)

// Options of a ledger.
type Options struct {
	// Logger; nil: none.
	Logger hclog.Logger
	// Passwords hashes statistics passwords; nil means state.Bcrypt.
	Passwords state.Passwords
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
	// one's, and Config is the current head.
	Repeated bool
}

// Ledger holds the heads of all clusters.
type Ledger struct{}

// Open reads all clusters from the store. The first time it makes the default
// cluster.
func Open(ctx context.Context, s store.Store, o Options) (*Ledger, error) { panic("not yet") }

// Run makes changes until ctx ends.
func (l *Ledger) Run(ctx context.Context) error { panic("not yet") }

// Clusters returns the ids of all clusters, sorted.
func (l *Ledger) Clusters() []string { panic("not yet") }

// Head returns a cluster's newest configuration. The error is a NotFound
// *state.Error.
func (l *Ledger) Head(cluster string) (*state.Config, error) { panic("not yet") }

// At returns a cluster's configuration at one of its last 64 revisions, for
// pages that must fit together. ErrRevisionGone for an older one.
func (l *Ledger) At(cluster string, revision uint64) (*state.Config, error) { panic("not yet") }

// Commit makes a change; it returns when the change is durable and published.
// Refusals are *state.Error. When ctx ends first, the change may be made or not.
func (l *Ledger) Commit(ctx context.Context, cluster string, r Request) (Result, error) {
	panic("not yet")
}

// CreateCluster makes a cluster. The request's Change is not used.
func (l *Ledger) CreateCluster(ctx context.Context, id string, x *tandemv1.Cluster, r Request) (Result, error) {
	panic("not yet")
}

// DeleteCluster removes a cluster that has no nodes. The request's Change is
// not used; the Config of the result is the one before.
func (l *Ledger) DeleteCluster(ctx context.Context, id, etag string, r Request) (Result, error) {
	panic("not yet")
}

// Revision returns one revision with its changes. ErrRevisionGone if it is not
// kept; a NotFound *state.Error if the cluster does not exist.
func (l *Ledger) Revision(ctx context.Context, cluster string, number uint64) (*tandemv1.Revision, error) {
	panic("not yet")
}

// Revisions lists at most limit revisions below before (0: the newest), the
// newest first. Their changes carry names only.
func (l *Ledger) Revisions(ctx context.Context, cluster string, before uint64, limit int) ([]*tandemv1.Revision, error) {
	panic("not yet")
}

// Subscription delivers the newest value: its channel holds one, and a newer
// one replaces what was not read. It is closed when there is nothing more to
// come.
type Subscription[T any] struct {
	// C delivers, first of all what is current.
	C <-chan T
	// Close ends the subscription. It may be called more than once.
	Close func()
}

// Subscribe delivers a cluster's newest configuration, now and after every
// change. C is closed when the cluster is deleted.
func (l *Ledger) Subscribe(cluster string) (*Subscription[*state.Config], error) { panic("not yet") }

// SubscribeClusters delivers the sorted ids of all clusters, now and whenever
// one is added or removed.
func (l *Ledger) SubscribeClusters() *Subscription[[]string] { panic("not yet") }
