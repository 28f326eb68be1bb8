package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc (USER_HZ, on every Linux).
const tick = time.Second / 100

// Child is what the kernel says of a child of a daemon.
type Child struct {
	PID int
	// Runnable tells that a thread of it runs or waits for a processor, and for
	// nothing else.
	Runnable bool
	// CPU is the processor time that it has had, to 10 ms.
	CPU time.Duration

	start uint64
}

// Youngest returns the child of the process that was started last; the zero Child
// when there is none.
func (p *Process) Youngest() (youngest Child, err error) {
	pids, err := p.children()
	if err != nil {
		return Child{}, err
	}
	for _, pid := range pids {
		c, err := childOf(p.PID(), pid)
		if err != nil {
			return Child{}, err
		}
		if c.PID != 0 && c.start >= youngest.start {
			youngest = c
		}
	}
	return youngest, nil
}

// KillAll sends SIGKILL to the children of the process and then to itself. A child
// that is stopped would outlive it.
func (p *Process) KillAll() error {
	pids, err := p.children()
	failed := []error{err}
	for _, pid := range pids {
		failed = append(failed, killChild(p.PID(), pid))
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// children are the process ids of the children; none when the process has ended.
func (p *Process) children() ([]int, error) {
	listed, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
	// Another process may have had the process id by then.
	if ended := p.Signal(unix.Signal(0)); errors.Is(ended, os.ErrProcessDone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("children of %s: %w", p.name, err)
	}
	var pids []int
	for _, word := range strings.Fields(string(listed)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("children of %s: %w", p.name, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// childOf reads what the kernel says of a process; the zero Child when that is no
// child of the parent, or has ended.
func childOf(parent, pid int) (Child, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Child{}, nil
	}
	if err != nil {
		return Child{}, err
	}
	var of, user, system uint64
	c := Child{PID: pid}
	for number, to := range map[int]*uint64{4: &of, 14: &user, 15: &system, 22: &c.start} {
		text, err := statField(string(stat), number)
		if err == nil {
			*to, err = strconv.ParseUint(text, 10, 64)
		}
		if err != nil {
			return Child{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	if state, err := statField(string(stat), 3); int(of) != parent || err == nil && state == "Z" {
		return Child{}, nil
	}
	c.CPU = time.Duration(user+system) * tick
	c.Runnable = runnable(pid)
	return c, nil
}

// runnable tells whether a thread of the process runs or could.
func runnable(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if state, err := statField(string(stat), 3); err == nil && state == "R" {
			return true
		}
	}
	return false
}

// killChild kills a process if it is a child of the parent still.
func killChild(parent, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	defer unix.Close(fd)
	// Asked of a process that the descriptor holds on to.
	if c, err := childOf(parent, pid); err != nil || c.PID == 0 {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}
