// Package keepalived drives a real keepalived: it renders the configuration,
// has keepalived check it, swaps it in, confirms that keepalived runs it, and
// tells at once what keepalived and the kernel say about the VIPs.
//
// keepalived outlives the agent and is adopted by the next one without moving
// a VIP.
package keepalived

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/neighbor"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/track"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// Options of a Driver.
type Options struct {
	// Binary is keepalived's name or path; "keepalived" when empty.
	Binary string
	// StateDir is the agent's state directory; the driver uses "keepalived" in
	// it. What is there survives a reboot.
	StateDir string
	// RunDir is the agent's run directory; the driver uses "keepalived" in it.
	// It should be on a tmpfs.
	RunDir string
	// Networks maps network names to interfaces.
	Networks map[string]string
	// ProbeInterval is the time between the three probes of an address that is
	// brought up for the first time; 200ms when 0.
	ProbeInterval time.Duration
	// Runner starts keepalived; nil: the agent itself.
	Runner Runner
	// FenceGuard is the command line that GuardFence is behind; the files are
	// appended. Without it no fence is taken.
	FenceGuard []string
	// TrackGuard is likewise the one that GuardTracks is behind. Without it tracks are
	// asked for, and add nothing to the score.
	TrackGuard []string
	// ReleaseGuard is likewise the one that Hooks.GuardRelease is behind, to which nothing
	// is appended. Without it a proxy that hangs has no VIP given up at once.
	ReleaseGuard []string
	// Logger may be nil.
	Logger hclog.Logger
	// Notify gets the whole state when Run begins and then every change, in
	// order, from one goroutine. It must not block and must not call the
	// driver, except Snapshot. May be nil.
	Notify func(Event)
}

// Runner starts keepalived, or has it started, and finds it again. The errors
// that are daemon.ErrNotRunning say why it does not run.
type Runner interface {
	// Find returns the keepalived that runs.
	Find(context.Context, daemon.Spec) (*daemon.Process, error)
	// Start starts keepalived, or returns the one that runs. It refuses where
	// that is for someone else to do.
	Start(context.Context, daemon.Spec) (*daemon.Process, error)
	// Stop ends keepalived, until Start.
	Stop(context.Context, *daemon.Process) error
	// Changed is ready when someone else may have started keepalived.
	Changed() <-chan struct{}
}

var _ Runner = daemon.Exec{}

// Result says what an Apply did.
type Result struct {
	// Reloaded tells that keepalived was started, stopped or reloaded.
	Reloaded bool
}

// Driver drives one keepalived. Its methods may be called from any goroutine;
// Apply and SetHealth wait for Run to be called and fail when it has returned.
type Driver struct {
	opts   Options
	log    hclog.Logger
	paths  paths
	layout layout

	control  chan *control          // holds the one control while nobody uses it
	guards   chan map[string]*guard // likewise, the guards of fences by VIP, that of tracks and that of a release
	observer *observer              // Run's goroutine only
	fifo     *os.File               // of notices; set before Run's goroutines begin
	mail     chan task
	kick     chan struct{} // depth one
	ended    chan struct{} // closed when Run has returned
	snapshot atomic.Pointer[Snapshot]
}

// paths of the driver's files.
type paths struct {
	config    string // what keepalived reads
	addresses string // what keepalived may have brought up
	swapped   string // there while it is not confirmed that keepalived has read config
	drained   string // there while the node is drained
	withdrawn string // there while the node has withdrawn
	log       string
	identity  string // of the process, kept by package daemon
	links     string // indexes of the interfaces that the process has sockets on
	parent    string // keepalived's own process id files
	child     string
	fifo      string
	trackDir  string
	dumpDir   string
	parents   string // how interfaces below virtual MAC addresses were before
}

// makePaths makes the directories, which keepalived.conf names.
func makePaths(stateDir, runDir string) (paths, error) {
	state, run := filepath.Join(stateDir, "keepalived"), filepath.Join(runDir, "keepalived")
	p := paths{
		config:    filepath.Join(state, "keepalived.conf"),
		addresses: filepath.Join(state, "addresses.json"),
		drained:   filepath.Join(state, "drained"),
		withdrawn: filepath.Join(state, "withdrawn"),
		swapped:   filepath.Join(run, "swapped"),
		log:       filepath.Join(state, "keepalived.log"),
		identity:  filepath.Join(run, "process"),
		links:     filepath.Join(run, "links.json"),
		parent:    filepath.Join(run, "keepalived.pid"),
		child:     filepath.Join(run, "vrrp.pid"),
		fifo:      filepath.Join(run, "notify"),
		trackDir:  filepath.Join(run, "track"),
		dumpDir:   filepath.Join(run, "dump"),
		parents:   filepath.Join(run, "parents.json"),
	}
	for _, dir := range []string{state, run, p.trackDir, p.dumpDir} {
		if err := pathToken.check("directory", dir); err != nil {
			return p, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return p, err
		}
	}
	return p, nil
}

// pidFiles are keepalived's own. A recycled process id in one of a keepalived
// that was killed would keep the next one from starting.
func (p *paths) pidFiles() []string { return []string{p.parent, p.child} }

