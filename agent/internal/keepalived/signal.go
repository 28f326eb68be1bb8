package keepalived

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// send sends a signal when the process is ready for it: one that comes before
// keepalived has said what it does with it would kill it.
func send(ctx context.Context, p *daemon.Process, sig syscall.Signal) error {
	poll := time.NewTicker(dumpPoll)
	defer poll.Stop()
	for {
		ready, err := expects(p.PID(), sig)
		if err != nil {
			return err
		}
		if ready {
			return p.Signal(sig)
		}
		select {
		case <-poll.C:
		case <-p.Done():
			return fmt.Errorf("keepalived %s: %s", p.Exit(), p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("keepalived is not ready for signal %d: %w", sig, ctx.Err())
		}
	}
}

// expects tells whether a signal would not just kill the process, that is,
// whether it blocks, ignores or catches it. keepalived reads blocked signals
// from a descriptor, after it has ignored them while it starts.
func expects(pid int, sig syscall.Signal) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it has just ended
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "SigBlk", "SigIgn", "SigCgt":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return false, fmt.Errorf("/proc/%d/status: %s: %w", pid, name, err)
			}
			if mask&(1<<(sig-1)) != 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// kill ends a keepalived that does not answer, and its child, which might be
// what hangs and would keep the addresses.
func kill(p *daemon.Process) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
	if err := errors.Join(err, p.Signal(unix.SIGKILL)); err != nil {
		return err
	}
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
