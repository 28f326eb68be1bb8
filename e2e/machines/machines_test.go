package machines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// TestMachines installs the product on three Debians as the README says, and then
// does to them what happens to machines. Each step leaves all well.
func TestMachines(t *testing.T) {
	s := newSite(t)
	for _, step := range []struct {
		name string
		run  func(*site, *testing.T)
	}{
		{"install", (*site).install},
		{"an operator stops HAProxy", (*site).stopHAProxy},
		{"HAProxy takes its time to start", (*site).slowHAProxy},
		{"HAProxy crashes", (*site).crashHAProxy},
		{"HAProxy hangs", (*site).hangHAProxy},
		{"keepalived crashes", (*site).crashKeepalived},
		{"HAProxy is stopped with the agent dead", (*site).stopWithoutAgent},
		{"HAProxy crashes with the agent dead", (*site).crashWithoutAgent},
		{"HAProxy's file is lost, with the agent dead", (*site).lostFile},
		{"controller and agent hang", (*site).hang},
		{"upgrade under load", (*site).upgrade},
		{"reboot without the controller", (*site).rebootWithoutController},
		{"reboot without controller and agents", (*site).rebootWithoutAgents},
		{"a virtual MAC address without agents", (*site).virtualMAC},
		{"both off, one with a broken HAProxy", (*site).brokenHAProxy},
		{"both off, one with HAProxy disabled, no agents", (*site).disabledHAProxy},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(s, t) }) {
			t.Fatalf("the steps after %q need what it leaves", step.name)
		}
	}
}

// everyNew is a new connection every 10 ms.
var everyNew = probe.Config{Interval: 10 * time.Millisecond, Timeout: 2 * time.Second}

// join starts the controller and both agents as the README says under "On real
// machines".
func (s *site) join(t *testing.T) {
	t.Helper()
	s.write(t, controller, "/etc/tandem/controller.env", "OPTIONS=--advertise 192.168.1.5\n")
	s.run(t, controller, "systemctl", "enable", "--now", "lb-controller")
	s.run(t, controller, "lbctl", "login", "192.168.1.5:9443",
		"--ca", "/var/lib/tandem/controller/ca.pem", "--token-file", "/var/lib/tandem/controller/admin.token")
	example, err := os.ReadFile(filepath.Join(clustertest.Root(t), "deploy/examples/agent.yaml"))
	s.must(t, err)
	for _, node := range clustertest.Both {
		token := s.run(t, controller, "lbctl", "node", "token", "create", node, "-o", "name")
		s.write(t, node, "/etc/tandem/join.token", token+"\n")
		s.write(t, node, "/etc/tandem/agent.yaml", strings.Replace(string(example), "node: lb-master", "node: "+node, 1))
		s.run(t, node, "systemctl", "enable", "--now", "lb-agent")
		s.reports(t, node+" to join", cluster.Connected(node))
	}
}

// install does all that the README says there.
func (s *site) install(t *testing.T) {
	s.join(t)
	s.run(t, controller, "lbctl", "apply", "-f", "/usr/local/share/doc/tandem/examples/guide.yaml")
	s.well(t)
	s.serves(t)
	for _, node := range clustertest.Both {
		for name, want := range map[string]string{
			"net.core.somaxconn": "65535", "net.ipv4.tcp_max_syn_backlog": "65535",
			"net.ipv4.ip_nonlocal_bind": "1", "net.ipv6.ip_nonlocal_bind": "1",
		} {
			if got := s.run(t, node, "sysctl", "-n", name); got != want {
				t.Errorf("%s: %s is %s, want %s", node, name, got, want)
			}
		}
		s.until(t, node+" to be ready for handovers", func(ctx context.Context) error { return s.handsOver(ctx, node, true) })
		if got := s.run(t, node, "chrt", "-p", s.pid(t, node, "keepalived")); !strings.Contains(got, "SCHED_RR") {
			t.Errorf("%s: keepalived runs without real-time priority: %s", node, got)
		}
	}
}

