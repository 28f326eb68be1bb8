// Package haproxy makes HAProxy on this machine do what a configuration says,
// and tells what it really does.
//
// One goroutine, that of Run, owns HAProxy: it applies, polls and restarts, one
// after the other. Others only listen: one to the log for what happens to
// servers, one for the end of the process. HAProxy outlives all of them.
package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/access"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	"github.com/tandem-lb/tandem/agent/internal/logfile"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// Options of a driver.
type Options struct {
	// Binary of HAProxy, a name to be found in PATH or a path; empty: haproxy.
	Binary string
	// StateDir and RunDir are the agent's; the driver uses "haproxy" in each.
	StateDir, RunDir string
	// Good is the last good configuration, which a HAProxy that does not run is
	// started with; nil: none, and it is started with the last file.
	Good *haproxyv1.Config
	// User and Group are whom the workers run as when the agent is root; empty:
	// haproxy, where that exists.
	User, Group string
	// AccessLog is the file for requests, where one is wanted.
	AccessLog logfile.Options
	// Kept returns the parts of a hand-written file that stay in the rendered
	// one; nil: none. It may be called from any goroutine. May be nil.
	Kept func() *config.Kept
	// Runner starts HAProxy; nil: the agent itself.
	Runner Runner
	// Logger must not be nil.
	Logger hclog.Logger
	// Notify is told of changes in the order in which they happen, before
	// anything is done about them. It must not block nor call Apply.
	Notify func(Event)
}

// Runner starts HAProxy, or has it started, and finds it again. The errors that
// are daemon.ErrNotRunning say why it does not run.
type Runner interface {
	// Find returns the HAProxy that runs.
	Find(context.Context, daemon.Spec) (*daemon.Process, error)
	// Start starts HAProxy, or returns the one that runs. It refuses where that
	// is for someone else to do. It ends with its context.
	Start(context.Context, daemon.Spec) (*daemon.Process, error)
	// Stop ends a process that does not serve, for good.
	Stop(context.Context, *daemon.Process) error
	// Changed is ready when someone else may have started HAProxy.
	Changed() <-chan struct{}
}

var _ Runner = daemon.Exec{}

// Result of an Apply.
type Result struct {
	// Reloaded tells that there was a reload or a start.
	Reloaded bool
	// Operations is how many servers were changed at run time.
	Operations int
	// Finishing is how many old workers live, which only finish what they have.
	// HAProxy changes nothing on them.
	Finishing int
}

// Driver drives one HAProxy.
type Driver struct {
	logger  hclog.Logger
	runner  Runner
	binary  binary
	paths   paths
	env     config.Environment
	foreign func() *config.Kept // what stays of a hand-written file
	boot    *haproxyv1.Config   // Options.Good
	owner   *user.User          // whom the sockets in the jail belong to; nil: the agent
	client  *runtime.Client
	board   *board
	access  *access.Log
	kick    chan struct{} // depth one: poll now
	exits   chan *daemon.Process
	jobs    chan func(run context.Context) // for Run's goroutine
	ended   chan struct{}                  // closed when Run returns
	turn    atomic.Int64                   // when Run's goroutine last began something, in Unix nanoseconds

	newest newestWorker
	left   atomic.Pointer[daemon.Process] // whose end is nobody's death
	hung   atomic.Bool                    // its worker answers nobody

	// What follows belongs to Run's goroutine.
	group   *errgroup.Group
	process *daemon.Process // nil: HAProxy does not run
	// unattended ends attended, and waits for that.
	unattended func()
	version    version      // of the binary; zero: not known yet
	worker     *worker      // the newest; nil: not known
	target     *config.File // in effect, confirmed; nil: not known
	good       []byte       // the file in effect; nil: not known
	settled    int          // process id of the worker that was confirmed last
	behind     behind
	listing    runtime.Listing // of the newest worker when last polled, also what is foreign
	looked     sight           // of the last look; zero: look again
	seen       []Server        // of look, for the next one
	restart    restart
	retry      retry // of deletions
	// rendered is the file that was last asked for; nil: none yet.
	rendered *config.File
	beside   *config.Kept // what was last written down of a hand-written file
}

