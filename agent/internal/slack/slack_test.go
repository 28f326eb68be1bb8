package slack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// of returns the slack of a thread, in nanoseconds.
func of(t *testing.T, thread any) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%v/timerslack_ns", thread))
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("that of another process takes CAP_SYS_NICE:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// All threads of a process are relaxed, that of the runtime's monitor with them, and those
// that it starts later. A process that it starts is as relaxed, unless it is to be punctual.
func TestRelax(t *testing.T) {
	if err := Relax(); errors.Is(err, syscall.ENOTSUP) {
		t.Skip("this program is linked with C")
	} else if err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		if got := of(t, filepath.Base(thread)); got != "1000000" {
			t.Errorf("thread %s of %d: %s ns", filepath.Base(thread), len(threads), got)
		}
	}
	started := func(start func(func() error) error) string {
		cmd := exec.Command("cat")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := start(cmd.Start); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = stdin.Close()
			_ = cmd.Wait()
		}()
		return of(t, cmd.Process.Pid)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 2 { // and the thread is as it was before
		if got := started(func(start func() error) error { return start() }); got != "1000000" {
			t.Errorf("a process that may be late: %s ns", got)
		}
		if got := started(Punctual); got != "50000" {
			t.Errorf("a punctual process: %s ns", got)
		}
	}
}
