package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/alive"
	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
)

// An agent that has the lock only for a moment does not keep a hook from acting.
func TestAHookActsUnlessAnAgentLives(t *testing.T) {
	for name, test := range map[string]struct {
		held time.Duration
		want bool
	}{"none": {0, true}, "one that ends at once": {agentPatience / 10, true}, "one that lives": {time.Minute, false}} {
		dir := filepath.Join(t.TempDir(), "state")
		release, err := alive.Hold(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if test.held == 0 {
			release()
		} else {
			defer time.AfterFunc(test.held, release).Stop()
		}
		acted := false
		if err := unlessAgent(t.Context(), dir, func() error { acted = true; return nil }); err != nil || acted != test.want {
			t.Errorf("%s: acted %v, %v", name, acted, err)
		}
	}
}

// A guard leaves the score of a HAProxy that was started again.
func TestAGuardTakesNoScoreFromAHAProxyThatServes(t *testing.T) {
	run, err := os.MkdirTemp("", "hook") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	dirs := hookDirs{state: filepath.Join(run, "state"), run: run}
	hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(run, "haproxy"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(run, "haproxy.cfg")
	text := fmt.Sprintf("defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\nlisten web\n bind %s\n", filepath.Join(run, "web.sock"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-W", "-S", filepath.Join(run, "haproxy", "master.sock"), "-f", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := haproxy.UntilServing(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	acts := guardActs(t.Context(), dirs, hooks)
	for _, want := range []string{"0", "-100"} {
		if want == "0" {
			err = hooks.SetHealth(true)
		} else if err = cmd.Process.Kill(); err == nil {
			_ = cmd.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := acts.Dead(); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(run, "keepalived", "track", "score")); err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("the score is %q, want %s, %v", text, want, err)
		}
	}
}
