// Package guard has a small process of its own watch HAProxy, for machines without a
// service manager: when HAProxy ends and no agent lives that would do it, the process
// takes the node's score down, so that the VIPs leave. An agent that lives and hangs must
// not keep them away for good, which is the guard's to see, too.
//
// A guard asks nobody and polls nothing: it waits for the end of one HAProxy, and ends
// with it. Agents come and go beside it.
package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/alive"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// Runner is daemon.Exec whose HAProxy has a guard.
type Runner struct {
	daemon.Exec
	program  string
	stateDir string
	runDir   string
	log      hclog.Logger
}

// NewRunner returns a Runner whose guards are processes of this program: "hook
// haproxy-guard", with the agent's directories.
func NewRunner(stateDir, runDir string, log hclog.Logger) (*Runner, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return &Runner{program: program, stateDir: stateDir, runDir: runDir, log: log}, nil
}

// Find finds HAProxy, and sees to it that it has a guard.
func (r *Runner) Find(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	p, err := r.Exec.Find(ctx, spec)
	if err == nil {
		r.watch(ctx, p.PID())
	}
	return p, err
}

// Start starts HAProxy and its guard.
func (r *Runner) Start(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	p, err := r.Exec.Start(ctx, spec)
	if err == nil {
		r.watch(ctx, p.PID())
	}
	return p, err
}

// watch starts a guard for HAProxy's process, unless it has one. HAProxy does without
// where that fails.
func (r *Runner) watch(ctx context.Context, pid int) {
	spec := r.spec(pid)
	switch old, err := daemon.Adopt(spec); {
	case err == nil && guards(old.PID(), pid):
		old.Close()
		return
	case err == nil:
		// It has to do with an earlier HAProxy still.
		old.Close()
		if err := os.Remove(spec.PIDFile); err != nil {
			r.log.Warn("haproxy has no guard", "error", err)
			return
		}
	}
	p, err := daemon.Start(ctx, spec)
	if err != nil {
		r.log.Warn("haproxy has no guard: when it ends while no agent runs, its VIPs stay", "error", err)
		return
	}
	r.log.Debug("started a guard", "pid", p.PID(), "haproxy", pid)
}

func (r *Runner) spec(pid int) daemon.Spec {
	dir := filepath.Join(r.runDir, "haproxy")
	return daemon.Spec{
		Name: "haproxy-guard",
		Path: r.program,
		Args: []string{
			"hook", "haproxy-guard", "--process", strconv.Itoa(pid),
			"--state-dir", r.stateDir, "--run-dir", r.runDir,
		},
		PIDFile: filepath.Join(dir, "guard"),
		LogFile: filepath.Join(dir, "guard.log"),
		Logger:  r.log,
	}
}

// guards tells whether a process was started as the guard of HAProxy's.
func guards(guard, pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", guard))
	if err != nil {
		return false
	}
	words := strings.Split(string(line), "\x00")
	at := slices.Index(words, "--process")
	return at >= 0 && at+1 < len(words) && words[at+1] == strconv.Itoa(pid)
}

const (
	// patience is how long an agent that lives when HAProxy ends gets to take the score
	// down itself: one that dies in that moment does not.
	patience = time.Second
	// letGo is how long keepalived certainly has had to give its VIPs up, which the
	// agent has it do for 250 ms at most.
	letGo = 300 * time.Millisecond
)

// Acts are what a guard does to the score. Each may be called twice.
type Acts struct {
	// Dead takes it down, since HAProxy is dead.
	Dead func() error
	// Released ends the score with which keepalived gives its VIPs up, where it stands
	// still.
	Released func() error
}

// Guard waits for the end of HAProxy, and then calls Dead when no agent of the state
// directory lives, before one may start. Where one lives it calls Released instead, as
// soon as that is due and once more when the agent has had its time.
func Guard(ctx context.Context, pid int, stateDir string, acts Acts) error {
	p, err := daemon.Watch("haproxy", pid, nil)
	switch {
	case err == nil:
		defer p.Close()
		select {
		case <-p.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	case !errors.Is(err, daemon.ErrNotRunning):
		return err
	}
	for _, length := range []time.Duration{letGo, patience - letGo} {
		err = without(ctx, length, stateDir, acts.Dead)
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		// There is an agent, and it may hang.
		if err := acts.Released(); err != nil {
			return err
		}
	}
	return nil
}

// without is alive.Without that waits no longer than length.
func without(ctx context.Context, length time.Duration, stateDir string, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	return alive.Without(ctx, stateDir, do)
}
