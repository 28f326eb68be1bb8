package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Pulse returns that of the youngest child of the process, which is asked for by its
// process id as long as it lives: pid is that of the last pulse, or 0.
func (p *Process) Pulse(pid int) (Pulse, error) {
	if pid != 0 {
		if pulse, err := pulseOf(p.PID(), pid); err == nil {
			return pulse, nil
		}
	}
	child, err := p.Youngest()
	if err != nil || child.PID == 0 {
		return Pulse{}, err
	}
	return pulseOf(p.PID(), child.PID)
}

// pulseOf reads the pulse of a process with one thread that is a child of the parent.
func pulseOf(parent, pid int) (Pulse, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Pulse{}, err
	}
	pulse := Pulse{PID: pid}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "State": // proc_pid_status(5)
			pulse.Runnable = strings.HasPrefix(value, "R")
			pulse.Stopped = strings.HasPrefix(value, "T") || strings.HasPrefix(value, "t")
		case "PPid":
			if value != strconv.Itoa(parent) {
				return Pulse{}, fmt.Errorf("process %d: %w", pid, ErrNotRunning)
			}
		case "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
			count, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return Pulse{}, fmt.Errorf("/proc/%d/status: %s: %w", pid, name, err)
			}
			pulse.Switches += count
		}
	}
	return pulse, nil
}