// stopHAProxy: "systemctl stop haproxy" moves the VIP before HAProxy ends, and
// it stays stopped until an operator starts it.
func (s *site) stopHAProxy(t *testing.T) {
	load := s.load(t, everyNew)
	s.run(t, master, "systemctl", "stop", "haproxy")
	s.held(t, backup)
	report := load.end()
	// What is under way in the instant of the move may be reset; nothing else.
	if moments := report.Moments(); moments < 0 || moments > 1 {
		t.Errorf("%d of %d new connections failed: %+v", report.Failed(), report.Attempts(), report.Failures)
	}
	t.Logf("%d of %d new connections failed, longest gap %.0f ms", report.Failed(), report.Attempts(), report.LongestGap.MS)
	const cure = "was stopped by an operator: systemctl start haproxy.service"
	s.reports(t, "the stop in the status", func(status *tandemv1.ClusterStatus) error {
		if got := cluster.FindNode(status, master).GetHaproxy(); !strings.Contains(got.GetMessage(), cure) {
			return fmt.Errorf("HAProxy is %s: %q", got.GetState(), got.GetMessage())
		}
		return nil
	})
	// A new agent does not start it either, nor does a change.
	s.run(t, master, "systemctl", "restart", "lb-agent")
	s.reports(t, "the agent is back", cluster.Connected(master))
	said, err := s.Host(controller).Output(labtest.Deadline(t, patience), "lbctl", "pool", "set", "web_servers", "--rise", "1")
	if err == nil || !strings.Contains(err.Error(), cure) {
		t.Errorf("a change says %q, %v; want the words %q", said, err, cure)
	}
	if state := s.unit(t, master, "haproxy", "ActiveState"); state != "inactive" {
		t.Errorf("haproxy is %s after a stop, want inactive", state)
	}
	s.run(t, master, "systemctl", "start", "haproxy")
	s.well(t)
}

// slowHAProxy: a change waits for a HAProxy that somebody else is about to start, and does
// not fail.
func (s *site) slowHAProxy(t *testing.T) {
	s.override(t, master, "haproxy", "ExecStartPre=/bin/sleep 5")
	s.run(t, master, "systemctl", "stop", "haproxy")
	s.run(t, master, "systemctl", "start", "--no-block", "haproxy")
	s.run(t, controller, "lbctl", "pool", "set", "web_servers", "--rise", "4")
	if state := s.unit(t, master, "haproxy", "ActiveState"); state != "active" {
		t.Errorf("the change is in effect, and haproxy is %s", state)
	}
	s.override(t, master, "haproxy", "")
	s.well(t)
	s.serves(t)
}

// crashHAProxy: it is back, and was away from the clients for a moment only.
func (s *site) crashHAProxy(t *testing.T) {
	pid := s.pid(t, master, "haproxy")
	load := s.load(t, everyNew)
	s.run(t, master, "systemctl", "kill", "--kill-whom=all", "--signal=KILL", "haproxy")
	s.held(t, backup)
	s.well(t)
	report := load.end()
	if now := s.pid(t, master, "haproxy"); now == "0" || now == pid {
		t.Errorf("haproxy is process %s, after process %s was killed", now, pid)
	}
	t.Logf("longest gap %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.MS > 3000 || gap.Open {
		t.Errorf("clients were without an answer for %.0f ms", gap.MS)
	}
}

// crashKeepalived: systemd starts it again, and the address that it leaves behind
// is removed at once, also when nothing starts.
func (s *site) crashKeepalived(t *testing.T) {
	pid := s.pid(t, master, "keepalived")
	// With the agent away the unit's hooks alone remove the address.
	s.run(t, master, "systemctl", "stop", "lb-agent")
	s.run(t, master, "systemctl", "kill", "--signal=KILL", "keepalived")
	s.held(t, backup)
	s.held(t, master) // by its higher priority, with HAProxy proven by the hook
	if now := s.pid(t, master, "keepalived"); now == "0" || now == pid {
		t.Errorf("keepalived is process %s, after process %s was killed", now, pid)
	}
	s.override(t, master, "keepalived", "Restart=no")
	s.run(t, master, "systemctl", "kill", "--signal=KILL", "keepalived")
	s.held(t, backup)
	// The address is gone before the hook that removes it has ended.
	s.until(t, "keepalived to stay away", func(context.Context) error {
		if state := s.unit(t, master, "keepalived", "ActiveState"); state != "failed" {
			return fmt.Errorf("keepalived is %s, want failed", state)
		}
		return nil
	})
	s.override(t, master, "keepalived", "Restart=always")
	s.run(t, master, "systemctl", "start", "keepalived", "lb-agent")
	s.well(t)
}

// override sets something in a unit's [Service] section until the next boot.
func (s *site) override(t *testing.T, host, unit, setting string) {
	t.Helper()
	s.run(t, host, "mkdir", "-p", "/run/systemd/system/"+unit+".service.d")
	s.run(t, host, "sh", "-c", "printf '[Service]\n"+setting+"\n' >/run/systemd/system/"+unit+".service.d/zz-test.conf")
	s.run(t, host, "systemctl", "daemon-reload")
}

