package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// byHand runs a HAProxy that somebody else has started, with a master socket and
// a file that lets 418 be answered.
type byHand struct {
	daemon.Exec
	spec   daemon.Spec
	socket string
	pid    int
}

// Find implements Runner: it is Tandem's where its file leads to Tandem's.
func (h *byHand) Find(_ context.Context, spec daemon.Spec) (*daemon.Process, error) {
	if to, err := os.Readlink(h.spec.File); err != nil || to != spec.File {
		return nil, daemon.ErrNotRunning
	}
	return daemon.Watch("haproxy", h.pid, quiet{})
}

// quiet is a daemon of which nobody knows what it prints.
type quiet struct{}

func (quiet) Tail() string { return "" }
func (quiet) Trim() error  { return nil }
func (quiet) Listen() (said func(ctx context.Context) string) {
	return func(context.Context) string { return "" }
}

func newByHand(t *testing.T, dir string, port int) *byHand {
	t.Helper()
	file := filepath.Join(dir, "hand.cfg")
	text := fmt.Sprintf("defaults\n mode http\n timeout client 10s\n timeout connect 10s\n timeout server 10s\n"+
		"frontend web\n bind 127.0.0.1:%d\n http-request return status 418\n", port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &byHand{socket: filepath.Join(dir, "hand.sock")}
	h.spec = daemon.Spec{
		Name: "haproxy", Path: "/usr/sbin/haproxy", Args: []string{"-W", "-S", h.socket, "-f", file},
		File: file, PIDFile: filepath.Join(dir, "hand.pid"), LogFile: filepath.Join(dir, "hand.log"),
	}
	p, err := daemon.Start(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	h.pid = p.PID()
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// foreign takes the file away and gives it back, as adopt does.
func (h *byHand) foreign() Foreign {
	aside := h.spec.File + ".aside"
	return Foreign{
		Socket: h.socket,
		Install: func(path string) error {
			if err := os.Rename(h.spec.File, aside); err != nil {
				return err
			}
			return os.Symlink(path, h.spec.File)
		},
		Restore: func() error { return os.Rename(aside, h.spec.File) },
	}
}

// A HAProxy that cannot run Tandem's file goes on with its own; one that can goes
// on as the same process, there and back.
func TestTakeOverByReload(t *testing.T) {
	r := newRig(t)
	r.stop()
	h := newByHand(t, r.dir, r.port)
	r.startDriver(Options{Runner: h})
	eventually(t, "the hand-written file to serve", func() bool { return strings.HasPrefix(r.get(), "418") })
	w := newWeb(t, "web")
	config := r.config(w.backend(1))

	f := h.foreign()
	broken := f
	broken.Install = func(path string) error {
		if err := f.Install(path); err != nil {
			return err
		}
		return os.WriteFile(path, []byte("nonsense\n"), 0o600)
	}
	if err := r.driver.TakeOver(t.Context(), config, broken); err == nil {
		t.Fatal("a broken file is taken for Tandem's")
	}
	if got := r.get(); !strings.HasPrefix(got, "418") {
		t.Errorf("after a takeover that failed: %q", got)
	}
	if text, err := os.ReadFile(h.spec.File); err != nil || !strings.Contains(string(text), "status 418") {
		t.Errorf("its own file is not back: %q, %v", text, err)
	}

	if err := r.driver.TakeOver(t.Context(), config, f); err != nil {
		t.Fatal(err)
	}
	if r.processes().Master.PID != h.pid {
		t.Errorf("process %d serves, and %d was taken over", r.processes().Master.PID, h.pid)
	}
	r.isInEffect(config)
	if got := r.get(); got != "web" {
		t.Errorf("after the takeover: %q", got)
	}
	// Its master cannot be asked for a reload, which shows at once.
	master := r.driver.paths.master
	away := f
	away.Restore = func() error { return errors.Join(f.Restore(), os.Rename(master, master+".away")) }
	if err := r.driver.GiveBack(t.Context(), away); err == nil {
		t.Fatal("it is given back without a reload")
	}
	if err := os.Rename(master+".away", master); err != nil {
		t.Fatal(err)
	}
	r.isInEffect(config)
	if n := attendants(t); n != 1 {
		t.Errorf("%d goroutines ask its worker whether it goes on, want 1", n)
	}
	if err := r.driver.GiveBack(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if got := r.get(); !strings.HasPrefix(got, "418") {
		t.Errorf("after it was given back: %q", got)
	}
	if state := r.driver.Snapshot().State; state == Running {
		t.Errorf("the driver has a HAProxy still: %v", state)
	}
}

// attendants counts the goroutines that attend to a HAProxy.
func attendants(t *testing.T) int {
	t.Helper()
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		t.Fatal(err)
	}
	return strings.Count(stacks.String(), "haproxy.(*Driver).attend(")
}
