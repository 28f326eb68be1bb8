package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pulse is what the kernel counts of a process for as long as that goes on.
type Pulse struct {
	// PID of the process; 0: there is none.
	PID int
	// Switches to it from another process: one that sleeps and wakes has one more. Those
	// of one process can be compared.
	Switches uint64
	// Runnable tells that it runs or waits for a processor. It is not looked for where
	// Switches are others than before.
	Runnable bool
	// Stopped likewise tells that a signal or a debugger has stopped it.
	Stopped bool
}

// Heart is the youngest child of a process, whose pulse is felt again and again: what
// the kernel says of it is kept open. The zero value is nobody's. It is not for
// concurrent use.
type Heart struct {
	of       *Process
	pid      int      // of the child
	status   *os.File // its proc_pid_status(5); nil: there is none
	turns    *os.File // its proc_pid_schedstat(5), a twentieth of the work for the kernel; nil: it keeps none
	switches uint64   // by turns, the last time
	buffer   [8 << 10]byte
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
	for _, f := range []*os.File{h.status, h.turns} {
		if f != nil {
			f.Close()
		}
	}
	h.status, h.turns, h.switches = nil, nil, 0
}

// find finds the youngest child.
func (h *Heart) find(p *Process) error {
	h.Close()
	child, err := p.Youngest()
	if err != nil || child.PID == 0 {
		return err
	}
	h.of, h.pid = p, child.PID
	if h.turns, err = h.open("schedstat"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	h.status, err = h.open("status")
	return err
}

// open opens what the kernel says of the child.
func (h *Heart) open(name string) (*os.File, error) {
	// os.Open would have the poller know of it.
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", h.pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", h.pid, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// feel reads the pulse of the child, which has one thread: where it goes on by its turns
// alone.
func (h *Heart) feel() (Pulse, error) {
	switches, err := h.countTurns()
	if err != nil {
		return Pulse{}, err
	}
	if switches != h.switches && h.of.Exit() == "" {
		h.switches = switches
		return Pulse{PID: h.pid, Switches: switches}, nil
	}
	pulse, err := h.readStatus()
	if err == nil && switches != 0 {
		pulse.Switches = switches
	}
	return pulse, err
}

// read reads all of a file.
func (h *Heart) read(f *os.File) ([]byte, error) {
	n, err := unix.Pread(int(f.Fd()), h.buffer[:], 0)
	if err == nil && n == len(h.buffer) {
		err = unix.E2BIG // the counts come last
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", h.pid, err)
	}
	return h.buffer[:n], nil
}

// countTurns returns how often the child has got a processor; 0: the kernel does not count.
func (h *Heart) countTurns() (uint64, error) {
	if h.turns == nil {
		return 0, nil
	}
	text, err := h.read(h.turns)
	if err != nil {
		return 0, err
	}
	text = bytes.TrimSpace(text)
	count, err := strconv.ParseUint(string(text[bytes.LastIndexByte(text, ' ')+1:]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/schedstat: %q: %w", h.pid, text, err)
	}
	return count, nil
}

// readStatus reads the pulse from all that the kernel says.
func (h *Heart) readStatus() (Pulse, error) {
	text, err := h.read(h.status)
	if err != nil {
		return Pulse{}, err
	}
	pulse := Pulse{PID: h.pid}
	for line := range bytes.Lines(text) {
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