// New returns a driver. It finds a running keepalived of an earlier agent, but
// starts none; Run does the rest.
func New(ctx context.Context, opts Options) (*Driver, error) {
	if opts.Binary == "" {
		opts.Binary = "keepalived"
	}
	if opts.ProbeInterval == 0 {
		opts.ProbeInterval = neighbor.DefaultInterval
	}
	if opts.Runner == nil {
		opts.Runner = daemon.Exec{}
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.Notify == nil {
		opts.Notify = func(Event) {}
	}
	d := &Driver{
		opts:    opts,
		log:     opts.Logger,
		control: make(chan *control, 1),
		guards:  make(chan map[string]*guard, 1),
		mail:    make(chan task),
		kick:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("keepalived driver: %w", err)
	}
	c, err := d.newControl(ctx)
	if err != nil {
		return nil, fmt.Errorf("keepalived driver: %w", err)
	}
	load := loadScores
	if c.process == nil {
		load = newScores
	}
	scores, err := load(d.paths)
	if err != nil {
		return nil, fmt.Errorf("keepalived driver: %w", err)
	}
	d.observer = &observer{
		log:        opts.Logger,
		scores:     scores,
		wake:       d.wake,
		interfaces: opts.Networks,
		left:       c.record,
		noteLinks:  d.paths.links,
		state:      StateIdle,
		noted:      make(map[string]time.Time),
		roused:     make(chan struct{}, 1),
		wire:       wire.New(opts.Logger.Named("wire")),
		tracks:     track.New(),
	}
	if c.process != nil {
		d.observer.adopt(c.process)
		if d.observer.links, err = readLinks(d.paths.links); err != nil {
			d.log.Warn("an interface that was made anew before now is not known as such", "error", err)
		}
	}
	d.control <- c
	d.guards <- make(map[string]*guard)
	d.snapshot.Store(d.observer.snapshot())
	return d, nil
}

// prepare makes everything that the configuration refers to outside itself.
func (d *Driver) prepare() (err error) {
	if d.paths, err = makePaths(d.opts.StateDir, d.opts.RunDir); err != nil {
		return err
	}
	who, err := user.Current()
	if err != nil {
		return err
	}
	if err := nameToken.check("the agent's user", who.Username); err != nil {
		return err
	}
	d.layout = layout{fifo: d.paths.fifo, trackDir: d.paths.trackDir, user: who.Username, noSwap: canLockMemory()}
	return nil
}

// spec of the process. --vrrp keeps the IPVS part off.
func (d *Driver) spec(binary string) daemon.Spec {
	return daemon.Spec{
		Name: "keepalived",
		Path: binary,
		Args: []string{
			"--dont-fork", "--vrrp", "--log-console", "--no-syslog",
			"--use-file", d.paths.config,
			"--pid", d.paths.parent,
			"--vrrp_pid", d.paths.child,
		},
		File:    d.paths.config,
		Env:     []string{"TMPDIR=" + d.paths.dumpDir},
		PIDFile: d.paths.identity,
		LogFile: d.paths.log,
		Stale:   d.paths.pidFiles(),
		// A busy machine must not lose adverts and the VIP with them.
		RealTime: 50,
		Logger:   d.log,
	}
}

// Snapshot returns what is known now. It never blocks.
func (d *Driver) Snapshot() Snapshot { return *d.snapshot.Load() }

// Alive returns when the goroutine that changes the score answers. It needs Run.
func (d *Driver) Alive(ctx context.Context) error { return d.do(ctx, func(*observer) {}) }

// SetHealth tells whether the proxy on this node works. The score changes
// before it returns, and keepalived sees it within milliseconds. Until the
// first call the node counts as unhealthy, except that after a restart of the
// agent beside a running keepalived the last value stays. A proxy that works counts
// in full from proven on, at once with the zero time: until then any node whose proxy
// is proven goes before, and this one before those without a proxy.
func (d *Driver) SetHealth(healthy bool, proven time.Time) error {
	var err error
	if ended := d.do(context.Background(), func(o *observer) { err = o.setHealth(healthy, proven, true, time.Now()) }); ended != nil {
		return ended
	}
	return err
}

// SetHung is SetHealth of a proxy that does not work and has not ended. The lower score
// comes first. Where this node has a VIP given up at once there is a guard before that:
// nobody beside this agent sees such a proxy, who would make the node stand by again
// when the agent dies in that moment. A guard that cannot be had, for which SetHung waits
// two seconds at most, leaves the VIP to the lower score alone.
func (d *Driver) SetHung() error {
	ctx := context.Background()
	var err error
	releases := false
	if ended := d.do(ctx, func(o *observer) {
		releases = o.scores.healthy && o.handsOn()
		err = o.setHealth(false, time.Time{}, false, time.Now())
	}); ended != nil || !releases {
		return errors.Join(ended, err)
	}
	if failed := d.guardScore(ctx, releaseKey, nil, releaseLimit+guardSlack, d.opts.ReleaseGuard); failed != nil {
		d.log.Warn("a proxy that hangs has no VIP given up at once: no guard for that", "error", failed)
		return err
	}
	ended := d.do(ctx, func(o *observer) { err = errors.Join(err, o.giveUp(time.Now())) })
	return errors.Join(ended, err)
}

// Withdraw keeps every VIP away from this node as long as another one can hold
// it, as a drain does but whatever Apply is given: the node is no longer meant
// to hold any. It lasts over restarts and reboots until it is undone.
func (d *Driver) Withdraw(withdrawn bool) error {
	err := mark(d.paths.withdrawn, withdrawn)
	if ended := d.do(context.Background(), func(o *observer) { err = errors.Join(err, o.withdraw(withdrawn, time.Now())) }); ended != nil {
		return ended
	}
	d.wake() // who is a stranger changes
	return err
}

// task is something to do in the observer's goroutine.
type task struct {
	run  func(*observer)
	done chan struct{} // closed when the snapshot shows what it did
}

// do runs f in the observer's goroutine and waits until the snapshot shows it, at most
// until Run returns. So who tells of something that is so whoever waits needs no context
// of its own: a proxy's health must reach the score also while its caller is told to end.
func (d *Driver) do(ctx context.Context, f func(*observer)) error {
	t := task{f, make(chan struct{})}
	select {
	case d.mail <- t:
		<-t.done
		return nil
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wake asks the keeper to look after keepalived soon.
func (d *Driver) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}
