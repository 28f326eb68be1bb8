package haproxy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// killed kills HAProxy when the driver has stopped.
func (r *rig) killed() {
	r.t.Helper()
	r.stop()
	r.kill()
	eventually(r.t, "haproxy is gone", func() bool { return strings.Contains(r.get(), "refused") })
}

// A change of servers is in the file when the driver has stopped, however soon
// that is.
func TestFileIsRightAfterACleanStop(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	c = with(c, func(c *haproxyv1.Config) { first(c).Weight = 77 })
	if _, err := r.driver.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if text := r.file(); !strings.Contains(text, "weight 77") {
		t.Errorf("the file is of before the change:\n%s", text)
	}
}

func (r *rig) file() string {
	r.t.Helper()
	text, err := os.ReadFile(r.driver.paths.file)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// Many changes of servers are one write of the file.
func TestManyChangesAreOneWrite(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	seen, err := os.Stat(r.driver.paths.file)
	if err != nil {
		t.Fatal(err)
	}
	writes := 0
	for weight := range uint32(100) {
		c = with(c, func(c *haproxyv1.Config) { first(c).Weight = 1 + weight })
		if _, err := r.driver.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		now, err := os.Stat(r.driver.paths.file)
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(seen, now) {
			seen, writes = now, writes+1
		}
	}
	r.isInEffect(c)
	if writes > 50 {
		t.Errorf("100 changes wrote the file %d times", writes)
	}
}

// HAProxy must not come up with a file from before the last changes.
func TestHAProxyStartsWithTheLastGoodConfiguration(t *testing.T) {
	r := newRig(t)
	web1, web2 := newWeb(t, "web1"), newWeb(t, "web2")
	stale := r.config(web1.backend(1))
	stale.Backends[0].Check = nil
	r.apply(stale)
	r.killed()
	good := with(stale, func(c *haproxyv1.Config) { c.Backends[0].Servers = []*haproxyv1.Server{web2.backend(2)} })
	r.startDriver(Options{Good: good})
	eventually(t, "haproxy is up", func() bool { return r.driver.Snapshot().State == Running })
	if got := r.get(); got != "web2" {
		t.Errorf("the first answer is %q, want web2", got)
	}
	if result := r.apply(good); result.Reloaded || result.Operations != 0 {
		t.Errorf("%+v to get to what it was started with", result)
	}
}

// HAProxy that someone else restarts with a file that is behind is brought to
// what is in effect.
func TestRestartedHAProxyIsAligned(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	old := r.file()
	r.apply(with(c, func(c *haproxyv1.Config) { first(c).Weight = 42 }))
	if err := os.WriteFile(r.driver.paths.file, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	before := r.processes()
	if _, err := r.driver.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new worker does as the old one", func() bool {
		found, err := r.driver.client.Processes(t.Context())
		if err != nil || len(found.Workers) == 0 || !hasNew(before, found) {
			return false
		}
		states, err := r.driver.client.States(t.Context(), found.Workers[0].PID)
		return err == nil && len(states) == 1 && states[0].Weight == 42
	})
	r.isInEffect(with(c, func(c *haproxyv1.Config) { first(c).Weight = 42 }))
}

// hooked is a runner that is told when to start, and whose starts make the file
// anew before, as the unit's hook does.
type hooked struct {
	daemon.Exec
	mayStart atomic.Bool
	before   func()
}

func (h *hooked) Start(ctx context.Context, spec daemon.Spec) (*daemon.Process, error) {
	if !h.mayStart.Load() {
		return nil, daemon.ErrNotRunning
	}
	h.before()
	return h.Exec.Start(ctx, spec)
}

// A hook knows the last good configuration only: a new one comes by a reload.
func TestNewConfigurationThoughAHookStartsTheLastGoodOne(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	old := r.file()
	r.killed()
	runner := &hooked{before: func() { write(t, r.driver.paths.file, []byte(old)) }}
	r.startDriver(Options{Runner: runner})
	eventually(t, "the driver has tried to start it", func() bool { return r.driver.Snapshot().State == Stopped })
	runner.mayStart.Store(true)
	r.apply(with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries++ }))
}

