package daemon

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pulse is what the kernel counts of a process for as long as that goes on.
type Pulse struct {
	// PID of the process; 0: there is none.
	PID int
	// Switches to another process and back (voluntary and not): one that sleeps and
	// wakes has one more.
	Switches uint64
	// Runnable tells that it runs or waits for a processor.
	Runnable bool
	// Stopped tells that a signal or a debugger has stopped it.
	Stopped bool
}

// Heart is the youngest child of a process, whose pulse is felt again and again: what
// the kernel says of it is kept open. The zero value is nobody's. It is not for
// concurrent use.
type Heart struct {
	of     *Process
	pid    int      // of the child
	status *os.File // its proc_pid_status(5); nil: there is none
	buffer [8 << 10]byte
}

// Pulse returns that of the youngest child of a process, of the same one as long as that
// lives.
func (h *Heart) Pulse(p *Process) (Pulse, error) {
	if h.of == p && h.status != nil {
		if pulse, err := h.feel(); err == nil {
			return pulse, nil
		}
	}
	if err := h.find(p); err != nil || h.status == nil {
		return Pulse{}, err
	}
	return h.feel()
}

// Close lets go of it; it may be used again.
func (h *Heart) Close() {
	if h.status != nil {
		h.status.Close()
	}
	h.status = nil
}

// find finds the youngest child.
func (h *Heart) find(p *Process) error {
	h.Close()
	child, err := p.Youngest()
	if err != nil || child.PID == 0 {
		return err
	}
	h.of, h.pid = p, child.PID
	// os.Open would have the poller know of it.
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/status", child.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", child.PID, err)
	}
	h.status = os.NewFile(uintptr(fd), "status")
	return nil
}

// feel reads the pulse of the child, which has one thread.
func (h *Heart) feel() (Pulse, error) {
	n, err := unix.Pread(int(h.status.Fd()), h.buffer[:], 0)
	if err == nil && n == len(h.buffer) {
		err = unix.E2BIG // the counts come last
	}
	if err != nil {
		return Pulse{}, fmt.Errorf("process %d: %w", h.pid, err)
	}
	pulse := Pulse{PID: h.pid}
	for line := range bytes.Lines(h.buffer[:n]) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":\t"))
		switch string(name) {
		case "State":
			pulse.Runnable = bytes.HasPrefix(value, []byte("R"))
			pulse.Stopped = bytes.HasPrefix(value, []byte("T")) || bytes.HasPrefix(value, []byte("t"))
			if bytes.HasPrefix(value, []byte("Z")) {
				return Pulse{}, fmt.Errorf("process %d: %w", h.pid, ErrNotRunning)
			}
		case "PPid":
			if parent, err := strconv.Atoi(string(value)); err != nil || parent != h.of.PID() {
				return Pulse{}, fmt.Errorf("process %d: %w", h.pid, ErrNotRunning)
			}
		case "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
			count, err := strconv.ParseUint(string(value), 10, 64)
			if err != nil {
				return Pulse{}, fmt.Errorf("/proc/%d/status: %s: %w", h.pid, name, err)
			}
			pulse.Switches += count
		}
	}
	return pulse, nil
}
