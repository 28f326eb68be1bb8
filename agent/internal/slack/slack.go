// Package slack says how late the kernel may wake this process for a timer
// (PR_SET_TIMERSLACK(2const)). What comes from outside wakes it at once as ever.
package slack

import (
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// relaxed is for a process that wakes up at each beat. The runtime waits for timers in
	// whole milliseconds, rounded down, and then for the rest, for which its monitor stays
	// awake: a wait that may be a millisecond longer has no rest.
	relaxed = time.Millisecond
	// usual is the kernel's own (INIT_TASK).
	usual = 50 * time.Microsecond
)

// Relax lets all timers of this process be up to a millisecond late. It fails in a program
// that is linked with C, whose threads the runtime does not know.
func Relax() error {
	// New threads have it from those that start them.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(relaxed.Nanoseconds()), 0)
	if errno != 0 {
		return fmt.Errorf("timer slack: %w", errno)
	}
	return nil
}

// Punctual calls a function in which a process is started whose timers are to be as exact
// as if this one had not been relaxed: a process has the slack of the thread that starts it.
func Punctual(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(usual.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0) }() // it was so before
	return start()
}
