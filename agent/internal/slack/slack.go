// Package slack says how late the kernel may wake this process for a timer
// (PR_SET_TIMERSLACK(2const)). What comes from outside wakes it at once as ever.
package slack

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// relaxed is for a process that wakes up at each beat. The runtime waits for a timer in whole
// milliseconds, rounded down, and for the rest, rounded up to one, for which its monitor
// stays awake: where each wait may be a millisecond longer there is mostly no rest.
const relaxed = time.Millisecond

// before is the slack before Relax, in nanoseconds; 0: it has not been called.
var before atomic.Int64

// Relax lets all timers of this process be a millisecond late, seldom two. It fails in a
// program that is linked with C, whose threads the runtime does not know.
func Relax() error {
	was, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	// New threads have it from those that start them.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(relaxed.Nanoseconds()), 0)
	if errno != 0 {
		return fmt.Errorf("timer slack: %w", errno)
	}
	before.CompareAndSwap(0, int64(was))
	return nil
}

// Punctual calls a function in which a process is started whose timers are to be as exact
// as if this one had not been relaxed: a process has the slack of the thread that starts it.
func Punctual(start func() error) error {
	was := before.Load()
	if was == 0 {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// One that may be late is better than none: what fails here stops nothing.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(was), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(relaxed.Nanoseconds()), 0, 0, 0) }()
	return start()
}