// New prepares a driver and its directories. Whether HAProxy is installed shows
// in Apply and in the snapshot.
func New(o Options) (*Driver, error) {
	if o.Binary == "" {
		o.Binary = "haproxy"
	}
	if o.Kept == nil {
		o.Kept = func() *config.Kept { return nil }
	}
	if o.Runner == nil {
		o.Runner = daemon.Exec{}
	}
	paths, err := makePaths(o.StateDir, o.RunDir)
	if err != nil {
		return nil, fmt.Errorf("haproxy: %w", err)
	}
	d := &Driver{
		logger:  o.Logger,
		runner:  o.Runner,
		binary:  binary{path: o.Binary},
		paths:   paths,
		foreign: o.Kept,
		client:  &runtime.Client{Path: paths.master, Timeout: answerTimeout},
		board:   newBoard(o.Notify),
		kick:    make(chan struct{}, 1),
		exits:   make(chan *daemon.Process),
		jobs:    make(chan func(context.Context)),
		ended:   make(chan struct{}),
		restart: newRestart(),
		retry:   newRetry(),
		boot:    o.Good,
		behind:  newBehind(),

		unattended: func() {},
	}
	d.env = config.Environment{
		EventSocket: paths.events, AccessSocket: paths.access,
		StatsSocket: paths.stats,
		StateFile:   paths.states,
		NoIPv6:      !haveIPv6(),
	}
	if os.Geteuid() == 0 {
		if err := d.dropPrivileges(o.User, o.Group); err != nil {
			return nil, fmt.Errorf("haproxy: %w", err)
		}
	}
	uid, gid, err := d.socketOwner()
	if err != nil {
		return nil, fmt.Errorf("haproxy: %w", err)
	}
	d.access = access.New(access.Options{
		Socket: paths.access, UID: uid, GID: gid, File: o.AccessLog, Tell: d.board.tellAccessLog,
	})
	if err := d.paths.keepSite(d.site()); err != nil {
		d.logger.Warn("a start of haproxy without the agent may not get the newest file", "error", err)
	}
	return d, nil
}

func (d *Driver) site() site { return site{Binary: d.binary.path, Environment: d.environment()} }

// environment with what stays of a hand-written file now.
func (d *Driver) environment() config.Environment {
	env := d.env
	env.Kept = d.foreign()
	return env
}

// socketOwner is whom the sockets in the jail belong to; -1: the agent itself.
func (d *Driver) socketOwner() (uid, gid int, err error) {
	if d.owner == nil {
		return -1, -1, nil
	}
	_, err = fmt.Sscan(d.owner.Uid+" "+d.owner.Gid, &uid, &gid)
	return uid, gid, err
}

