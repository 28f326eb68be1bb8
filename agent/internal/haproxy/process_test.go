package haproxy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// A HAProxy that ended because its file does not start any more is started with
// the last good one.
func TestColdStartFallsBackToTheGoodFile(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	r.kill()
	r.stop()
	text, err := os.ReadFile(r.driver.paths.file)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(text), "maxconn 500", fmt.Sprintf("maxconn %d", tooMany(t)), 1)
	write(t, r.driver.paths.file, []byte(bad))
	r.startDriver(Options{})
	eventually(t, "the good file serves", func() bool { return r.get() == "web1" })
	r.apply(c)
}

// kill kills HAProxy's master and workers.
func (r *rig) kill() {
	r.t.Helper()
	found := r.processes()
	for _, pid := range []int{found.Master.PID, found.Workers[0].PID} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			r.t.Fatal(err)
		}
	}
}

func TestDeadProcessIsToldAndRestarted(t *testing.T) {
	for _, who := range []string{"master", "worker"} {
		t.Run(who, func(t *testing.T) {
			r := newRig(t)
			web1, dead := newWeb(t, "web1"), newWeb(t, "dead")
			r.apply(r.config(web1.backend(1), dead.backend(2)))
			dead.server.Close()
			eventually(t, "dead is down", func() bool { return r.server("dead").State == Down })
			r.mu.Lock()
			r.events = nil
			r.mu.Unlock()
			found := r.processes()
			pid := found.Master.PID
			if who == "worker" {
				pid = found.Workers[0].PID
			}
			began := time.Now()
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end is told", func() bool { return r.driver.Snapshot().State == Stopped })
			t.Logf("told after %v", time.Since(began))
			eventually(t, "it serves again", func() bool { return r.get() == "web1" })
			t.Logf("serves after %v", time.Since(began))
			eventually(t, "it is told", func() bool { return r.driver.Snapshot().State == Running })
			if got := r.answers(10); got["web1"] != 10 {
				t.Errorf("what was down before is tried: %v", got)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			var states []State
			for _, e := range r.events {
				if change, ok := e.(DaemonChanged); ok {
					states = append(states, change.State)
					if change.Ended != (change.State == Stopped) {
						t.Errorf("told that it has ended: %+v", change)
					}
				}
			}
			if fmt.Sprint(states) != fmt.Sprint([]State{Stopped, Running}) {
				t.Errorf("told states %v", states)
			}
		})
	}
}

func TestRestartedAgentAdopts(t *testing.T) {
	r := newRig(t)
	web1, web2 := newWeb(t, "web1"), newWeb(t, "web2")
	c := r.config(web1.backend(1), web2.backend(2))
	r.apply(c)
	c = with(c, func(c *haproxyv1.Config) {
		first(c).Weight = 0
		first(c).MaxConnections = 5
		c.Backends[0].Servers[1].Maintenance = true
	})
	r.apply(c)
	before := r.processes()
	r.stop()
	r.startDriver(Options{})
	eventually(t, "the running one is found", func() bool {
		s := r.driver.Snapshot()
		return s.State == Running && len(s.Servers) == 2
	})
	if result := r.apply(c); result != (Result{}) {
		t.Errorf("what runs already was changed: %+v", result)
	}
	if result := r.apply(with(c, func(c *haproxyv1.Config) { c.Backends[0].Servers[1].Maintenance = false })); result.Reloaded || result.Operations != 1 {
		t.Errorf("%+v", result)
	}
	if after := r.processes(); after.Master.PID != before.Master.PID || after.Workers[0].PID != before.Workers[0].PID {
		t.Error("another process")
	}
}

// The agent dies after it has written the file and before HAProxy is told.
func TestI3AgentDiesAfterTheFile(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	for name, next := range map[string]*haproxyv1.Config{
		"runtime":   with(c, func(c *haproxyv1.Config) { first(c).Weight = 77 }),
		"structure": with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries = 9 }),
		"cannot start": with(c, func(c *haproxyv1.Config) {
			c.Global.MaxConnections = tooMany(t)
			first(c).Weight = 55
		}),
	} {
		r.stop()
		file, err := r.driver.render(next)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.driver.paths.install(file.Text); err != nil {
			t.Fatal(err)
		}
		r.startDriver(Options{})
		if name == "cannot start" {
			_, err := r.driver.Apply(t.Context(), next)
			expectError(t, err, new(*FailedError), "open files, and haproxy may have")
		} else {
			r.apply(next)
		}
		r.apply(c)
	}
}

// An agent that ends when it has just started HAProxy leaves one without a worker, which
// reads its file for as long as that takes. The next agent waits for it: it is neither
// dead nor anything to tell of.
func TestAHAProxyThatIsStartingIsWaitedFor(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	r.killed()
	spec, err := r.driver.spec()
	if err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(r.dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	spec.Args = append([]string{"-c", `read -r go <"$0" && exec "$@"`, gate, spec.Path}, spec.Args...)
	spec.Path = "/bin/sh"
	starting, err := daemon.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.events = nil
	r.mu.Unlock()
	r.startDriver(Options{})
	type outcome struct {
		Result
		err error
	}
	applied := make(chan outcome, 1)
	go func() {
		result, err := r.driver.Apply(t.Context(), c)
		applied <- outcome{result, err}
	}()
	select {
	case o := <-applied:
		t.Fatalf("applied to a HAProxy that is starting: %+v, %v", o.Result, o.err)
	case <-time.After(3 * grace):
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if o := <-applied; o.err != nil || o.Result != (Result{}) {
		t.Errorf("%+v, %v", o.Result, o.err)
	}
	r.isInEffect(c)
	if found := r.processes(); found.Master.PID != starting.PID() {
		t.Errorf("process %d serves, not %d", found.Master.PID, starting.PID())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if change, ok := e.(DaemonChanged); ok && change.State != Running {
			t.Errorf("told %+v", change)
		}
	}
}
