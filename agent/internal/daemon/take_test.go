package daemon

import (
	"errors"
	"os/exec"
	"testing"
)

// A process that somebody else has started becomes the daemon, and can be
// forgotten again without an end.
func TestTakeAndForget(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	spec := sleeper(t.TempDir())
	p, err := Take(spec, cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Adopt(spec)
	if err != nil || found.PID() != cmd.Process.Pid {
		t.Fatalf("adopted %v, %v", found, err)
	}
	found.Close()
	if err := p.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(spec); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after Forget: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("it has ended: %v", err)
	}
	_ = cmd.Wait()
	if _, err := Take(spec, cmd.Process.Pid); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a process that has ended: %v", err)
	}
}
