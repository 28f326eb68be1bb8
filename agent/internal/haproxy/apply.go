package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/access"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/plan"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// lookBefore is up to how many servers are read before each change; with more,
// what the last poll has seen must do, which is at most pollInterval old.
const lookBefore = 1000

// apply puts a configuration in effect. It ends early when ctx of the one who
// asked ends, or run of the driver.
func (d *Driver) apply(ctx, run context.Context, c *haproxyv1.Config) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()

	file, err := d.render(c)
	if err != nil {
		return Result{}, err
	}
	d.asked(file)
	if kept := d.foreign(); kept != d.beside {
		// A start without the agent needs it too.
		if err := d.paths.keepSite(d.site()); err != nil {
			return Result{}, &FailedError{What: "cannot write down what stays of a hand-written file", Err: err}
		}
		d.beside = kept
	}
	if err := d.checkVersion(ctx); err != nil {
		return Result{}, err
	}
	if _, err := d.paths.current(); err != nil {
		return Result{}, &FailedError{What: "cannot write its file", Err: err}
	}
	if d.process == nil {
		return d.applyCold(ctx, run, file)
	}
	found, err := d.refresh(ctx)
	if err == nil && len(d.worker.Servers) <= lookBefore {
		err = d.look(ctx)
	}
	if err != nil {
		return Result{}, &FailedError{What: "does not answer", Err: err}
	}
	p := d.plan(file)
	if p.Reload != "" {
		return d.applyReload(ctx, file, p.Reload)
	}
	result, err := d.applyRuntime(ctx, file, p)
	result.Finishing = len(found.OldWorkers)
	return result, err
}

// asked takes note of the file that is asked for.
func (d *Driver) asked(file *config.File) {
	if d.rendered == nil && d.foreign() != nil {
		d.worker = nil // which was read without knowing what is foreign
	}
	d.rendered = file
}

// applyCold starts HAProxy with the file. When it does not start, the last good
// one is started.
func (d *Driver) applyCold(ctx, run context.Context, file *config.File) (Result, error) {
	if err := d.candidate(ctx, file); err != nil {
		return Result{}, err
	}
	if err := d.checkProcess(file); err != nil {
		return Result{}, err
	}
	if err := d.paths.installCandidate(); err != nil {
		return Result{}, &FailedError{What: "cannot write its file", Err: err}
	}
	d.restart.off()
	err := d.start(run)
	if err != nil {
		good, back := d.restore()
		if good {
			d.startAgain(run)
		}
		return Result{}, errors.Join(err, back)
	}
	if _, err := d.refresh(ctx); err != nil {
		return Result{Reloaded: true}, &FailedError{What: "does not answer after its start", Err: err}
	}
	p := d.plan(file)
	if p.Reload != "" {
		// The unit's hook has made it start with the last good one.
		return d.applyReload(ctx, file, p.Reload)
	}
	if _, err := d.operate(ctx, file, p); err != nil {
		return Result{Reloaded: true}, err
	}
	d.confirmed(file)
	return Result{Reloaded: true}, nil
}

// candidate has HAProxy's checker read the file under another name.
func (d *Driver) candidate(ctx context.Context, file *config.File) error {
	if err := writeFile(d.paths.candidate, file.Text); err != nil {
		return &FailedError{What: "cannot write its file", Err: err}
	}
	return d.binary.check(ctx, d.paths.candidate)
}

// applyRuntime changes servers without a reload. The checker is not asked: it
// has seen the structure, and servers are made of tokens and numbers.
func (d *Driver) applyRuntime(ctx context.Context, file *config.File, p plan.Plan) (Result, error) {
	operations, err := d.operate(ctx, file, p)
	result := Result{Operations: operations}
	var stuck *stuckError
	if errors.As(err, &stuck) {
		reloaded, err := d.applyReload(ctx, file, stuck.Error())
		reloaded.Operations = operations
		return reloaded, err
	}
	if err != nil {
		return result, errors.Join(err, d.undo(ctx))
	}
	crash.ServersChanged.Pass()
	d.confirmed(file)
	return result, nil
}

// confirmed takes note that the file is in effect, and has it written.
func (d *Driver) confirmed(file *config.File) {
	structure := d.target == nil || d.target.Structure != file.Structure
	d.target, d.good, d.settled = file, file.Text, d.worker.pid
	d.logRequests(file)
	if structure {
		d.writeFile() // the last good one must not be of another structure for long
	} else {
		d.behind.soon()
	}
}

// logRequests has requests logged where the file says.
func (d *Driver) logRequests(file *config.File) {
	d.access.Use(destinations[file.LocalLog], file.JSONLog)
}

// destinations of the access log; there is no other that can be rendered.
var destinations = map[haproxyv1.LocalLog]access.Destination{
	haproxyv1.LocalLog_LOCAL_LOG_SYSLOG:   access.Syslog,
	haproxyv1.LocalLog_LOCAL_LOG_JOURNALD: access.Journald,
	haproxyv1.LocalLog_LOCAL_LOG_FILE:     access.File,
}

