package adopt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/importer"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Options of a Takeover.
type Options struct {
	// StateDir is the agent's.
	StateDir string
	// Node is this node's id.
	Node string
	// Networks maps network names to interfaces.
	Networks map[string]string
	// Units are systemd's, where it runs the daemons; nil: the agent does.
	Units Units
	// Logger must not be nil.
	Logger hclog.Logger
	// Problem tells that the node serves files of its own since it was given back,
	// "" when it does not. It must not block, nor be nil.
	Problem func(text string)
}

// Units are the packages' units of both daemons, which are Tandem's or not.
type Units interface {
	// Claim makes them Tandem's, from their next start on. idle: a HAProxy that
	// serves nobody runs as one of them, and is stopped.
	Claim(ctx context.Context, idle bool) error
	// Disclaim undoes Claim. It touches no process.
	Disclaim(ctx context.Context) error
	// StartHAProxy and StartKeepalived start them, as what they are now.
	StartHAProxy(context.Context) error
	StartKeepalived(context.Context) error
}

// Takeover stands between the reconciler and the two drivers. While daemons run
// that somebody else has started it keeps the drivers from touching anything;
// once an operator has asked for it, the first target that has all that runs
// takes them over. Without such daemons it is not noticed.
type Takeover struct {
	Options
	proxy *haproxy.Driver
	vrrp  *keepalived.Driver
	again func()
	kept  atomic.Pointer[config.Kept]

	turn chan struct{} // holds one while nobody works; guards what follows
	// state is what was asked for; nil: nothing.
	state *state
	// foreign tells that there may be daemons that somebody else has started.
	foreign bool
	// imported is what the hand-written files say, from wanted on.
	imported *importer.Import
	// wantedVRRP is what keepalived was last asked to run; nil: nothing yet.
	wantedVRRP *keepalivedv1.Config
}

