package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/alive"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// TestMain plays a guard when it is started as one. It writes down that it was called.
func TestMain(m *testing.M) {
	if len(os.Args) < 9 || os.Args[2] != "haproxy-guard" {
		os.Exit(m.Run())
	}
	pid, err := strconv.Atoi(os.Args[4])
	if err == nil {
		called := func(act string) func() error {
			return func() error { return os.WriteFile(filepath.Join(os.Args[8], act), nil, 0o600) }
		}
		err = Guard(context.Background(), pid, os.Args[6], Acts{Dead: called("dead"), Released: called("released")})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// rig is a runner with a daemon that does nothing.
type rig struct {
	*Runner
	t    *testing.T
	spec daemon.Spec
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	for _, path := range []string{state, filepath.Join(run, "haproxy")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	runner, err := NewRunner(state, run, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return &rig{runner, t, daemon.Spec{
		Name: "haproxy", Path: "/bin/sh", Args: []string{"-c", "exec sleep 1000"},
		PIDFile: filepath.Join(run, "haproxy", "pid"), LogFile: filepath.Join(run, "haproxy", "log"),
	}}
}

func (r *rig) start() *daemon.Process {
	r.t.Helper()
	p, err := r.Start(r.t.Context(), r.spec)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL)
		if guard := r.guard(); guard != nil {
			<-guard.Done() // it writes into the test's directory
		}
	})
	return p
}

func (r *rig) kill(p *daemon.Process) {
	r.t.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	<-p.Done()
}

// guard is the one that is there; nil: none.
func (r *rig) guard() *daemon.Process {
	r.t.Helper()
	p, err := daemon.Adopt(r.Runner.spec(0))
	if errors.Is(err, daemon.ErrNotRunning) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// called tells that the score was taken down, released that its release was ended.
func (r *rig) called() bool   { return r.did("dead") }
func (r *rig) released() bool { return r.did("released") }

func (r *rig) did(act string) bool {
	_, err := os.Stat(filepath.Join(r.runDir, act))
	return err == nil
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not come true: %s", what)
		}
	}
}

func TestAGuardActsForADeadAgent(t *testing.T) {
	r := newRig(t)
	release, err := alive.Hold(t.Context(), r.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	p := r.start()
	guard := r.guard()
	if guard == nil {
		t.Fatal("no guard runs")
	}
	release()
	end := time.Now().Add(2 * letGo)
	eventually(t, "it has been looked at", func() bool {
		if r.called() || r.released() {
			t.Fatal("called while HAProxy runs")
		}
		return time.Now().After(end)
	})
	r.kill(p)
	eventually(t, "it is called", r.called)
	<-guard.Done()
}

// An agent that dies while it should act is acted for, too.
func TestAGuardWaitsForTheAgent(t *testing.T) {
	r := newRig(t)
	release, err := alive.Hold(t.Context(), r.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	p := r.start()
	guard := r.guard()
	r.kill(p)
	// It may hang, and would not end a release.
	eventually(t, "the release is ended", r.released)
	<-guard.Done()
	if r.called() {
		t.Error("called beside an agent")
	}
	if err := os.Remove(filepath.Join(r.runDir, "released")); err != nil {
		t.Fatal(err)
	}
	p = r.start()
	r.kill(p)
	eventually(t, "the release is ended again", r.released)
	release() // and it dies only then
	eventually(t, "it is called", r.called)
}

// One HAProxy has one guard, whichever agent finds it, and the next one another.
func TestAGuardIsOfOneHAProxy(t *testing.T) {
	r := newRig(t)
	first := r.start()
	guard := r.guard()
	found, err := r.Find(t.Context(), r.spec)
	if err != nil {
		t.Fatal(err)
	}
	found.Close()
	if again := r.guard(); again.PID() != guard.PID() {
		t.Errorf("guard %d, and then %d", guard.PID(), again.PID())
	}
	release, err := alive.Hold(t.Context(), r.stateDir) // so that the guard stays for a while
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		release()
		<-guard.Done()
	}()
	r.kill(first)
	second := r.start()
	if now := r.guard(); now == nil || now.PID() == guard.PID() {
		t.Fatalf("guard %v, and then %v", guard, now)
	}
	// Its command line is empty for a moment.
	eventually(t, "it is the guard of the second", func() bool { return guards(r.guard().PID(), second.PID()) })
	// One that was killed is replaced by the next agent.
	last := r.guard()
	if err := last.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-last.Done()
	if found, err = r.Find(t.Context(), r.spec); err != nil {
		t.Fatal(err)
	}
	found.Close()
	now := r.guard()
	if now == nil {
		t.Fatal("no guard after its end")
	}
	eventually(t, "it is replaced", func() bool { return guards(now.PID(), second.PID()) })
}
