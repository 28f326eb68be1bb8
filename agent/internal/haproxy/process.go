package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/plan"
)

// restart tells when a HAProxy that ended is started again.
type restart struct {
	delay *backoff.ExponentialBackOff
	timer <-chan time.Time // nil: it is not
}

// steady is how long HAProxy must have run for its end not to count as one
// more in a row.
const steady = 30 * time.Second

func newRestart() restart {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = time.Second, 30*time.Second
	return restart{delay: delay}
}

func (r *restart) due() <-chan time.Time { return r.timer }
func (r *restart) again()                { r.timer = time.After(r.delay.NextBackOff()) }
func (r *restart) off()                  { r.timer = nil }

func (d *Driver) spec() (daemon.Spec, error) {
	path, err := exec.LookPath(d.binary.path)
	if err != nil {
		return daemon.Spec{}, &MissingError{Binary: d.binary.path, Problem: "is not installed"}
	}
	path, err = filepath.Abs(path)
	return daemon.Spec{
		Name:    "haproxy",
		Path:    path,
		Args:    []string{"-W", "-S", d.paths.master + ",mode,600", "-f", d.paths.file},
		File:    d.paths.file,
		PIDFile: d.paths.pid,
		LogFile: d.paths.log,
		Stale:   []string{d.paths.master},
		Logger:  d.logger,
	}, err
}

// findSpec is what HAProxy is found by.
func (d *Driver) findSpec() daemon.Spec {
	return daemon.Spec{Name: "haproxy", File: d.paths.file, PIDFile: d.paths.pid, LogFile: d.paths.log, Logger: d.logger}
}

// begin adopts a running HAProxy or starts the file that is there.
func (d *Driver) begin(ctx context.Context) {
	if err := d.checkVersion(ctx); err != nil {
		d.logger.Error("haproxy cannot be used", "error", err)
	}
	if d.find(ctx) {
		return
	}
	text, err := d.beforeStart(ctx)
	switch {
	case err != nil:
		d.board.setDaemon(Daemon{State: Stopped, Message: err.Error()})
	case text != nil:
		d.startAgain(ctx)
	case d.board.process().State == Unknown:
		d.board.setDaemon(Daemon{State: Idle})
	}
}

// find adopts a HAProxy that runs and is not known yet, and tells whether there
// is one.
func (d *Driver) find(ctx context.Context) bool {
	if d.process != nil {
		return true
	}
	process, err := d.runner.Find(ctx, d.findSpec())
	switch {
	case err == nil:
		d.untilForked(ctx, process)
		d.watch(ctx, process)
		d.poll(ctx)
		d.adoptFile()
		d.forgetStates()
		d.logger.Info("found haproxy running", "pid", process.PID())
		return true
	case !errors.Is(err, daemon.ErrNotRunning):
		d.logger.Error("cannot look for a running haproxy", "error", err)
	case d.board.process().State == Stopped:
		d.board.setDaemon(Daemon{State: Stopped, Message: err.Error()})
	}
	return false
}

// untilForked waits for the first worker of a process that was found before it had one:
// an agent that has ended since, or systemd, has only just started it. It hangs no more
// than one that this agent has started, and gets as long; then it is taken as it is.
func (d *Driver) untilForked(ctx context.Context, p *daemon.Process) {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	deadline := time.After(time.Until(p.StartTime().Add(reloadTimeout)))
	for workerless(p) {
		select {
		case <-ctx.Done():
			return
		case <-p.Done():
			return
		case <-deadline:
			return
		case <-tick.C:
		}
	}
}

// adoptFile learns which file is in effect, unless that is known: the one that
// is there, if the newest worker has loaded its structure.
func (d *Driver) adoptFile() {
	if d.target != nil {
		return
	}
	text, err := d.paths.current()
	if err == nil && text != nil && d.worker != nil && config.StructureOf(text) == d.worker.Structure {
		d.good = text
	}
}

// checkVersion learns the binary's version, if it is not known.
func (d *Driver) checkVersion(ctx context.Context) error {
	if d.version != (version{}) {
		return nil
	}
	v, _, err := d.binary.version(ctx)
	var missing *MissingError
	if errors.As(err, &missing) && d.process == nil {
		d.board.setDaemon(Daemon{State: Missing, Message: err.Error()})
	}
	if err == nil {
		d.version = v
	}
	return err
}

