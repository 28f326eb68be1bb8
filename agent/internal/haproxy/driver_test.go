package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

func TestRuntimeChangesNeedNoReload(t *testing.T) {
	r := newRig(t)
	web1, web2, web3 := newWeb(t, "web1"), newWeb(t, "web2"), newWeb(t, "web3")
	c := r.config(web1.backend(1), web2.backend(2))
	if result := r.apply(c); !result.Reloaded {
		t.Error("the start is not reported")
	}
	if got := r.answers(20); got["web1"] != 10 || got["web2"] != 10 {
		t.Errorf("answers %v", got)
	}
	reloads := r.reloads()
	step := func(name string, operations int, change func(c *haproxyv1.Config), want ...string) {
		t.Helper()
		c = with(c, change)
		began := time.Now()
		result := r.apply(c)
		t.Logf("%s: %v", name, time.Since(began))
		if result.Reloaded || result.Operations != operations {
			t.Errorf("%s: %+v, want %d operations and no reload", name, result, operations)
		}
		for _, w := range want {
			eventually(t, name+": "+w+" answers", func() bool { return r.answers(10)[w] > 0 })
		}
		got := r.answers(20)
		if len(got) != len(want) {
			t.Errorf("%s: answers %v, want of %v", name, got, want)
		}
	}
	step("nothing", 0, func(*haproxyv1.Config) {}, "web1", "web2")
	step("weight", 1, func(c *haproxyv1.Config) { first(c).Weight = 90 }, "web1", "web2")
	if got := r.answers(20); got["web1"] != 18 {
		t.Errorf("weight: answers %v", got)
	}
	step("drain", 1, func(c *haproxyv1.Config) { first(c).Weight = 0 }, "web2")
	if got := r.server("web1"); got.State != Drain || got.Weight != 0 {
		t.Errorf("drained: %+v", got)
	}
	step("undrain", 1, func(c *haproxyv1.Config) { first(c).Weight = 10 }, "web1", "web2")
	step("maintenance", 1, func(c *haproxyv1.Config) { first(c).Maintenance = true }, "web2")
	if got := r.server("web1"); got.State != Maintenance {
		t.Errorf("in maintenance: %+v", got)
	}
	step("ready", 1, func(c *haproxyv1.Config) { first(c).Maintenance = false }, "web1", "web2")
	step("limit", 1, func(c *haproxyv1.Config) { first(c).MaxConnections = 7 }, "web1", "web2")
	step("no limit", 1, func(c *haproxyv1.Config) { first(c).MaxConnections = 0 }, "web1", "web2")
	step("add", 1, func(c *haproxyv1.Config) {
		c.Backends[0].Servers = append(c.Backends[0].Servers, web3.backend(3))
	}, "web1", "web2", "web3")
	step("move", 1, func(c *haproxyv1.Config) { first(c).Port = uint32(web3.address.Port) }, "web2", "web3")
	step("remove", 2, func(c *haproxyv1.Config) { c.Backends[0].Servers = c.Backends[0].Servers[2:] }, "web3")
	eventually(t, "removed servers are gone", func() bool { return len(r.driver.Snapshot().Servers) == 1 })
	step("one under an old name", 1, func(c *haproxyv1.Config) {
		c.Backends[0].Servers = append(c.Backends[0].Servers, web1.backend(9))
	}, "web1", "web3")
	if got := r.reloads(); got != reloads {
		t.Errorf("%d reloads", got-reloads)
	}
	if got := r.driver.Snapshot(); got.State != Running || !strings.HasPrefix(got.Version, "2.") || time.Since(got.StartTime) > time.Minute {
		t.Errorf("snapshot %+v", got.Daemon)
	}
}

func TestStructureNeedsOneReload(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	old := r.processes().Workers[0].PID
	c = with(c, func(c *haproxyv1.Config) {
		c.Backends[0].Check.Rise = 2
		first(c).Weight = 42
	})
	if result := r.apply(c); !result.Reloaded {
		t.Errorf("%+v", result)
	}
	if now := r.processes(); now.Master.Reloads != 1 || now.Workers[0].PID == old {
		t.Errorf("%+v", now)
	}
	if result := r.apply(c); result != (Result{}) {
		t.Errorf("again: %+v", result)
	}
	// What the file that was loaded had in maintenance comes out of it.
	c = with(c, func(c *haproxyv1.Config) { first(c).Maintenance, c.Backends[0].Check.Rise = true, 3 })
	r.apply(c)
	c = with(c, func(c *haproxyv1.Config) { first(c).Maintenance = false })
	if result := r.apply(c); result.Reloaded || result.Operations != 1 || r.server("web1").State != Up {
		t.Errorf("ready: %+v, %+v", result, r.server("web1"))
	}
	if got := r.driver.Snapshot(); got.Reloads != 2 || r.get() != "web1" || r.server("web1").Weight != 42 {
		t.Errorf("%+v", got)
	}
}