func TestBeforeStart(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	r.killed()
	p := &r.driver.paths
	confirmed := r.file()
	newer := with(c, func(c *haproxyv1.Config) { first(c).Weight = 55 })
	wanted, err := r.driver.render(newer)
	if err != nil {
		t.Fatal(err)
	}
	unconfirmed, err := r.driver.render(with(c, func(c *haproxyv1.Config) { c.Frontends[0].MaxConnections = 7 }))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config  *haproxyv1.Config
		prepare func(t *testing.T)
		want    string
		told    string
	}{
		"the file is behind": {config: newer, want: string(wanted.Text)},
		"a candidate that was not confirmed is there": {
			config: newer, want: string(wanted.Text),
			prepare: func(t *testing.T) { write(t, p.file, unconfirmed.Text) },
		},
		"nothing can be used but the last file": {
			want:    confirmed,
			prepare: func(t *testing.T) { write(t, p.file, unconfirmed.Text) },
		},
		"the file is gone": {
			want:    confirmed,
			prepare: func(t *testing.T) { remove(t, p.file) },
		},
		"the checker refuses": {
			config: newer, want: confirmed, told: "never mind",
			prepare: func(t *testing.T) {
				write(t, p.file, unconfirmed.Text)
				script := filepath.Join(t.TempDir(), "haproxy")
				if err := os.WriteFile(script, []byte("#!/bin/sh\necho '[ALERT]    (1) : never mind'; exit 1\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				s := r.driver.site()
				s.Binary = script
				if err := p.keepSite(s); err != nil {
					t.Fatal(err)
				}
			},
		},
		"what the file depends on is damaged": {
			config: newer, want: confirmed, told: "site.json",
			prepare: func(t *testing.T) { write(t, p.site, []byte("{")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, p.file, []byte(confirmed))
			write(t, p.good, []byte(confirmed))
			if err := p.keepSite(r.driver.site()); err != nil {
				t.Fatal(err)
			}
			if test.prepare != nil {
				test.prepare(t)
			}
			told, err := BeforeStart(t.Context(), r.dir+"/state", r.dir+"/run", test.config)
			if err != nil {
				t.Fatal(err)
			}
			if test.told == "" && told != nil || test.told != "" && (told == nil || !strings.Contains(told.Error(), test.told)) {
				t.Errorf("told %v, want %q", told, test.told)
			}
			if text := r.file(); text != test.want {
				t.Errorf("the file is\n%s\nwant\n%s", text, test.want)
			}
		})
	}
	t.Run("there was never a file", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := BeforeStart(t.Context(), dir, dir, nil); err == nil {
			t.Error("no error")
		}
	})
	t.Run("the file is someone else's", func(t *testing.T) {
		foreign := []byte("global\n")
		write(t, p.file, foreign)
		_, err := BeforeStart(t.Context(), r.dir+"/state", r.dir+"/run", newer)
		if text, _ := os.ReadFile(p.file); err == nil || !bytes.Equal(text, foreign) {
			t.Errorf("%v, and the file is\n%s", err, text)
		}
	})
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestRunsOther(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := logged(r.config(web1.backend(1)), haproxyv1.LogFormat_LOG_FORMAT_UNSPECIFIED)
	check := func(what string, c *haproxyv1.Config, want bool) {
		t.Helper()
		if other, err := r.driver.RunsOther(t.Context(), c); err != nil || other != want {
			t.Errorf("%s: %v, %v, want %v", what, other, err, want)
		}
	}
	check("before it runs", c, false)
	r.apply(c)
	r.stop()
	r.startDriver(Options{})
	check("what a former agent put in effect", c, false)
	check("another weight", with(c, func(c *haproxyv1.Config) { first(c).Weight = 77 }), true)
	check("another structure", with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries = 9 }), true)
	r.runs(c)
	r.say("GET / HTTP/1.0\r\n\r\n")
	r.accessLines(1)
}
