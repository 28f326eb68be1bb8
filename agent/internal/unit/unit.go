// Package unit runs daemons as units of systemd. Only systemd starts them again
// after a crash; what an operator stopped stays stopped.
//
// It speaks to systemd over its private socket, which needs root and no bus.
// Each request is a connection of its own, since systemd drops them all when it
// is upgraded.
package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// Unit is one unit. Its methods may be called from any goroutine.
type Unit struct {
	name    string // such as haproxy.service
	stopped string // file that is there while the agent, no operator, has stopped the unit
	logger  hclog.Logger
	changed chan struct{} // depth one
}

// notRunning is daemon.ErrNotRunning with the reason.
type notRunning struct{ text string }

// Error implements error.
func (e *notRunning) Error() string { return e.text }

// Is makes it a daemon.ErrNotRunning.
func (e *notRunning) Is(target error) bool { return target == daemon.ErrNotRunning }

// New returns a unit. The file stopped is on a tmpfs: what it says ends with
// the boot.
func New(name, stopped string, logger hclog.Logger) *Unit {
	return &Unit{name: name, stopped: stopped, logger: logger, changed: make(chan struct{}, 1)}
}

// Changed is ready when the unit may have been started or stopped by someone
// else. It needs Run.
func (u *Unit) Changed() <-chan struct{} { return u.changed }

// Find returns the main process, or one that was taken over from its unit. The
// error is daemon.ErrNotRunning, with the reason and the cure, when there is none.
func (u *Unit) Find(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	if taken, err := daemon.Adopt(spec); !errors.Is(err, daemon.ErrNotRunning) {
		return taken, err
	}
	s, err := u.status(ctx)
	if err != nil {
		return nil, err
	}
	return u.process(s, spec)
}

// process watches the main process of a unit, if it has the agent's file.
func (u *Unit) process(s *status, spec daemon.Spec) (*daemon.Process, error) {
	if s.pid == 0 {
		return nil, &notRunning{u.name + " " + s.reason(u.name)}
	}
	if !has(s.pid, spec.File) {
		if s.active == "activating" { // and perhaps no more than forked
			return nil, &notRunning{u.name + " is starting"}
		}
		return nil, &notRunning{u.name + " runs a configuration of its own: lb-agent adopt shows it"}
	}
	p, err := daemon.Watch(u.name, s.pid, &journal{unit: u.name})
	if err != nil {
		return nil, err
	}
	if err := os.Remove(u.stopped); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Start starts a unit that has not run since the boot or that Stop has stopped,
// and waits until systemd takes it for started, as it does for a start that somebody
// else has begun. It leaves alone a unit that an operator has stopped or disabled and one
// that systemd starts again by itself; the error is daemon.ErrNotRunning and says so.
func (u *Unit) Start(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	s, err := u.status(ctx)
	if err != nil {
		return nil, err
	}
	if s.starting() || s.pid == 0 && s.mayStart(u.stoppedByUs()) {
		said := (&journal{unit: u.name}).Listen()
		err := u.job(ctx, (*dbus.Conn).StartUnitContext)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, said(ctx))
		}
		return u.Find(ctx, spec)
	}
	return u.process(s, spec)
}

// has tells whether a process was started with that file, or with a symbolic link
// to it.
func has(pid int, file string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.ContainsFunc(strings.Split(string(line), "\x00"), func(argument string) bool {
		if argument == file {
			return true
		}
		to, err := os.Readlink(argument)
		return err == nil && to == file && filepath.IsAbs(argument)
	})
}

func (u *Unit) stoppedByUs() bool {
	_, err := os.Stat(u.stopped)
	return err == nil
}

// Stop stops the unit and waits for its end.
func (u *Unit) Stop(ctx context.Context, _ *daemon.Process) error {
	if err := atomicfile.WriteVolatile(u.stopped, nil, 0o600); err != nil {
		return err
	}
	return u.job(ctx, (*dbus.Conn).StopUnitContext)
}

// Begin starts the unit as whatever it is now, and waits until systemd takes it
// for started.
func (u *Unit) Begin(ctx context.Context) error {
	return u.job(ctx, (*dbus.Conn).StartUnitContext)
}

// jobTimeout bounds the wait for a job. systemd's own limits for a start and a
// stop, 90 s each (DefaultTimeoutStartSec= in systemd-system.conf(5)), end before.
const jobTimeout = 95 * time.Second

// job has systemd do something with the unit and waits until it is done, for
// jobTimeout at most.
func (u *Unit) job(ctx context.Context, begin func(*dbus.Conn, context.Context, string, string, chan<- string) (int, error)) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	done := make(chan string, 1)
	if _, err := begin(c, ctx, u.name, "replace", done); err != nil {
		return fmt.Errorf("systemd: %s: %w", u.name, err)
	}
	if err := await(ctx, done, c.Connected); err != nil {
		return fmt.Errorf("systemd: %s: %w", u.name, err)
	}
	return nil
}

// await waits for the result of a job. It comes over the connection alone: one
// that is gone, as after systemctl daemon-reexec, never tells.
func await(ctx context.Context, done <-chan string, connected func() bool) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	limit := time.After(jobTimeout)
	for {
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("the job ended with %q", result)
			}
			return nil
		case <-look.C:
			if !connected() {
				return errors.New("the connection is gone before the job has ended: systemd was perhaps upgraded")
			}
		case <-limit:
			return fmt.Errorf("the job has not ended after %v", jobTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func connect(ctx context.Context) (*dbus.Conn, error) {
	c, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("runner: systemd needs systemd and root: %w", err)
	}
	return c, nil
}

// lookEvery is how often the connection is looked at, which systemd drops when it
// is upgraded.
const lookEvery = 2 * time.Second

// Run listens to systemd until ctx ends.
func (u *Unit) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := u.listen(ctx, tick.C); err != nil {
			u.logger.Warn("not told by systemd", "unit", u.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listen ends when its connection does.
func (u *Unit) listen(ctx context.Context, tick <-chan time.Time) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	updates, failed := make(chan *dbus.PropertiesUpdate, 256), make(chan error, 1)
	c.SetPropertiesSubscriber(updates, failed)
	if err := c.Subscribe(); err != nil {
		return err
	}
	u.wake()
	for {
		select {
		case <-ctx.Done():
			return nil
		case update := <-updates:
			if update.UnitName == u.name {
				u.wake()
			}
		case err := <-failed: // something was dropped
			u.logger.Debug("not told everything by systemd", "unit", u.name, "error", err)
			u.wake()
		case <-tick:
			if !c.Connected() {
				return errors.New("the connection is gone")
			}
		}
	}
}

func (u *Unit) wake() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}
