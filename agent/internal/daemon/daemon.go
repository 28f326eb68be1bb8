// Package daemon starts daemons that outlive the agent and finds them again, and
// watches those that others start.
//
// A daemon runs in a session of its own (and a cgroup of its own where that is
// possible) with its output in a file, so that neither the agent's death nor
// its service manager touches it. Its identity is the boot, the process id and
// the process's start time, kept in a file; a recycled process id is never
// taken for the daemon and never signalled.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/slack"
)

// ErrNotRunning is returned by Adopt when no process of the daemon runs.
var ErrNotRunning = errors.New("not running")

// Spec says how a daemon is started and where it is found again.
type Spec struct {
	// Name of the daemon in errors and logs, and of its cgroup.
	Name string
	// Path of the binary, absolute.
	Path string
	// Args without the binary's name.
	Args []string
	// File is the configuration file among Args, by which the daemon is told from
	// one that does something else.
	File string
	// Env is added to an environment that holds only PATH.
	Env []string
	// PIDFile is where this package keeps the identity of the process. It is
	// not a file that the daemon itself writes.
	PIDFile string
	// LogFile gets standard output and standard error. A file that has grown
	// past 1 MiB is renamed to LogFile.1 at a start.
	LogFile string
	// Stale are files of an earlier process that would mislead a new one; they
	// are removed before a start.
	Stale []string
	// RealTime is the priority, 1 to 99, of round-robin real-time scheduling
	// for the daemon and its children; 0: none. Where it is not permitted the
	// daemon runs without.
	RealTime int
	// Logger may be nil.
	Logger hclog.Logger
}

// environment that every daemon gets; the agent's own is none of its business.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// gate holds the new process back until its identity is on disk: a crash of
// the agent at any point leaves either no daemon or one that can be adopted.
const gate = `read -r go && exec "$@" </dev/null`

// Start starts the daemon. It fails when one runs already under the same
// PIDFile: adopt that one. The daemon does not end with ctx, which is only
// looked at before.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch running, err := Adopt(spec); {
	case err == nil:
		pid := running.PID()
		running.Close()
		return nil, fmt.Errorf("start %s: already runs as process %d", spec.Name, pid)
	case !errors.Is(err, ErrNotRunning):
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	if _, err := exec.LookPath(spec.Path); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	for _, file := range spec.Stale {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("start %s: %w", spec.Name, err)
		}
	}
	process, err := start(spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return process, nil
}

// start starts a shell that becomes the daemon once the agent knows it.
func start(spec Spec) (*Process, error) {
	log, offset, err := openLog(spec.LogFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command("/bin/sh", append([]string{"-c", gate, spec.Name, spec.Path}, spec.Args...)...)
	cmd.Env = append([]string{searchPath}, spec.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	open, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Without its line the shell ends by itself.
	defer open.Close()
	if err := slack.Punctual(cmd.Start); err != nil {
		return nil, err
	}
	process, err := find(spec.Name, cmd.Process.Pid, newLogFile(spec.LogFile, offset))
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	process.pidFile = spec.PIDFile
	process.cgroup = joinCgroup(spec, process.PID())
	if err := setRealTime(process.PID(), spec.RealTime); err != nil {
		logDebug(spec, "daemon runs without real-time priority", err)
	}
	// From here the Process reaps.
	go process.wait()
	if err := cmd.Process.Release(); err != nil {
		return nil, process.abandon(err)
	}
	if err := writeIdentity(spec.PIDFile, process.identity); err != nil {
		return nil, process.abandon(err)
	}
	if _, err := io.WriteString(open, "go\n"); err != nil {
		return nil, process.abandon(err)
	}
	return process, nil
}

// logDebug tells what a daemon has to do without.
func logDebug(spec Spec, what string, why error) {
	if spec.Logger != nil {
		spec.Logger.Debug(what, "daemon", spec.Name, "reason", why)
	}
}

// Adopt finds the daemon that an earlier agent started. It returns
// ErrNotRunning when there is none, also when the process id now belongs to
// another process.
func Adopt(spec Spec) (*Process, error) {
	want, err := readIdentity(spec.PIDFile)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", spec.Name, err)
	}
	process, err := find(spec.Name, want.pid, newLogFile(spec.LogFile, 0))
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", spec.Name, err)
	}
	if process.identity != want {
		process.Close()
		return nil, fmt.Errorf("adopt %s: process %d is another one: %w", spec.Name, want.pid, ErrNotRunning)
	}
	process.pidFile = spec.PIDFile
	go process.wait()
	return process, nil
}

// Take makes a process that somebody else has started the daemon, as if Start
// had started it. It returns ErrNotRunning when there is no such process.
func Take(spec Spec, pid int) (*Process, error) {
	process, err := find(spec.Name, pid, newLogFile(spec.LogFile, 0))
	if err != nil {
		return nil, fmt.Errorf("take %s: %w", spec.Name, err)
	}
	process.pidFile = spec.PIDFile
	if err := writeIdentity(spec.PIDFile, process.identity); err != nil {
		process.Close()
		return nil, fmt.Errorf("take %s: %w", spec.Name, err)
	}
	go process.wait()
	return process, nil
}

// Watch watches a process that someone else has started and will reap. It
// returns ErrNotRunning when there is none with that id. Without an output nobody may
// ask what it says.
func Watch(name string, pid int, output Output) (*Process, error) {
	process, err := find(name, pid, output)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", name, err)
	}
	go process.wait()
	return process, nil
}

// find opens a descriptor of the process; nobody waits for its end yet.
func find(name string, pid int, output Output) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	// The descriptor means one process for ever, so what /proc says is about
	// that one as long as it has not ended.
	who, err := identify(pid)
	if ended(fd) {
		reap(fd, pid)
		err = ErrNotRunning
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &Process{
		name:     name,
		output:   output,
		identity: who,
		fd:       os.NewFile(uintptr(fd), "pidfd"),
		done:     make(chan struct{}),
	}, nil
}
