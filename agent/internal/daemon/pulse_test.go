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
	var first, last Pulse // last of a child
	pulse := func() Pulse {
		t.Helper()
		now, err := heart.Pulse(p)
		if err != nil {
			t.Fatal(err)
		}
		if now.PID != 0 {
			last = now
		}
		return now
	}
	eventually(t, "a child", func() bool { first = pulse(); return first.PID != 0 })
	t.Cleanup(func() { _ = unix.Kill(last.PID, unix.SIGKILL) })
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
	// One that has outlived the process is not its child any more.
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if now := pulse(); now != (Pulse{}) {
		t.Errorf("a process that has ended has the pulse %+v", now)
	}
	if err := unix.Kill(last.PID, 0); err != nil {
		t.Errorf("its child has ended too, so this tells nothing: %v", err)
	}
}
