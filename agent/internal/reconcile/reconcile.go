// Package reconcile makes a node's daemons do what its target says, one target
// after the other: durable as a candidate, put in effect, confirmed, durable as
// good. What cannot be put in effect leaves the good one serving.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Proxy is the HAProxy driver.
type Proxy interface {
	Apply(ctx context.Context, c *haproxyv1.Config) (haproxy.Result, error)
	Check(ctx context.Context, c *haproxyv1.Config) error
	// RunsOther tells whether HAProxy runs, and something else than that.
	RunsOther(ctx context.Context, c *haproxyv1.Config) (bool, error)
}

// VRRP is the keepalived driver.
type VRRP interface {
	Apply(ctx context.Context, c *keepalivedv1.Config) (keepalived.Result, error)
	Check(ctx context.Context, c *keepalivedv1.Config) error
	// Drained tells whether the node is drained now.
	Drained() bool
	// Watch is told what the node is to have, whatever becomes of it.
	Watch(ctx context.Context, c *keepalivedv1.Config) error
}

// Store keeps targets on disk; see package cache.
type Store interface {
	Candidate(c *agentv1.NodeConfig) error
	Promote() error
	Append(change *agentv1.Update) error
	Long() bool
}

// Overlay is what lies on top of every target: what operators have changed on
// the node itself.
type Overlay interface {
	// Over returns what is to be in effect for a target.
	Over(t *target.Target) *target.Target
	// Settle is told of a target that is in effect.
	Settle(t *target.Target)
}

// Outcome is what became of a target.
type Outcome struct {
	Nonce    string
	Target   *target.Target
	Err      error         // nil: the target is in effect, confirmed
	Refused  bool          // a daemon's checker said no
	Reloaded bool          // HAProxy was reloaded for it
	Duration time.Duration // from Submit to confirmation
}

// Options of a Reconciler.
type Options struct {
	Proxy Proxy
	VRRP  VRRP
	Store Store
	// Overlay; nil: none.
	Overlay Overlay
	Good    *target.Target // the last good one from disk; nil: none
	// Behind tells that Good lacks newer changes that were in effect.
	Behind bool
	Logger hclog.Logger
	// Problem tells what keeps the newest target from being in effect, "" when
	// nothing does. It must not block.
	Problem func(text string)
	// Unsaved tells why what is in effect would not survive a reboot of the
	// node, "" when it would. It must not block.
	Unsaved func(text string)
}

// Retry delays for a target that could not be put in effect.
const (
	minRetry = 500 * time.Millisecond
	maxRetry = 30 * time.Second
)

// restAfter is how long after the last target what it took to put it in effect is given
// back to the machine. An agent that has nothing to do makes hardly any garbage, and would
// keep it for the two minutes until the runtime looks by itself.
const restAfter = 2 * time.Second

// Reconciler applies targets. Run's goroutine does all the work; the other
// methods are safe for concurrent use and do not block.
type Reconciler struct {
	Options
	mailbox  chan job // depth one, the newest
	again    chan chan error
	poke     chan struct{} // depth one
	outcomes chan Outcome  // depth one, the newest
	begun    chan struct{} // closed when the good target has been tried, or is not to be

	mu      sync.Mutex
	applied *target.Target // in effect, confirmed
	recent  []*target.Target

	// What follows is Run's own.
	keepalived *keepalivedv1.Config // what keepalived was last given
	watched    *keepalivedv1.Config // what its driver was last told to watch
	disk       disk
}

// job is a target on its way.
type job struct {
	nonce  string
	target *target.Target
	since  time.Time
}

// maxRecent is how many targets stay at hand as a base for updates: the one in
// effect, the one under way and those that a controller may not have heard the
// end of yet.
const maxRecent = 4

// New returns a reconciler; Run does the work.
func New(o Options) *Reconciler {
	if o.Overlay == nil {
		o.Overlay = bare{}
	}
	return &Reconciler{
		Options: o, mailbox: make(chan job, 1), again: make(chan chan error), poke: make(chan struct{}, 1), outcomes: make(chan Outcome, 1), begun: make(chan struct{}),
		disk: newDisk(o.Good),
	}
}

// Submit hands over the newest target. One that waits behind another one and
// has not begun is dropped.
func (r *Reconciler) Submit(nonce string, t *target.Target) {
	r.mu.Lock()
	r.remember(t)
	r.mu.Unlock()
	replace(r.mailbox, job{nonce: nonce, target: t, since: time.Now()})
}

// TryAgain has a target that could not be put in effect tried at once, or else
// the one in effect: what the daemons run may be another matter than it was.
func (r *Reconciler) TryAgain() { replace(r.poke, struct{}{}) }

// replace puts v into a channel of depth one in place of what waits there.
func replace[T any](c chan T, v T) {
	for {
		select {
		case c <- v:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

func (r *Reconciler) remember(t *target.Target) {
	r.recent = append(r.recent, t)
	r.recent = r.recent[max(0, len(r.recent)-maxRecent):]
}

// forget lets go of recent targets but the one in effect, where there is one: a controller
// has heard the end of the others by now, or is asked for the whole configuration.
func (r *Reconciler) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applied != nil {
		r.recent = []*target.Target{r.applied}
	}
}

// Known returns the target with that hash, nil when it is not at hand.
func (r *Reconciler) Known(hash string) *target.Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applied.Hash() == hash {
		return r.applied
	}
	for _, t := range r.recent {
		if t.Hash() == hash {
			return t
		}
	}
	return nil
}

// Applied returns the target in effect, nil when there is none.
func (r *Reconciler) Applied() *target.Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}