// stopWithoutAgent: the unit's own hooks move the VIP there and back.
func (s *site) stopWithoutAgent(t *testing.T) {
	s.run(t, master, "systemctl", "stop", "lb-agent")
	s.run(t, master, "systemctl", "stop", "haproxy")
	s.held(t, backup)
	s.serves(t)
	s.run(t, master, "systemctl", "start", "haproxy")
	s.held(t, master)
	s.run(t, master, "systemctl", "start", "lb-agent")
	s.well(t)
}

// lostFile: the unit's own hook makes the file anew from what the agent has, and
// says so where it cannot, instead of trying for ever. The agent mends that.
func (s *site) lostFile(t *testing.T) {
	const state = "/var/lib/tandem/agent/"
	s.run(t, master, "systemctl", "stop", "lb-agent")
	s.run(t, master, "systemctl", "stop", "haproxy")
	s.run(t, master, "rm", state+"haproxy/haproxy.cfg")
	s.run(t, master, "systemctl", "start", "haproxy")
	s.held(t, master)
	s.run(t, master, "systemctl", "stop", "haproxy")
	s.run(t, master, "rm", state+"haproxy/haproxy.cfg", state+"haproxy/good.cfg")
	s.run(t, master, "truncate", "--size=-1", state+"good.pb")
	before := s.unit(t, master, "haproxy", "NRestarts")
	s.run(t, master, "systemctl", "start", "haproxy")
	for property, want := range map[string]string{"ActiveState": "inactive", "Result": "exec-condition", "NRestarts": before} {
		if got := s.unit(t, master, "haproxy", property); got != want {
			t.Errorf("haproxy's %s is %q without any file, want %q", property, got, want)
		}
	}
	said := s.run(t, master, "journalctl", "--no-pager", "--lines=20", "--unit=haproxy")
	for _, want := range []string{"haproxy: no file to start with", "last good configuration /var/lib/tandem/agent/good.pb is damaged"} {
		if !strings.Contains(said, want) {
			t.Errorf("the journal does not say %q:\n%s", want, said)
		}
	}
	s.held(t, backup)
	s.run(t, master, "systemctl", "start", "lb-agent")
	s.well(t)
}

// hang: systemd starts a controller and an agent anew that answer no more.
func (s *site) hang(t *testing.T) {
	for host, unit := range map[string]string{controller: "lb-controller", master: "lb-agent"} {
		s.override(t, host, unit, "WatchdogSec=2s")
		s.run(t, host, "systemctl", "restart", unit)
		before := s.pid(t, host, unit)
		s.run(t, host, "systemctl", "kill", "--signal=STOP", unit)
		s.until(t, unit+" to be started anew", func(ctx context.Context) error {
			out, err := s.Host(host).Output(ctx, "systemctl", "show", "--value", "--property=MainPID", unit)
			if now := strings.TrimSpace(string(out)); err == nil && (now == before || now == "0") {
				err = fmt.Errorf("its process is %s, and %s hangs", now, before)
			}
			return err
		})
	}
	s.well(t)
}

// upgrade replaces the controller's and the agents' programs and restarts them
// while clients of all kinds are busy.
func (s *site) upgrade(t *testing.T) {
	const version = "upgraded"
	agent, control := built(t, version, "./agent/cmd/lb-agent"), built(t, version, "./controlplane/cmd/lb-controller")
	daemons := map[string]string{}
	for _, node := range clustertest.Both {
		for _, unit := range []string{"haproxy", "keepalived"} {
			daemons[node+" "+unit] = s.pid(t, node, unit)
		}
	}
	load := s.load(t, probe.Config{
		Interval: 10 * time.Millisecond, Reused: 10, Inflight: 5, Downloads: 2, WebSockets: 2,
		Think: 20 * time.Millisecond, Hold: time.Second, Timeout: 5 * time.Second,
	})
	ctx := labtest.Deadline(t, patience)
	for _, node := range clustertest.Both {
		s.copy(ctx, t, agent, s.Host(node).OnDisk("/usr/local/bin/lb-agent.new"))
		s.run(t, node, "mv", "/usr/local/bin/lb-agent.new", "/usr/local/bin/lb-agent")
		s.run(t, node, "systemctl", "restart", "lb-agent")
	}
	s.copy(ctx, t, control, s.Host(controller).OnDisk("/usr/local/bin/lb-controller.new"))
	s.run(t, controller, "mv", "/usr/local/bin/lb-controller.new", "/usr/local/bin/lb-controller")
	s.run(t, controller, "systemctl", "restart", "lb-controller")
	s.well(t)
	report := load.end()
	if failed := report.Failed(); failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", failed, report.Attempts(), report.Failures[0])
	}
	t.Logf("%d requests", report.Attempts())
	s.reports(t, "the new version", func(status *tandemv1.ClusterStatus) error {
		for _, node := range clustertest.Both {
			if got := cluster.FindNode(status, node).GetAgentVersion(); got != version {
				return fmt.Errorf("the agent of %s is version %q", node, got)
			}
		}
		return nil
	})
	for name, pid := range daemons {
		node, unit, _ := strings.Cut(name, " ")
		if now := s.pid(t, node, unit); now != pid {
			t.Errorf("%s: %s is process %s now, not %s: the upgrade touched it", node, unit, now, pid)
		}
	}
}