// watch makes the process the driver's and begins to wait for its end.
func (d *Driver) watch(ctx context.Context, p *daemon.Process) {
	d.process = p
	d.restart.off()
	d.group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-p.Done():
		}
		if d.left.Load() == p {
			return nil
		}
		// Everyone is told before anything is done about it.
		d.newest.set(0)
		d.board.setDaemon(Daemon{State: Stopped, Message: end(p), Ended: true})
		select {
		case d.exits <- p:
		case <-ctx.Done():
		}
		return nil
	})
	d.attended(ctx, p)
}

// end puts the end of a process in words.
func end(p *daemon.Process) string {
	if words := alerts(p.Tail(), p.PID()); words != "" {
		return p.Exit() + ": " + words
	}
	return p.Exit()
}

// exited takes note that the process has ended, and when to start it again.
func (d *Driver) exited(p *daemon.Process) {
	if d.process != p {
		return
	}
	d.logger.Error("haproxy ended", "pid", p.PID(), "how", end(p))
	if time.Since(p.StartTime()) > steady {
		d.restart.delay.Reset()
	}
	d.process, d.worker = nil, nil
	d.version = version{} // another one may have been installed
	if d.target != nil {
		// What was known before it ended is better than nothing.
		if err := d.paths.writeStates(plan.CheckStates(d.board.newer(d.listing.States), d.target)); err != nil {
			d.logger.Warn("cannot hand on what is known of servers", "error", err)
		}
	}
	d.restart.again()
}

// startAgain starts the file that is there, or the last good one.
func (d *Driver) startAgain(ctx context.Context) {
	d.restart.off()
	if d.process != nil {
		return
	}
	d.writeFile()
	err := d.checkVersion(ctx)
	if err == nil {
		err = d.start(ctx)
	}
	if err != nil {
		err = errors.Join(err, d.startGood(ctx))
	}
	if d.process != nil {
		return
	}
	d.restart.again()
	if errors.Is(err, daemon.ErrNotRunning) { // and not the agent's to start
		d.board.setDaemon(Daemon{State: Stopped, Message: err.Error()})
		return
	}
	d.logger.Error("haproxy does not start", "error", err)
}

// startGood starts the last good file in place of one that does not start.
func (d *Driver) startGood(ctx context.Context) error {
	current, err := d.paths.current()
	if err != nil {
		return err
	}
	good, err := d.lastGood()
	if err != nil || good == nil || bytes.Equal(good, current) {
		return err
	}
	if err := d.paths.install(good); err != nil {
		return err
	}
	return d.start(ctx)
}

// start starts HAProxy with the file that is there and waits until it serves.
func (d *Driver) start(ctx context.Context) error {
	spec, err := d.spec()
	if err != nil {
		return err
	}
	p, err := d.begun(ctx, spec)
	if err != nil {
		return &FailedError{What: "cannot start it", Err: err}
	}
	d.worker = nil
	defer d.forgetStates()
	if err := d.untilServing(ctx, p); err != nil {
		d.board.setDaemon(Daemon{State: Stopped, Message: err.Error()})
		return errors.Join(err, d.giveUp(ctx, p))
	}
	d.watch(ctx, p)
	d.poll(ctx)
	d.logger.Info("started haproxy", "pid", p.PID())
	return nil
}

// startTimeout is how long a Runner may take for a start: longer than systemd
// lets one take (DefaultTimeoutStartSec= in systemd-system.conf(5), 90 s), so that
// its own words come first.
const startTimeout = 100 * time.Second

// begun has HAProxy started, in startTimeout.
func (d *Driver) begun(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return d.runner.Start(ctx, spec)
}

// untilServing waits for the first worker of a new process.
func (d *Driver) untilServing(ctx context.Context, p *daemon.Process) error {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	deadline := time.After(reloadTimeout)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
			return &FailedError{What: "it does not start", Words: alerts(p.Tail(), p.PID())}
		case <-deadline:
			return &FailedError{What: fmt.Sprintf("it does not serve %v after its start", reloadTimeout), Words: alerts(p.Tail(), p.PID())}
		case <-tick.C:
			if found, err := d.client.Processes(ctx); err == nil && len(found.Workers) > 0 {
				return nil
			}
		}
	}
}

// giveUp ends a process that does not serve.
func (d *Driver) giveUp(ctx context.Context, p *daemon.Process) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	select {
	case <-p.Done():
		return nil
	default:
		return d.runner.Stop(ctx, p)
	}
}

// forgetStates empties the state file, so that a start without the agent does
// not find old states. The file stays, because HAProxy warns of a missing one.
func (d *Driver) forgetStates() {
	if err := d.paths.writeStates(nil); err != nil {
		d.logger.Warn("cannot empty haproxy's state file", "error", err)
	}
}