// Outcomes tells what became of targets; an outcome that nobody took gives way
// to a newer one.
func (r *Reconciler) Outcomes() <-chan Outcome { return r.outcomes }

// Begun is closed when the good target from disk has been tried, or is not to be:
// there is none, or what runs is newer.
func (r *Reconciler) Begun() <-chan struct{} { return r.begun }

// Run applies the good target and then each that is submitted, until ctx ends.
// What fails is tried again with growing delays while nothing newer comes; what
// a checker refused too, because its reason may be one of the machine: a user
// or a file that is missing.
func (r *Reconciler) Run(ctx context.Context) error {
	var retry <-chan time.Time
	var failing job
	rest := time.NewTimer(restAfter)
	defer rest.Stop()
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = minRetry, maxRetry
	waiting := r.Good != nil && !r.leave(ctx)
	if waiting {
		replace(r.mailbox, job{target: r.Good, since: time.Now()})
	} else {
		close(r.begun)
	}
	for {
		var current job
		select {
		case <-ctx.Done():
			return nil
		case current = <-r.mailbox:
			delay.Reset()
		case <-retry:
			current = failing
		case <-r.poke:
			if current = failing; retry == nil {
				current = job{target: r.Applied(), since: time.Now()}
			}
			if current.target == nil {
				continue
			}
		case done := <-r.again:
			var newest *target.Target
			if retry != nil {
				newest = failing.target
			}
			j, err := r.renew(ctx, newest)
			done <- err
			if err != nil && retry == nil {
				failing, retry = j, time.After(delay.NextBackOff())
			}
			rest.Reset(restAfter)
			continue
		case <-r.disk.due:
			r.settle(r.save(r.Applied()))
			continue
		case <-rest.C:
			r.forget()
			go debug.FreeOSMemory() // ends by itself after one collection, for which no change need wait
			continue
		}
		failing, retry = job{}, nil
		outcome := r.apply(ctx, current)
		rest.Reset(restAfter)
		if ctx.Err() != nil {
			return nil
		}
		if waiting {
			close(r.begun)
			waiting = false
		}
		r.publish(current, outcome)
		if outcome.Err != nil {
			failing, retry = current, time.After(delay.NextBackOff())
		}
	}
}

// publish tells what became of a target.
func (r *Reconciler) publish(j job, o Outcome) {
	version := j.target.Version().GetRuntime()
	if o.Err != nil {
		r.Logger.Error("configuration not in effect; the last good one serves", "revision", version, "error", o.Err)
		r.Problem(fmt.Sprintf("revision %d is not in effect: %v", version, o.Err))
	} else {
		r.Logger.Info("configuration in effect", "revision", version, "reloaded", o.Reloaded, "took", o.Duration)
		r.Problem("")
	}
	if j.nonce != "" {
		replace(r.outcomes, o)
	}
}

// apply puts one target in effect.
func (r *Reconciler) apply(ctx context.Context, j job) Outcome {
	outcome := Outcome{Nonce: j.nonce, Target: j.target}
	r.watch(ctx, j.target.Keepalived())
	reloaded, err := r.put(ctx, j)
	outcome.Duration = time.Since(j.since)
	if err != nil {
		outcome.Err, outcome.Refused = err, refused(err)
		r.follow(ctx, j.target)
		return outcome
	}
	outcome.Reloaded = reloaded
	return outcome
}

func (r *Reconciler) setApplied(t *target.Target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = t
}

// follow puts the servers and the drain of a target in effect whose structure is
// not: a bad VIP or bind must not hold them back.
func (r *Reconciler) follow(ctx context.Context, t *target.Target) {
	applied := r.Applied()
	if applied == nil || ctx.Err() != nil {
		return
	}
	mixed := applied.WithRuntimeOf(t)
	if mixed == applied {
		return
	}
	if _, err := r.put(ctx, job{target: mixed}); err != nil {
		r.Logger.Error("the servers and the drain of a configuration that is not in effect are not either", "error", err)
	}
}

// put is the way of one target: durable, daemons, good.
func (r *Reconciler) put(ctx context.Context, j job) (reloaded bool, err error) {
	effective := r.Overlay.Over(j.target)
	proxyConfig, err := effective.HAProxy()
	if err != nil {
		return false, err
	}
	kept, err := r.keep(j.target)
	if err != nil {
		return false, err
	}
	reloaded, err = r.act(ctx, proxyConfig, effective.Keepalived(), j.target == r.Good)
	if err != nil {
		r.takeBack()
		return reloaded, err
	}
	crash.InEffect.Pass()
	r.setApplied(j.target)
	r.settle(r.confirm(j.target, kept))
	r.Overlay.Settle(j.target)
	return reloaded, nil
}

// Check asks both daemons' checkers about a target and changes nothing.
func (r *Reconciler) Check(ctx context.Context, t *target.Target) error {
	config, err := t.HAProxy()
	if err != nil {
		return err
	}
	return errors.Join(r.Proxy.Check(ctx, config), r.VRRP.Check(ctx, t.Keepalived()))
}

// refused tells whether a daemon's checker said no.
func refused(err error) bool {
	var byProxy *haproxy.RefusedError
	var byVRRP *keepalived.RefusedError
	return errors.As(err, &byProxy) || errors.As(err, &byVRRP)
}