// What HAProxy's checker refuses, or what passes it and cannot start, leaves
// the last good one serving (I4).
func TestI4BadConfigurationLeavesTheGoodOne(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct {
		change func(c *haproxyv1.Config)
		words  string
		kind   any
	}{
		"not renderable": {
			func(c *haproxyv1.Config) { c.Frontends[0].Name = "a b" }, "frontends[a b].name", new(*RefusedError),
		},
		"refused by the checker": {
			func(c *haproxyv1.Config) { c.Backends[0].Mode = haproxyv1.Mode_MODE_TCP },
			"tries to use incompatible tcp backend", new(*RefusedError),
		},
		"address taken": {
			func(c *haproxyv1.Config) {
				c.Frontends[0].Binds = append(c.Frontends[0].Binds, &haproxyv1.Bind{Address: "127.0.0.1", Port: uint32(taken.Addr().(*net.TCPAddr).Port)})
			}, "cannot bind socket (Address already in use)", new(*FailedError),
		},
		"address of another machine": {
			func(c *haproxyv1.Config) {
				c.Frontends[0].Binds = append(c.Frontends[0].Binds, &haproxyv1.Bind{Address: "192.0.2.77", Port: 80})
			}, "Cannot assign requested address", new(*FailedError),
		},
		"more connections than descriptors": {
			func(c *haproxyv1.Config) { c.Global.MaxConnections = tooMany(t) }, "open files, and haproxy may have", new(*FailedError),
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			web1 := newWeb(t, "web1")
			good := r.config(web1.backend(1))
			bad := with(good, func(c *haproxyv1.Config) { first(c).Weight = 99; test.change(c) })

			// Cold: nothing is left behind.
			_, err := r.driver.Apply(t.Context(), bad)
			expectError(t, err, test.kind, test.words)
			if _, err := os.Stat(r.driver.paths.file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a bad file is left: %v", err)
			}
			r.apply(good)

			failures := make(chan string)
			done := make(chan struct{})
			go func() {
				defer close(failures)
				for {
					select {
					case <-done:
						return
					default:
					}
					if got := r.get(); got != "web1" {
						failures <- got
						return
					}
				}
			}()
			_, err = r.driver.Apply(t.Context(), bad)
			expectError(t, err, test.kind, test.words)
			close(done)
			for failure := range failures {
				t.Errorf("a client got %q meanwhile", failure)
			}
			r.isInEffect(good)
			if r.get() != "web1" {
				t.Error("the good one does not serve")
			}
			// And it is no trap for what comes next.
			r.apply(with(good, func(c *haproxyv1.Config) { c.Backends[0].Check.Rise = 3 }))
		})
	}
}

func expectError(t *testing.T, err error, kind any, words string) {
	t.Helper()
	if err == nil || !errors.As(err, kind) || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v (%T), want a %T with %q", err, err, kind, words)
	}
}

// What no check has foreseen fails in the reload itself: it is told in HAProxy's
// words, and the old worker serves.
func TestReloadThatFails(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	good := r.config(web1.backend(1))
	r.apply(good)
	bad, err := r.driver.render(with(good, func(c *haproxyv1.Config) { c.Global.MaxConnections = tooMany(t) }))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	r.driver.jobs <- func(ctx context.Context) {
		failed <- errors.Join(r.driver.paths.install(bad.Text), r.driver.reload(ctx))
	}
	expectError(t, <-failed, new(*FailedError), "Cannot raise FD limit")
	if got := r.get(); got != "web1" {
		t.Errorf("the good one answers %q", got)
	}
	r.apply(good)
}

// A worker without its root directory would take the master down with it.
func TestReloadWithoutTheJail(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	good := r.config(web1.backend(1))
	r.apply(good)
	if err := os.RemoveAll(r.driver.paths.jail); err != nil {
		t.Fatal(err)
	}
	r.apply(with(good, func(c *haproxyv1.Config) { c.Backends[0].Retries = 9 }))
	if got := r.get(); got != "web1" {
		t.Errorf("answers %q", got)
	}
}

func TestCheckChangesNothing(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	bad := with(c, func(c *haproxyv1.Config) { c.Backends[0].Mode = haproxyv1.Mode_MODE_TCP })
	expectError(t, r.driver.Check(t.Context(), bad), new(*RefusedError), "incompatible tcp backend")
	if err := r.driver.Check(t.Context(), with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries = 9 })); err != nil {
		t.Error(err)
	}
	r.isInEffect(c)
	if r.reloads() != 0 {
		t.Error("reloaded")
	}
}

func TestForeignFileIsLeftAlone(t *testing.T) {
	r := newRig(t)
	const foreign = "# by hand\n"
	if err := os.WriteFile(r.driver.paths.file, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.driver.Apply(t.Context(), r.config())
	expectError(t, err, new(*FailedError), "was not written by Tandem")
	if text, err := os.ReadFile(r.driver.paths.file); err != nil || string(text) != foreign {
		t.Errorf("%q, %v", text, err)
	}
}

func TestMissingBinary(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.startDriver(Options{Binary: "no-such-haproxy"})
	_, err := r.driver.Apply(t.Context(), r.config())
	expectError(t, err, new(*MissingError), "install haproxy")
	expectError(t, r.driver.Check(t.Context(), r.config()), new(*MissingError), "install haproxy")
	if got := r.driver.Snapshot(); got.State != Missing || !strings.Contains(got.Message, "install haproxy") {
		t.Errorf("%+v", got)
	}
	for output, want := range map[string]string{
		"HA-Proxy version 1.8.4 2018": "1.8", "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/": "2.6", "x": "",
	} {
		v, _, ok := parseVersion([]byte(output))
		if got := fmt.Sprintf("%d.%d", v.major, v.minor); ok != (want != "") || ok && got != want {
			t.Errorf("%q is %s, %v", output, got, ok)
		}
	}
}

func TestEmptyConfigurationRuns(t *testing.T) {
	r := newRig(t)
	eventually(t, "idle", func() bool { return r.driver.Snapshot().State == Idle })
	empty := &haproxyv1.Config{Global: &haproxyv1.Global{MaxConnections: 100}}
	r.apply(empty)
	web1 := newWeb(t, "web1")
	r.apply(r.config(web1.backend(1)))
	r.apply(empty)
	eventually(t, "no server is left", func() bool { return len(r.driver.Snapshot().Servers) == 0 })
}