// lastGood returns the last file that was in effect; nil when there is none.
func (d *Driver) lastGood() ([]byte, error) {
	if d.good != nil {
		return d.good, nil
	}
	return readOurs(d.paths.good)
}

// restore puts the last good file back, and tells whether there is one. Without
// one HAProxy gets no file at all.
func (d *Driver) restore() (bool, error) {
	good, err := d.lastGood()
	if err != nil {
		return false, err
	}
	current, err := d.paths.current()
	switch {
	case err != nil:
		return false, err
	case good == nil && current == nil:
		return false, nil
	case good == nil:
		return false, os.Remove(d.paths.file)
	case bytes.Equal(good, current):
		return true, nil
	default:
		return true, d.paths.install(good)
	}
}

// undo puts the last good file back, and as far as possible what it says.
func (d *Driver) undo(ctx context.Context) error {
	var errs []error
	if _, err := d.restore(); err != nil {
		d.behind.soon()
		errs = append(errs, fmt.Errorf("and the last good file is not back: %w", err))
	}
	if d.target != nil && d.worker != nil {
		if _, err := d.operate(ctx, d.target, d.plan(d.target)); err != nil {
			errs = append(errs, fmt.Errorf("and the last good state is not back: %w", err))
		}
	}
	return errors.Join(errs...)
}

// plan plans for the newest worker.
func (d *Driver) plan(file *config.File) plan.Plan {
	return plan.Make(&d.worker.Worker, file, d.version.atLeast(addsServers))
}

// stuckError means that runtime operations do not lead to the file's servers,
// but a reload would.
type stuckError struct{ words string }

func (e *stuckError) Error() string { return e.words }

const (
	// rounds of planning: one may need what the one before has deleted, and one
	// finds nothing left to do.
	rounds = 4
	// patience is how long a server that is replaced may keep the name for the
	// sake of requests in flight, before a reload takes it away.
	patience = 500 * time.Millisecond
)

// operate carries out a plan and plans again until the newest worker has the
// file's servers, as read back from it. It returns how many it changed.
func (d *Driver) operate(ctx context.Context, file *config.File, p plan.Plan) (operations int, err error) {
	said := ""
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for round := 1; ; round++ {
		switch {
		case p.Reload != "":
			return operations, &stuckError{words: p.Reload}
		case len(p.Steps) == 0:
			d.retry.set(len(p.Leftovers) > 0)
			return operations, nil
		case p.Waiting && time.Now().Before(deadline):
			select {
			case <-ctx.Done():
				return operations, ctx.Err()
			case <-tick.C:
			}
		case round > rounds:
			words := strings.FieldsFunc(said, func(r rune) bool { return r == '\n' })
			return operations, &stuckError{words: "runtime commands do not work: " + strings.Join(words, "; ")}
		}
		if round == 1 {
			operations = len(p.Steps)
		}
		if said, err = d.carryOut(ctx, p.Steps, file); err != nil {
			return operations, err
		}
		p = d.plan(file)
	}
}

// carryOut sends the commands of steps and reads back what they did.
func (d *Driver) carryOut(ctx context.Context, steps []plan.Step, file *config.File) (words string, err error) {
	keys := make([]config.Key, len(steps))
	var commands []runtime.Command
	for i, step := range steps {
		keys[i] = step.Key
		commands = append(commands, step.Commands...)
	}
	words, err = d.client.Do(ctx, d.worker.pid, commands)
	if err == nil {
		err = d.readBack(ctx, keys, file)
	}
	if err != nil {
		err = &FailedError{What: "does not answer", Words: words, Err: err}
	}
	return words, err
}

// retry tells when to try deletions again that HAProxy refused because of
// connections.
type retry struct {
	delay *backoff.ExponentialBackOff
	timer <-chan time.Time // nil: nothing to delete
}

func newRetry() retry {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = 200*time.Millisecond, 10*time.Second
	return retry{delay: delay}
}

func (r *retry) due() <-chan time.Time { return r.timer }

// set begins to try, or ends it.
func (r *retry) set(needed bool) {
	r.delay.Reset()
	r.timer = nil
	if needed {
		r.timer = time.After(r.delay.NextBackOff())
	}
}

// deleteLeftovers deletes servers that are in maintenance and not wanted.
func (d *Driver) deleteLeftovers(ctx context.Context) {
	d.retry.timer = nil
	if d.process == nil || d.target == nil {
		return
	}
	if _, err := d.refresh(ctx); err != nil {
		return // poll tells
	}
	var steps []plan.Step
	for _, key := range d.plan(d.target).Leftovers {
		steps = append(steps, plan.Step{Key: key, Commands: []runtime.Command{runtime.Delete(key)}})
	}
	if len(steps) == 0 {
		return
	}
	if _, err := d.carryOut(ctx, steps, d.target); err != nil {
		d.logger.Warn("cannot delete servers", "error", err)
	}
	d.retry.timer = time.After(d.retry.delay.NextBackOff())
}
