package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running daemon, started or adopted. Its methods may be called
// from any goroutine.
type Process struct {
	name     string
	output   Output
	identity identity
	fd       *os.File // pidfd
	pidFile  string   // holds the identity; empty: nothing does
	cgroup   string   // directory, or empty

	done chan struct{} // closed when the process has ended
	exit string        // how it ended; written before done is closed
}

// PID is the process id.
func (p *Process) PID() int { return p.identity.pid }

// StartTime is when the process started, to about 10 ms, by the clock of now.
func (p *Process) StartTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(p.identity.start)*tick - time.Duration(up.Nano()))
}

// Done is closed when the process has ended, whoever's child it is. It stays
// open when Close comes first.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the process ended, such as "exited with status 1" or "killed
// by SIGKILL"; of an adopted one only that it ended. Empty while it runs.
func (p *Process) Exit() string {
	select {
	case <-p.done:
		return p.exit
	default:
		return ""
	}
}

// Signal sends a signal to exactly this process. The error is
// os.ErrProcessDone when it has ended and os.ErrClosed after Close.
func (p *Process) Signal(sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %s: %v is not a signal of this system", p.name, sig)
	}
	err := p.control(func(fd int) error {
		return unix.PidfdSendSignal(fd, number, nil, 0)
	})
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal %s with %v: %w", p.name, sig, err)
	}
	return nil
}

// Stop sends SIGTERM and waits for the end. When ctx ends before, it sends
// SIGKILL, waits for that, and returns ctx's error.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return fmt.Errorf("stop %s: killed, as it did not end in time: %w", p.name, ctx.Err())
}

// Close stops watching the process, which goes on.
func (p *Process) Close() { p.fd.Close() }

// Forget has no Adopt find the process, which goes on and is watched still: a child
// of this process has to be waited for.
func (p *Process) Forget() error {
	if p.pidFile == "" {
		return nil
	}
	return os.Remove(p.pidFile)
}

// Tail returns the last lines of the output of this process, at most 20 and
// 8 KiB; of an adopted one perhaps some of its forerunner's. Empty when there
// are none or they cannot be read.
func (p *Process) Tail() string { return p.output.Tail() }

// Listen begins to listen to the output; the function tells what has been said
// since, at most 64 KiB.
func (p *Process) Listen() (said func(context.Context) string) { return p.output.Listen() }

// TrimLog keeps the output of a daemon that runs for long small. It is to be
// called now and then.
func (p *Process) TrimLog() error { return p.output.Trim() }

// wait ends when the process has ended or Close was called. The runtime's
// poller watches the descriptor, so no thread is held.
func (p *Process) wait() {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	exit := ""
	err = raw.Read(func(fd uintptr) bool {
		if !ended(int(fd)) {
			return false
		}
		exit = reap(int(fd), p.PID())
		return true
	})
	if err != nil {
		return
	}
	leaveCgroup(p.cgroup)
	p.exit = exit
	close(p.done)
	p.fd.Close()
}

// abandon ends a process that cannot be used, because of the error cause.
func (p *Process) abandon(cause error) error {
	err := p.Signal(unix.SIGKILL)
	if err == nil {
		<-p.done
	}
	return errors.Join(cause, err)
}

func (p *Process) control(do func(fd int) error) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = do(int(fd)) }); err != nil {
		if p.Exit() != "" {
			return os.ErrProcessDone
		}
		return os.ErrClosed
	}
	return result
}

// ended tells whether the process of the descriptor has ended.
func ended(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

// reap collects the exit status, where the process is a child of the agent,
// and puts it in words.
func reap(fd, pid int) string {
	// Only an unreaped child passes, and it keeps its process id until Wait4.
	if err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return "ended"
	}
	var status unix.WaitStatus
	if reaped, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err != nil || reaped != pid {
		return "ended"
	}
	if status.Signaled() {
		name := unix.SignalName(status.Signal())
		if name == "" { // a real-time signal
			name = fmt.Sprintf("signal %d", status.Signal())
		}
		return "killed by " + name
	}
	return fmt.Sprintf("exited with status %d", status.ExitStatus())
}
