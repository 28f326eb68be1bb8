package daemon

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A child's pulse goes on while the child does, and tells when it is stopped; after its
// end the next one's is told.
func TestPulse(t *testing.T) {
	t.Run("by turns", func(t *testing.T) { testPulse(t, (*Heart).Pulse) })
	t.Run("where the kernel counts none", func(t *testing.T) {
		testPulse(t, func(h *Heart, p *Process) (Pulse, error) {
			if _, err := h.Pulse(p); err != nil || h.turns == nil {
				return h.Pulse(p)
			}
			h.turns.Close()
			h.turns, h.switches = nil, 0
			return h.Pulse(p)
		})
	})
}

func testPulse(t *testing.T, feel func(*Heart, *Process) (Pulse, error)) {
	p := startForTest(t, script(t.TempDir(), `while :; do (while :; do sleep 0.01; done); done`))
	var heart Heart
	defer heart.Close()
	var first, last Pulse // last of a child
	pulse := func() Pulse {
		t.Helper()
		now, err := feel(&heart, p)
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
	heart.switches = 0 // it has gone on since
	if now := pulse(); now != (Pulse{}) {
		t.Errorf("a process that has ended has the pulse %+v", now)
	}
	if err := unix.Kill(last.PID, 0); err != nil {
		t.Errorf("its child has ended too, so this tells nothing: %v", err)
	}
}

// Whether a process that goes on does so is told without all that the kernel can say of it.
func BenchmarkPulse(b *testing.B) {
	p, err := Start(b.Context(), script(b.TempDir(), `while :; do sleep 1; done`))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Signal(unix.SIGKILL) }()
	var heart Heart
	defer heart.Close()
	for heart.pid == 0 {
		if _, err := heart.Pulse(p); err != nil {
			b.Fatal(err)
		}
	}
	for name, before := range map[string]func(){"goes": func() { heart.switches = 0 }, "stands": func() {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				before()
				if _, err := heart.Pulse(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
