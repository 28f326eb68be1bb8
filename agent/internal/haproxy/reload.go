package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/plan"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

const (
	// waitTick is how often a condition is looked at.
	waitTick = 5 * time.Millisecond
	// reloadTimeout is how long a start or reload may take.
	reloadTimeout = 60 * time.Second
)

// applyReload puts a file in effect by a reload.
func (d *Driver) applyReload(ctx context.Context, file *config.File, reason string) (Result, error) {
	if err := d.candidate(ctx, file); err != nil {
		return Result{}, errors.Join(err, d.undo(ctx))
	}
	if err := d.checkProcess(file); err != nil {
		return Result{}, errors.Join(err, d.undo(ctx))
	}
	// While HAProxy tries in vain to bind an address it pauses its old worker,
	// and clients are refused for two seconds.
	if err := d.checkBinds(ctx, file.Binds); err != nil {
		return Result{}, errors.Join(err, d.undo(ctx))
	}
	crash.CandidateChecked.Pass()
	if err := d.handOver(ctx, file); err != nil {
		return Result{}, errors.Join(err, d.undo(ctx))
	}
	crash.HandedOver.Pass()
	states, err := d.client.States(ctx, d.worker.pid)
	if err == nil {
		err = d.paths.writeStates(plan.CheckStates(states, file))
	}
	if err == nil {
		err = d.paths.installCandidate()
	}
	if err != nil {
		return Result{}, errors.Join(&FailedError{What: "cannot prepare a reload", Err: err}, d.undo(ctx))
	}
	crash.FileSwapped.Pass()
	defer d.forgetStates()
	if err := d.reload(ctx); err != nil {
		return Result{}, errors.Join(err, d.undo(ctx))
	}
	crash.Reloaded.Pass()
	d.board.reloaded()
	d.logger.Info("reloaded haproxy", "reason", reason, "worker", d.worker.pid)
	if loaded := d.worker.Structure; loaded != file.Structure {
		return Result{Reloaded: true}, &FailedError{What: fmt.Sprintf("loaded another file (%q, not %q) than it was given", loaded, file.Structure)}
	}
	operations, err := d.operate(ctx, file, d.plan(file))
	if err != nil {
		return Result{Reloaded: true}, &FailedError{What: "reloaded, but its servers are not right", Err: err}
	}
	d.confirmed(file)
	return Result{Reloaded: true, Operations: operations}, nil
}

// handOver brings the worker that a reload will replace as near to the file as
// it can get, unless there would be no way back.
func (d *Driver) handOver(ctx context.Context, file *config.File) error {
	if d.target == nil {
		return nil
	}
	steps := plan.Handover(&d.worker.Worker, file)
	if len(steps) == 0 {
		return nil
	}
	_, err := d.carryOut(ctx, steps, file)
	return err
}

// reload has the master read its file again and waits until the new worker
// serves and the old ones have stopped to accept.
func (d *Driver) reload(ctx context.Context) error {
	before, err := d.client.Processes(ctx)
	if err != nil {
		return &FailedError{What: "does not answer", Err: err}
	}
	said := d.process.Listen()
	reply, err := d.client.Reload(ctx)
	if err != nil {
		return &FailedError{What: "does not reload", Err: err}
	}
	if strings.HasPrefix(reply, "Success=0") {
		return &FailedError{What: "does not reload", Words: alerts(reply, 0)}
	}
	after, err := d.untilReloaded(ctx, before)
	if err != nil {
		return err
	}
	if !hasNew(before, after) {
		return &FailedError{What: "does not start with the new configuration", Words: alerts(said(ctx), before.Master.PID)}
	}
	if err := d.untilOldStopped(ctx); err != nil {
		return err
	}
	if _, err := d.refresh(ctx); err != nil {
		return &FailedError{What: "does not answer after a reload", Err: err}
	}
	return nil
}

// hasNew tells whether there is a worker that was not there before.
func hasNew(before, after *runtime.Processes) bool {
	if len(after.Workers) == 0 {
		return false
	}
	for _, w := range before.Workers {
		if w.PID == after.Workers[0].PID {
			return false
		}
	}
	return true
}

// untilReloaded waits until the master answers again and has counted a reload.
// By then a new worker is there, or will not be.
func (d *Driver) untilReloaded(ctx context.Context, before *runtime.Processes) (*runtime.Processes, error) {
	var after *runtime.Processes
	err := d.until(ctx, func() (bool, error) {
		var err error
		after, err = d.client.Processes(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // the master does not answer while it reloads
		}
		return after.Master.Reloads > before.Master.Reloads, nil
	})
	return after, err
}

// untilOldStopped waits until no old worker accepts connections.
func (d *Driver) untilOldStopped(ctx context.Context) error {
	return d.until(ctx, func() (bool, error) {
		found, err := d.client.Processes(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // tried again
		}
		for _, old := range found.OldWorkers {
			info, err := d.client.Info(ctx, old.PID)
			if err != nil || !info.Stopping {
				return false, nil //nolint:nilerr // it has ended, which the next look shows
			}
		}
		return true, nil
	})
}

// until waits for a condition.
func (d *Driver) until(ctx context.Context, condition func() (bool, error)) error {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	deadline := time.After(reloadTimeout)
	for {
		ok, err := condition()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.process.Done():
			return &FailedError{What: "ended while it reloaded", Words: end(d.process)}
		case <-deadline:
			return &FailedError{What: fmt.Sprintf("has not finished its reload after %v", reloadTimeout)}
		case <-tick.C:
		}
	}
}