// dropPrivileges has the workers run as someone else, in an empty directory.
func (d *Driver) dropPrivileges(name, group string) error {
	d.env.Chroot, d.env.EventSocket, d.env.AccessSocket = d.paths.jail, "/events.sock", "/access.sock"
	who, err := user.Lookup(cmpOr(name, "haproxy"))
	if err != nil {
		if name == "" {
			d.logger.Warn("no user haproxy on this machine: the workers run as root")
			return nil
		}
		return err
	}
	if group == "" {
		primary, err := user.LookupGroupId(who.Gid)
		if err != nil {
			return err
		}
		group = primary.Name
	}
	d.env.User, d.env.Group, d.owner = who.Username, group, who
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// haveIPv6 tells whether the kernel can listen on IPv6 addresses.
func haveIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// Snapshot tells everything that is known. It may be called at any time.
func (d *Driver) Snapshot() Snapshot { return d.board.snapshot() }

// Check asks HAProxy's checker about a configuration and changes nothing. The
// error is a *RefusedError or a *MissingError. It may be called at any time.
func (d *Driver) Check(ctx context.Context, c *haproxyv1.Config) error {
	file, err := d.render(c)
	if err != nil {
		return err
	}
	if _, _, err := d.binary.version(ctx); err != nil {
		return err
	}
	temp, err := os.CreateTemp(d.paths.jail+"/..", "check-*.cfg")
	if err != nil {
		return fmt.Errorf("haproxy: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(file.Text)
	if err := errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("haproxy: %w", err)
	}
	return d.binary.check(ctx, temp.Name())
}

// Apply puts a configuration in effect: when it returns without an error, the
// worker that accepts connections does what it says, and so does the file, at
// once after a reload and within a second after a change of servers. An
// older one that still finishes what it has was brought as near as possible
// before it was replaced. It is idempotent.
// Errors are a *RefusedError, a *FailedError, a *MissingError, or of ctx; after
// each the last good configuration serves. It needs Run.
func (d *Driver) Apply(ctx context.Context, c *haproxyv1.Config) (Result, error) {
	var result Result
	var err error
	done := make(chan struct{})
	job := func(run context.Context) {
		defer close(done)
		result, err = d.apply(ctx, run, c)
	}
	select {
	case d.jobs <- job:
	case <-d.ended:
		return Result{}, errors.New("haproxy: the driver has ended")
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	<-done
	return result, err
}

func (d *Driver) render(c *haproxyv1.Config) (*config.File, error) {
	file, err := config.Render(c, d.environment())
	if err != nil {
		return nil, &RefusedError{Words: err.Error(), Err: err}
	}
	return file, nil
}

const (
	// answerTimeout is how long HAProxy may take for one answer.
	answerTimeout = 5 * time.Second
	// pollInterval bounds the age of what the log did not tell.
	pollInterval = 2 * time.Second
	// maxLog is where the processes' output is cut.
	maxLog = 4 << 20
)

// Run owns HAProxy until ctx ends, and leaves it running. It adopts one that
// runs, or starts the last good configuration, if there is one.
func (d *Driver) Run(ctx context.Context) error {
	defer close(d.ended)
	events, err := d.listen()
	if err != nil {
		return fmt.Errorf("haproxy: %w", err)
	}
	d.group, ctx = errgroup.WithContext(ctx)
	d.group.Go(func() error { return d.hear(ctx, events) })
	d.group.Go(func() error { return d.access.Run(ctx) })
	d.group.Go(func() error { return d.own(ctx) })
	return d.group.Wait()
}

// maxTurn is longer than anything that Run's goroutine may rightly do at a
// stretch. The longest is a start that fails and another one to go back: each
// begins within startTimeout and serves within reloadTimeout after that. A reload
// waits twice for reloadTimeout, and goes back without another one. Beside them
// the binary is run three times: for its version and its checker.
const maxTurn = 2*(startTimeout+reloadTimeout) + 3*runTimeout

// Alive tells whether Run's goroutine goes on. It needs Run.
func (d *Driver) Alive() error {
	began := d.turn.Load()
	if busy := time.Since(time.Unix(0, began)); began != 0 && busy > maxTurn {
		return fmt.Errorf("haproxy: the driver has been busy for %v", busy.Round(time.Second))
	}
	return nil
}

// own is the goroutine that owns HAProxy.
func (d *Driver) own(ctx context.Context) error {
	defer func() {
		if d.behind.timer != nil {
			d.writeFile()
		}
		if d.process != nil {
			d.process.Close()
		}
	}()
	d.begin(ctx)
	poll := time.NewTimer(beat.In(pollInterval))
	defer poll.Stop()
	for {
		d.turn.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return nil
		case job := <-d.jobs:
			job(ctx)
		case p := <-d.exits:
			d.exited(p)
		case <-d.runner.Changed():
			d.find(ctx)
		case <-d.restart.due():
			d.startAgain(ctx)
		case <-d.retry.due():
			d.deleteLeftovers(ctx)
		case <-d.behind.due():
			d.writeFile()
		case <-poll.C:
			poll.Reset(beat.In(pollInterval))
			d.poll(ctx)
		case <-d.kick:
			d.poll(ctx)
		}
	}
}
