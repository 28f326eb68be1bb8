package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/target"
)

// ErrNothing means that no target has ever come to this node.
var ErrNothing = errors.New("this node has no configuration yet")

// bare is no overlay.
type bare struct{}

// Over returns t.
func (bare) Over(t *target.Target) *target.Target { return t }

// Settle has nothing to settle.
func (bare) Settle(*target.Target) {}

// Base is the target that the overlay lies on: the one in effect, or the newest
// one where none is; nil when there is none at all.
func (r *Reconciler) Base() *target.Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.applied != nil:
		return r.applied
	case len(r.recent) > 0:
		return r.recent[len(r.recent)-1]
	default:
		return r.Good
	}
}

// Again puts the base in effect anew, after the overlay has changed, and returns
// when it is. What fails is tried again, as a target is. ErrNothing when there
// is no base.
func (r *Reconciler) Again(ctx context.Context) error {
	if r.Base() == nil {
		return ErrNothing
	}
	done := make(chan error, 1)
	select {
	case r.again <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// renew puts the base in effect. newest is the target that could not be put in
// effect, nil when there is none: its servers and its drain count, not older ones.
func (r *Reconciler) renew(ctx context.Context, newest *target.Target) (job, error) {
	j := job{target: r.Base(), since: time.Now()}
	if newest != nil {
		j.target = j.target.WithRuntimeOf(newest)
	}
	_, err := r.put(ctx, j)
	if err != nil {
		r.Logger.Error("a local change is not in effect", "error", err)
	}
	return j, err
}