// off switches both load balancers off.
func (s *site) off(t *testing.T) {
	t.Helper()
	ctx := labtest.Deadline(t, patience)
	s.must(t, s.Host(master).PowerOff(ctx), s.Host(backup).PullPlug(ctx))
}

// on switches both on, at the same time.
func (s *site) on(t *testing.T) {
	t.Helper()
	ctx := labtest.Deadline(t, patience)
	booted := make(chan error)
	for _, node := range clustertest.Both {
		go func() { booted <- s.Host(node).Boot(ctx) }()
	}
	s.must(t, <-booted, <-booted)
}

// rebootWithoutController: what was last in effect serves again.
func (s *site) rebootWithoutController(t *testing.T) {
	s.run(t, controller, "systemctl", "stop", "lb-controller")
	s.off(t)
	s.on(t)
	s.held(t, master)
	s.serves(t)
	s.run(t, controller, "systemctl", "start", "lb-controller")
	s.well(t)
}

// rebootWithoutAgents is the same without any program of ours but the hooks.
func (s *site) rebootWithoutAgents(t *testing.T) {
	s.run(t, controller, "systemctl", "stop", "lb-controller")
	s.disableAgents(t)
	s.off(t)
	s.on(t)
	s.held(t, master)
	s.serves(t)
	s.enableAgents(t)
	s.run(t, controller, "systemctl", "start", "lb-controller")
	s.well(t)
}

// disableAgents keeps the agents from starting at the next boot.
func (s *site) disableAgents(t *testing.T) {
	t.Helper()
	for _, node := range clustertest.Both {
		s.run(t, node, "systemctl", "disable", "lb-agent")
	}
}

// enableAgents undoes that, and checks that none has run since the boot.
func (s *site) enableAgents(t *testing.T) {
	t.Helper()
	for _, node := range clustertest.Both {
		if state := s.unit(t, node, "lb-agent", "ActiveState"); state != "inactive" {
			t.Fatalf("the agent of %s is %s", node, state)
		}
		s.run(t, node, "systemctl", "enable", "--now", "lb-agent")
	}
}

// brokenHAProxy: I1 and I8. Without the controller, the VIP goes to the node
// whose HAProxy starts, whatever the priorities.
func (s *site) brokenHAProxy(t *testing.T) {
	s.run(t, controller, "systemctl", "stop", "lb-controller")
	s.off(t)
	program := s.Host(master).OnDisk("/usr/sbin/haproxy")
	s.must(t, os.Rename(program, program+".good"), os.WriteFile(program, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	s.on(t)
	s.held(t, backup)
	s.serves(t)
	// It stays there: HAProxy on lb-master is tried again and again.
	before := s.unit(t, master, "haproxy", "NRestarts")
	s.until(t, "further starts of the broken HAProxy", func(ctx context.Context) error {
		out, err := s.Host(master).Output(ctx, "systemctl", "show", "--value", "--property=NRestarts", "haproxy")
		if err == nil && strings.TrimSpace(string(out)) == before {
			err = errors.New("none yet")
		}
		return err
	})
	s.held(t, backup)
	s.must(t, os.Rename(program+".good", program))
	s.run(t, controller, "systemctl", "start", "lb-controller")
	s.well(t)
}

// disabledHAProxy is the same where HAProxy is not even tried and no agent runs:
// nobody but keepalived's own hook says that the node cannot serve.
func (s *site) disabledHAProxy(t *testing.T) {
	s.run(t, controller, "systemctl", "stop", "lb-controller")
	s.disableAgents(t)
	s.run(t, master, "systemctl", "disable", "haproxy")
	s.off(t)
	s.on(t)
	s.held(t, backup)
	s.serves(t)
	s.enableAgents(t)
	s.run(t, controller, "systemctl", "start", "lb-controller")
	const cure = "is disabled: systemctl enable --now haproxy.service"
	s.reports(t, "that HAProxy is disabled", func(status *tandemv1.ClusterStatus) error {
		if got := cluster.FindNode(status, master).GetHaproxy(); !strings.Contains(got.GetMessage(), cure) {
			return fmt.Errorf("HAProxy is %s: %q", got.GetState(), got.GetMessage())
		}
		return nil
	})
	s.run(t, master, "systemctl", "enable", "--now", "haproxy")
	s.well(t)
}
