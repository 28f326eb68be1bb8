package slack

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// relax calls Relax, and returns what slack there is to be after that, in nanoseconds. A
// program that is linked with C, as the race detector's is, has the usual one still.
func relax(t *testing.T) (want string) {
	t.Helper()
	switch err := Relax(); {
	case errors.Is(err, syscall.ENOTSUP):
		return "50000"
	case err != nil:
		t.Fatal(err)
	}
	return "1000000"
}

// All threads of a process are relaxed, that of the runtime's monitor with them, and those
// that it starts later.
func TestRelax(t *testing.T) {
	want := relax(t)
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join("/proc", filepath.Base(thread), "timerslack_ns"))
		if errors.Is(err, fs.ErrPermission) {
			t.Skip("to read another thread's takes CAP_SYS_NICE, which make test has:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(text)); got != want {
			t.Errorf("thread %s of %d: %s ns, want %s", filepath.Base(thread), len(threads), got, want)
		}
	}
}

// A process that is started is as relaxed as this one, unless it is to be punctual.
func TestPunctual(t *testing.T) {
	relaxed := relax(t)
	started := func(start func(func() error) error) string {
		cmd := exec.Command("cat", "/proc/self/timerslack_ns")
		var said bytes.Buffer
		cmd.Stdout = &said
		if err := errors.Join(start(cmd.Start), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(said.String())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 2 { // and the thread is as it was before
		if got := started(func(start func() error) error { return start() }); got != relaxed {
			t.Errorf("a process that may be late: %s ns, want %s", got, relaxed)
		}
		if got := started(Punctual); got != "50000" {
			t.Errorf("a punctual process: %s ns", got)
		}
	}
}
