package keepalived

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
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
			return errors.New(epitaph(p))
		case <-ctx.Done():
			return fmt.Errorf("keepalived is not ready for signal %d: %w", sig, ctx.Err())
		}
	}
}

// epitaph says how keepalived ended, with its last words.
func epitaph(p *daemon.Process) string {
	text := "keepalived " + p.Exit()
	var words []string
	for line := range strings.Lines(p.Tail()) {
		line = strings.TrimSpace(logTime.ReplaceAllString(line, ""))
		if line != "" && !strings.HasPrefix(line, "Printing VRRP as json") {
			words = append(words, line)
		}
	}
	if len(words) > 0 {
		text += ": " + strings.Join(words[max(0, len(words)-lastWords):], "; ")
	}
	return text
}

// lastWords is how many lines are enough to see why.
const lastWords = 6

// logTime is what keepalived puts before each line.
var logTime = regexp.MustCompile(`^[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ [\d:]{8} \d{4}: `)

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
