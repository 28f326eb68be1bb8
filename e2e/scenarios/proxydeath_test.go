package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	proxyRuns = tandemv1.DaemonState_DAEMON_STATE_RUNNING
	proxyDead = tandemv1.DaemonState_DAEMON_STATE_STOPPED
)

// everyFew opens a new connection each 5 ms.
var everyFew = probe.Config{Interval: 5 * time.Millisecond, Timeout: time.Second}

// A HAProxy that hangs counts as dead within a second, and as alive when it goes on.
func TestAHungHAProxyMovesTheVIP(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	for _, of := range []part{children, everyone} {
		var frozen []int
		report := s.during(ctx, everyFew, func() {
			var err error
			if frozen, err = signal(ctx, s.Master().Host, "haproxy", of, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = signalPids(frozen, syscall.SIGCONT) })
			if _, err := s.Until(ctx, "the VIP on lb-backup", cluster.HeldBy("web", cluster.Backup),
				cluster.HAProxyIs(cluster.Master, proxyDead)); err != nil {
				t.Fatal(err)
			}
			_ = pause(ctx, 500*time.Millisecond) // until there are answers again
		})
		t.Logf("SIGSTOP (%s): longest gap %.0f ms", of, report.LongestGap.MS)
		// It is told after 0.7 to 0.9 s, and the probe's own connections that hang
		// count until they are given up.
		if gap := report.LongestGap; gap.Open || gap.MS > 2000 {
			t.Errorf("SIGSTOP (%s): clients were without an answer for %.0f ms (at the end, still none: %v)", of, gap.MS, gap.Open)
		}
		if err := signalPids(frozen, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		s.healthy(ctx)
		pids, err := s.Master().Host.Pids("haproxy")
		if err != nil || !containsAll(pids, frozen) {
			t.Errorf("haproxy runs as %v, %v; it was %v", pids, err, frozen)
		}
	}
}

func containsAll(all, some []int) bool {
	have := make(map[int]bool)
	for _, n := range all {
		have[n] = true
	}
	for _, n := range some {
		if !have[n] {
			return false
		}
	}
	return true
}

// An agent that was frozen, alone or with its HAProxy, judges nobody by that time.
func TestAFrozenAgentMovesNothing(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	s.until(10*time.Second, "the last step in the log", func(context.Context) error {
		if text := s.stateLog(cluster.Master); !strings.Contains(text, "Became MASTER") {
			return fmt.Errorf("it is %q", text)
		}
		return nil
	})
	before := s.stateLog(cluster.Master)
	agent := s.Master().Agent()
	freeze := func(sig syscall.Signal) {
		t.Helper()
		if err := agent.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	s.under(ctx, steady, func() {
		freeze(syscall.SIGSTOP)
		_ = pause(ctx, 3*time.Second)
		freeze(syscall.SIGCONT)
		s.healthy(ctx)
	})
	frozen, err := signal(ctx, s.Master().Host, "haproxy", everyone, syscall.SIGSTOP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = signalPids(frozen, syscall.SIGCONT) })
	_ = pause(ctx, 250*time.Millisecond) // until there is a question without an answer
	freeze(syscall.SIGSTOP)
	_ = pause(ctx, 3*time.Second)
	// The agent first: it finds questions of its own that nobody has answered.
	freeze(syscall.SIGCONT)
	_ = pause(ctx, 100*time.Millisecond)
	if err := signalPids(frozen, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = pause(ctx, 2*time.Second)
	s.healthy(ctx)
	if after := s.stateLog(cluster.Master); after != before {
		t.Errorf("the VIP has moved: %s", strings.TrimPrefix(after, before))
	}
}

// stateLog is what a node has written of the steps of its VIPs.
func (s *site) stateLog(node string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Nodes[node].LogDir(), "keepalived-state.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// pause lets time pass in which something must not happen.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A HAProxy that keeps dying does not take the VIP back for a moment each time: it
// must have served for a while first, and the status says so.
func TestACrashLoopKeepsTheVIPAway(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	var served time.Time
	for range 3 {
		if err := s.Master().KillHAProxy(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "HAProxy to be seen dead", cluster.HAProxyIs(cluster.Master, proxyDead)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "HAProxy to run again", cluster.HAProxyIs(cluster.Master, proxyRuns)); err != nil {
			t.Fatal(err)
		}
		served = time.Now()
	}
	const words = "HAProxy has ended or hung 3 times"
	if _, err := s.Until(ctx, "the reason in the status", unwell(cluster.Master, words)); err != nil {
		t.Fatal(err)
	}
	if text := squeezed(s.lbctl(ctx, "status")); !strings.Contains(text, words) {
		t.Errorf("lbctl status does not say %q:\n%s", words, text)
	}
	s.healthy(ctx)
	if took := time.Since(served); took < 4*time.Second {
		t.Errorf("the VIP was back %v after HAProxy served, want 5 s", took)
	}
	if _, err := s.Until(ctx, "no more of it in the status", func(status *tandemv1.ClusterStatus) error {
		if problems := cluster.FindNode(status, cluster.Master).GetProblems(); len(problems) > 0 {
			return fmt.Errorf("problems %q", problems)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// On trial it is better than none, and a hook does not end that.
	for range 2 {
		if err := s.Master().KillHAProxy(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "HAProxy to be seen dead", cluster.HAProxyIs(cluster.Master, proxyDead)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "HAProxy to run again", cluster.HAProxyIs(cluster.Master, proxyRuns)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Backup().StopHAProxy(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Until(labtest.Deadline(t, 3*time.Second), "the VIP where HAProxy runs", cluster.HeldBy("web", cluster.Master),
		unwell(cluster.Master, "HAProxy has ended or hung")); err != nil {
		t.Error(err)
	}
	n := s.Master()
	started := func(want string) {
		t.Helper()
		hook := n.Host.Command(ctx, s.Programs.Agent, "hook", "haproxy-started", "--state-dir", n.StateDir, "--run-dir", n.RunDir)
		if out, err := hook.CombinedOutput(); err != nil {
			t.Fatalf("the hook: %v: %s", err, out)
		}
		text, err := os.ReadFile(n.Host.Path(filepath.Join(n.RunDir, "keepalived", "track", "score")))
		if err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("after the hook the score is %q, %v; want %s", text, err, want)
		}
	}
	started("-56")
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	started("0") // nobody else would end it
	if err := errors.Join(n.StartAgent(ctx), s.Backup().LetHAProxyRun()); err != nil {
		t.Error(err)
	}
}
