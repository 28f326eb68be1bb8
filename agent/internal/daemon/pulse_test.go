package daemon

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A child's pulse goes on while the child does, and tells when it is stopped; after its
// end the next one's is told.
func TestPulse(t *testing.T) {
	p := startForTest(t, script(t.TempDir(), `while :; do (while :; do sleep 0.01; done); done`))
	var heart Heart
	defer heart.Close()
	var first Pulse
	pulse := func() Pulse {
		t.Helper()
		now, err := heart.Pulse(p)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	eventually(t, "a child", func() bool { first = pulse(); return first.PID != 0 })
	t.Cleanup(func() { _ = unix.Kill(pulse().PID, unix.SIGKILL) })
	if first.Stopped {
		t.Errorf("it is stopped: %+v", first)
	}
	eventually(t, "its pulse to go on", func() bool { now := pulse(); return now.PID == first.PID && now.Switches > first.Switches })
	if err := unix.Kill(first.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to be stopped", func() bool { return pulse().Stopped })
	if a, b := pulse(), pulse(); a != b || a.Runnable {
		t.Errorf("a stopped one has %+v and then %+v", a, b)
	}
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next one", func() bool { now := pulse(); return now.PID != 0 && now.PID != first.PID })
}
