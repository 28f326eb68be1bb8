package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/plan"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// apply puts a configuration in effect. It ends early when the one who asked
// gives up or the driver ends.
func (d *Driver) apply(run context.Context, r request) (Result, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()

	file, err := d.render(r.config)
	if err != nil {
		return Result{}, err
	}
	if err := d.checkVersion(ctx); err != nil {
		return Result{}, err
	}
	current, err := d.paths.current()
	if err != nil {
		return Result{}, &FailedError{What: "cannot write its file", Err: err}
	}
	if d.process == nil {
		return d.applyCold(ctx, run, file)
	}
	if err := d.refresh(ctx); err != nil {
		return Result{}, &FailedError{What: "does not answer", Err: err}
	}
	p := d.plan(file)
	if p.Reload != "" {
		return d.applyReload(ctx, file, p.Reload)
	}
	return d.applyRuntime(ctx, file, current)
}

// applyCold starts HAProxy with the file. When it does not start, the last good
// one is started.
func (d *Driver) applyCold(ctx, run context.Context, file *config.File) (Result, error) {
	if err := d.candidate(ctx, file); err != nil {
		return Result{}, err
	}
	if err := d.paths.installCandidate(); err != nil {
		return Result{}, &FailedError{What: "cannot write its file", Err: err}
	}
	d.restart.off()
	err := d.start(run)
	if err != nil {
		good, back := d.paths.restore()
		if good {
			d.startAgain(run)
		}
		return Result{}, errors.Join(err, back)
	}
	if _, err := d.operate(ctx, file); err != nil {
		return Result{Reloaded: true}, err
	}
	return Result{Reloaded: true}, d.confirmed(file)
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
func (d *Driver) applyRuntime(ctx context.Context, file *config.File, current []byte) (Result, error) {
	if !bytes.Equal(file.Text, current) {
		// The file first, so that no change is lost by a crash in between.
		if err := d.paths.install(file.Text); err != nil {
			return Result{}, &FailedError{What: "cannot write its file", Err: err}
		}
	}
	operations, err := d.operate(ctx, file)
	result := Result{Operations: operations}
	var stuck *stuckError
	if errors.As(err, &stuck) && stuck.reload {
		d.logger.Info("a runtime change needs a reload", "reason", err)
		reloaded, err := d.applyReload(ctx, file, stuck.Error())
		reloaded.Operations = operations
		return reloaded, err
	}
	if err != nil {
		return result, errors.Join(err, d.undo(ctx))
	}
	return result, d.confirmed(file)
}

// confirmed takes note that the file is in effect.
func (d *Driver) confirmed(file *config.File) error {
	d.target = file
	if err := d.paths.keep(); err != nil {
		return &FailedError{What: "in effect, but it cannot be kept as the last good one", Err: err}
	}
	return nil
}

// undo puts the last good file back, and as far as possible what it says.
func (d *Driver) undo(ctx context.Context) error {
	if _, err := d.paths.restore(); err != nil {
		return fmt.Errorf("and the last good file is not back: %w", err)
	}
	if d.target == nil || d.process == nil {
		return nil
	}
	if _, err := d.operate(ctx, d.target); err != nil {
		return fmt.Errorf("and the last good state is not back: %w", err)
	}
	return nil
}

// plan plans for the living workers.
func (d *Driver) plan(file *config.File) plan.Plan {
	workers := make([]*plan.Worker, len(d.workers))
	for i, w := range d.workers {
		workers[i] = &w.Worker
	}
	return plan.Make(workers, file, d.version.atLeast(addsServers))
}

// stuckError means that runtime operations do not lead to the target.
type stuckError struct {
	reload bool // a reload would
	words  string
}

func (e *stuckError) Error() string { return e.words }

// rounds of planning: one may need what the one before has deleted, and one
// finds nothing left to do.
const rounds = 4

// operate brings every living worker to the file's servers and reads back that
// they are there. It returns how many servers it changed.
func (d *Driver) operate(ctx context.Context, file *config.File) (operations int, err error) {
	said := ""
	for range rounds {
		p := d.plan(file)
		if p.Reload != "" {
			return operations, &stuckError{reload: true, words: p.Reload}
		}
		if len(p.Steps) == 0 {
			d.retry.set(len(p.Leftovers) > 0)
			return operations, nil
		}
		touched := make(map[*worker][]config.Key)
		commands := make(map[*worker][]runtime.Command)
		for _, step := range p.Steps {
			w := d.worker(step.PID)
			touched[w] = append(touched[w], step.Key)
			commands[w] = append(commands[w], step.Commands...)
			if !w.Old {
				operations++
			}
		}
		for w, keys := range touched {
			words, err := d.operateOn(ctx, w, commands[w], keys, file)
			if err != nil {
				return operations, err
			}
			said += words
		}
	}
	onNewest := false
	for _, step := range d.plan(file).Steps {
		onNewest = onNewest || !d.worker(step.PID).Old
	}
	words := strings.Join(strings.FieldsFunc(said, func(r rune) bool { return r == '\n' }), "; ")
	return operations, &stuckError{reload: onNewest, words: "runtime commands do not work: " + words}
}

// operateOn sends commands to one worker and reads back what they did.
func (d *Driver) operateOn(ctx context.Context, w *worker, commands []runtime.Command, keys []config.Key, file *config.File) (string, error) {
	words, err := d.client.Do(ctx, w.PID, commands)
	if err == nil {
		err = d.readBack(ctx, w, keys, file)
	}
	if errors.Is(err, runtime.ErrNoWorker) && w.Old {
		d.drop(w)
		return words, nil
	}
	if err != nil {
		return words, &FailedError{What: fmt.Sprintf("worker %d does not answer", w.PID), Words: words, Err: err}
	}
	return words, nil
}

// drop forgets a worker that has ended.
func (d *Driver) drop(gone *worker) {
	var left []*worker
	for _, w := range d.workers {
		if w != gone {
			left = append(left, w)
		}
	}
	d.workers = left
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
	if err := d.refresh(ctx); err != nil {
		return // poll tells
	}
	leftovers := d.plan(d.target).Leftovers
	if len(leftovers) == 0 {
		return
	}
	var commands []runtime.Command
	for _, key := range leftovers {
		commands = append(commands, runtime.Delete(key))
	}
	if _, err := d.operateOn(ctx, d.workers[0], commands, leftovers, d.target); err != nil {
		d.logger.Warn("cannot delete servers", "error", err)
	}
	d.retry.timer = time.After(d.retry.delay.NextBackOff())
}
