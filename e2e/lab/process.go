package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ProcessSpec describes a long-running process of a host.
type ProcessSpec struct {
	// Name names the log file, Name.log in Host.Dir. A second process of the
	// same name appends to it.
	Name string
	// Args is the command line; Args[0] is looked up in PATH.
	Args []string
	// Env is added to the environment of the caller, as "KEY=value".
	Env []string
	// Stdout receives standard output; nil sends it to the log file, where
	// standard error always goes.
	Stdout io.Writer
}

// Process is a running or ended process of a host, in a session of its own.
type Process struct {
	// Log is the path of the log file.
	Log string

	name  string
	start int64     // size of the log file before the process began
	cmd   *exec.Cmd // nsenter, which waits for the process and ends as it does
	pid   int       // of the process itself, as seen from outside
	done  chan struct{}
	err   error // how it ended; set before done is closed
}

// Start starts a process in the host. It outlives ctx, which bounds the start
// alone: it ends by itself, by Stop or Kill, or with the lab.
func (h *Host) Start(ctx context.Context, spec ProcessSpec) (*Process, error) {
	log := filepath.Join(h.Dir(), spec.Name+".log")
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the process has its own descriptor
	before, err := file.Stat()
	if err != nil {
		return nil, err
	}
	argv := h.argv(spec.Args[0], spec.Args[1:])
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), spec.Env...)
	if h.Plain() {
		cmd.Env = append(cmd.Env, plainEnv+h.Dir())
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = file, file
	if spec.Stdout != nil {
		cmd.Stdout = spec.Stdout
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", spec.Name, h.Name, err)
	}
	p := &Process{Log: log, name: spec.Name + " on " + h.Name, start: before.Size(), cmd: cmd, done: make(chan struct{})}
	h.processes.Go(func() {
		defer close(p.done)
		p.err = cmd.Wait()
	})
	if h.Plain() {
		p.pid = cmd.Process.Pid
		return p, nil
	}
	if err := p.findPID(ctx); err != nil {
		return nil, errors.Join(err, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
	}
	return p, nil
}

// findPID waits until nsenter has started the process.
func (p *Process) findPID(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return Until(ctx, "process id of "+p.name, func(context.Context) error {
		if p.ended() {
			return nil // Wait tells how
		}
		pid, err := childOf(p.cmd.Process.Pid)
		p.pid = pid
		return err
	})
}

// childOf returns the only child of a process. Not every kernel lists children
// under /proc/PID/task, so all processes are looked at.
func childOf(parent int) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if fields := stat(dir); len(fields) > 1 && string(fields[1]) == strconv.Itoa(parent) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("process %d has no child yet", parent)
}

// stat returns the fields of /proc/PID/stat from the state on, or nothing if
// the process is gone.
func stat(dir string) [][]byte {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil
	}
	// The command name before them may itself hold spaces and parentheses.
	return bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
}

// startTime is when a process was started, in clock ticks since the boot; 0 if it
// is gone (proc_pid_stat(5)).
func startTime(dir string) uint64 {
	const field = 22 - 3 // counted from the state, which is the third
	fields := stat(dir)
	if len(fields) <= field {
		return 0
	}
	ticks, _ := strconv.ParseUint(string(fields[field]), 10, 64)
	return ticks
}

func zombie(dir string) bool {
	fields := stat(dir)
	return len(fields) == 0 || string(fields[0]) == "Z"
}

// PID returns the process id as seen from outside the host.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns how it ended: nil for exit
// status 0, an *exec.ExitError otherwise, or the context's error.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
	}
}

// Logged waits until the process has written that text to its log file. It
// fails at once if the process ends without.
func (p *Process) Logged(ctx context.Context, text string) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	return Until(ctx, fmt.Sprintf("%q in %s", text, p.Log), func(context.Context) error {
		ended := p.ended() // asked first: what it wrote before is then all there
		log, err := os.ReadFile(p.Log)
		switch {
		case err != nil:
			return err
		case bytes.Contains(log[p.start:], []byte(text)):
			return nil
		case ended:
			giveUp()
			return fmt.Errorf("%s has ended (%s)", p.name, p.cmd.ProcessState)
		}
		return errors.New("not written yet")
	})
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process. One that has ended is not an error.
func (p *Process) Signal(sig syscall.Signal) error {
	if p.ended() {
		return nil
	}
	err := syscall.Kill(p.pid, sig)
	if sig == syscall.SIGCONT {
		// nsenter stops itself together with its child.
		err = errors.Join(err, syscall.Kill(p.cmd.Process.Pid, sig))
	}
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Kill ends the process, and nothing that it started, with SIGKILL and waits
// for its end.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the process to end with SIGTERM and kills it after the grace time.
// It returns how the process ended; an error says if it had to be killed.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
	}
	return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.name, grace), p.Kill())
}