// New reads how far a takeover is and looks for daemons that somebody else has
// started.
func New(o Options) (*Takeover, error) {
	t := &Takeover{Options: o, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	var err error
	if t.state, err = readState(o.StateDir); err != nil {
		return nil, fmt.Errorf("takeover: %w", err)
	}
	if t.is(wanted, taken, unwanted) {
		if err := t.read(); err != nil {
			return nil, fmt.Errorf("takeover: %w", err)
		}
	}
	t.foreign = !t.is(taken)
	t.tell()
	return t, nil
}

// Kept returns what stays of the hand-written haproxy.cfg; nil: nothing.
func (t *Takeover) Kept() *config.Kept { return t.kept.Load() }

// Drive gives the takeover its drivers, and what has the reconciler try again.
// It comes before everything but New, Kept and Held.
func (t *Takeover) Drive(proxy *haproxy.Driver, vrrp *keepalived.Driver, again func()) {
	t.proxy, t.vrrp, t.again = proxy, vrrp, again
}

func (t *Takeover) is(phases ...phase) bool {
	for _, p := range phases {
		if t.state != nil && t.state.Phase == p {
			return true
		}
	}
	return false
}

// read reads the hand-written files that the state names.
func (t *Takeover) read() error {
	i, err := readOriginals(t.Node, t.Networks, t.state)
	if err != nil {
		return err
	}
	t.imported = i
	t.kept.Store(keptOf(&i.Kept))
	return nil
}

// begin waits for its turn.
func (t *Takeover) begin(ctx context.Context) error {
	select {
	case <-t.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Takeover) end() { t.turn <- struct{}{} }

// lookEvery is how often the agent looks for what an operator has asked for.
const lookEvery = 500 * time.Millisecond

// Run looks for what an operator asks for, until ctx ends.
func (t *Takeover) Run(ctx context.Context) error {
	tick := time.NewTimer(beat.In(lookEvery))
	defer tick.Stop()
	for {
		if err := t.look(ctx); err != nil && ctx.Err() == nil {
			t.Logger.Error("takeover", "error", err)
		}
		select {
		case <-tick.C:
			tick.Reset(beat.In(lookEvery))
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes note of a new wish, and gives the daemons back itself: nothing but
// a target takes them.
func (t *Takeover) look(ctx context.Context) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer t.end()
	next, err := readState(t.StateDir)
	if err != nil || next == nil {
		return err
	}
	news := t.state == nil || t.state.Phase != next.Phase
	if news {
		t.state = next
		t.tell()
	}
	switch {
	case t.is(unwanted):
		if t.imported == nil {
			err = t.read()
		}
		return t.settle(errors.Join(err, t.release(ctx)), released)
	case t.is(wanted) && news:
		t.foreign = true
		if err := t.read(); err != nil {
			return t.settle(err, wanted)
		}
		t.again()
	}
	return nil
}

// settle notes what has come of a phase. A newer wish stands.
func (t *Takeover) settle(err error, done phase) error {
	if now, unread := readState(t.StateDir); unread != nil || now == nil || now.Phase != t.state.Phase {
		return errors.Join(err, unread)
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	} else {
		t.state.Phase = done
		t.tell()
	}
	if err == nil || t.state.Problem != problem {
		t.state.Problem = problem
		return errors.Join(err, t.state.write(t.StateDir))
	}
	return nil // said before
}

// Held tells why nothing may be started or touched here; nil: everything may.
// It comes before Run.
func (t *Takeover) Held(ctx context.Context) error { return t.held(ctx) }

// held tells why nothing may be touched; nil: everything may.
func (t *Takeover) held(ctx context.Context) error {
	if !t.foreign {
		return nil
	}
	proxies, vrrps, err := foreign()
	if err != nil {
		return fmt.Errorf("nothing is touched, since it is not known what runs here: %w", err)
	}
	for _, d := range append(proxies, vrrps...) {
		return fmt.Errorf("nothing is touched: process %d runs with %s, which Tandem did not write: "+
			"take it over (lb-agent adopt), or stop it", d.PID, d.File)
	}
	if t.Units != nil {
		if err := t.claim(ctx); err != nil {
			return fmt.Errorf("nothing is touched: %w", err)
		}
	}
	t.foreign = false
	t.tell()
	return nil
}

// tell tells of a release as long as it lasts. What was in effect before counts as
// applied still.
func (t *Takeover) tell() {
	if t.foreign && t.is(released) {
		t.Problem("HAProxy and keepalived serve files of their own since lb-agent release: lb-agent adopt --yes takes them over again")
		return
	}
	t.Problem("")
}

// Proxy is the HAProxy driver behind the takeover.
type Proxy struct{ *Takeover }

// Check is the driver's.
func (p Proxy) Check(ctx context.Context, c *haproxyv1.Config) error { return p.proxy.Check(ctx, c) }

// RunsOther is the driver's.
func (p Proxy) RunsOther(ctx context.Context, c *haproxyv1.Config) (bool, error) {
	return p.proxy.RunsOther(ctx, c)
}

// Apply is the driver's, once it may.
func (p Proxy) Apply(ctx context.Context, c *haproxyv1.Config) (haproxy.Result, error) {
	t := p.Takeover
	if err := t.begin(ctx); err != nil {
		return haproxy.Result{}, err
	}
	defer t.end()
	if !t.is(wanted) {
		if err := t.held(ctx); err != nil {
			return haproxy.Result{}, err
		}
		return t.proxy.Apply(ctx, c)
	}
	result, err := t.takeHAProxy(ctx, c)
	if err == nil && t.wantedVRRP != nil {
		err = t.takeKeepalived(ctx, t.wantedVRRP)
	}
	if err != nil {
		return result, errors.Join(err, t.settle(err, wanted))
	}
	return result, nil
}

// VRRP is the keepalived driver behind the takeover.
type VRRP struct{ *Takeover }

// Check is the driver's.
func (v VRRP) Check(ctx context.Context, c *keepalivedv1.Config) error { return v.vrrp.Check(ctx, c) }

// Drained is the driver's.
func (v VRRP) Drained() bool { return v.vrrp.Snapshot().Drain != 0 }

// Watch is the driver's: to look touches nothing.
func (v VRRP) Watch(ctx context.Context, c *keepalivedv1.Config) error { return v.vrrp.Watch(ctx, c) }

// Apply is the driver's, once it may.
func (v VRRP) Apply(ctx context.Context, c *keepalivedv1.Config) (keepalived.Result, error) {
	t := v.Takeover
	if err := t.begin(ctx); err != nil {
		return keepalived.Result{}, err
	}
	defer t.end()
	t.wantedVRRP = c
	if !t.is(wanted) {
		if err := t.held(ctx); err != nil {
			return keepalived.Result{}, err
		}
		return t.vrrp.Apply(ctx, c)
	}
	if err := t.takeKeepalived(ctx, c); err != nil {
		return keepalived.Result{}, errors.Join(err, t.settle(err, wanted))
	}
	return keepalived.Result{Reloaded: true}, nil
}

// ownFiles are the files of the drivers.
func (t *Takeover) ownProxyFile() string { return filepath.Join(t.StateDir, "haproxy", "haproxy.cfg") }

func (t *Takeover) ownVRRPFile() string {
	return filepath.Join(t.StateDir, "keepalived", "keepalived.conf")
}

// takeHAProxy starts Tandem's HAProxy beside the one that runs, and has that one
// finish. Both listen for a moment.
func (t *Takeover) takeHAProxy(ctx context.Context, c *haproxyv1.Config) (haproxy.Result, error) {
	if err := coversProxy(t.imported, c); err != nil {
		return haproxy.Result{}, err
	}
	if joined, err := t.joinHAProxy(ctx, c); joined || err != nil {
		return haproxy.Result{Reloaded: true}, err
	}
	result, err := t.proxy.Apply(ctx, c)
	if err != nil {
		return result, err
	}
	others, _, err := foreign()
	for _, d := range others {
		if err == nil && d.File == t.state.HAProxy.File {
			t.Logger.Info("takes HAProxy over", "pid", d.PID)
			err = finish(ctx, d.PID, func() error { return softStop(d.PID) })
		}
	}
	if err == nil {
		err = putAside(t.state.HAProxy.File, t.ownProxyFile())
	}
	return result, err
}

// takeKeepalived has the keepalived that runs read Tandem's file.
func (t *Takeover) takeKeepalived(ctx context.Context, c *keepalivedv1.Config) error {
	if err := coversVRRP(t.imported, c); err != nil {
		return err
	}
	path := t.state.Keepalived.File
	_, others, err := foreign()
	if err != nil {
		return err
	}
	took := false
	for _, d := range others {
		if d.File != path {
			continue
		}
		if _, err := t.vrrp.TakeOver(ctx, c, keepalived.Foreign{
			PID:     d.PID,
			Install: func(ours string) error { return putAside(path, ours) },
			Restore: func() error { return putBack(path, t.ownVRRPFile()) },
		}); err != nil {
			return err
		}
		took = true
	}
	if !took {
		// It has ended meanwhile, or runs Tandem's file already.
		if _, err := t.vrrp.Apply(ctx, c); err != nil {
			return err
		}
		if err := putAside(path, t.ownVRRPFile()); err != nil {
			return err
		}
	}
	if t.Units != nil {
		if err := t.Units.Claim(ctx, false); err != nil {
			return err
		}
	}
	t.foreign = false
	return t.settle(nil, taken)
}
