package machines

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// handwrite gives both nodes the guide's files, started from Debian's own units.
func (s *site) handwrite(t *testing.T) {
	t.Helper()
	files := filepath.Join(clustertest.Root(t), "e2e/bench/guide/files")
	for node, conf := range map[string]string{master: "keepalived-master.conf", backup: "keepalived-backup.conf"} {
		for name, path := range map[string]string{"haproxy.cfg": "/etc/haproxy/haproxy.cfg", conf: "/etc/keepalived/keepalived.conf", "notify": "/etc/keepalived/notify.sh"} {
			text, err := os.ReadFile(filepath.Join(files, name))
			s.must(t, err)
			s.write(t, node, path, string(text))
		}
		// The guide's own looks with netstat, which no Debian has any more.
		s.write(t, node, "/etc/keepalived/check_haproxy.sh", "#!/bin/sh\npidof haproxy\n")
		s.run(t, node, "chmod", "755", "/etc/keepalived/check_haproxy.sh", "/etc/keepalived/notify.sh")
		s.run(t, node, "systemctl", "restart", "haproxy", "keepalived")
	}
	s.held(t, master)
	s.serves(t)
}

// argument tells whether the main process of a unit was started with it.
func (s *site) argument(t *testing.T, node, unit, want string) bool {
	t.Helper()
	return strings.Contains(s.run(t, node, "sh", "-c", `tr '\0' ' ' </proc/`+s.pid(t, node, unit)+"/cmdline"), want)
}

// touchesNothing holds when a node says that it leaves all as it is.
func touchesNothing(node string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if failure := cluster.FindNode(s, node).GetFailure(); !strings.Contains(failure, "nothing is touched") {
			return fmt.Errorf("%s says %q", node, failure)
		}
		return nil
	}
}

// TestInstalledIsInert: on a machine with files of its own, what is installed
// changes nothing, whether the agent runs or not, over restarts and a boot.
func TestInstalledIsInert(t *testing.T) {
	s := newSite(t)
	s.handwrite(t)
	own := func() {
		t.Helper()
		s.held(t, master)
		s.serves(t)
		for _, node := range clustertest.Both {
			if !s.argument(t, node, "haproxy", "-f /etc/haproxy/haproxy.cfg") || s.argument(t, node, "keepalived", "--use-file") {
				t.Errorf("%s runs files that it did not before", node)
			}
		}
	}
	own()
	s.join(t)
	s.reports(t, "both to say that they touch nothing", touchesNothing(master), touchesNothing(backup))
	for _, node := range clustertest.Both {
		s.run(t, node, "systemctl", "daemon-reload")
		s.run(t, node, "systemctl", "restart", "haproxy", "keepalived")
	}
	own()
	s.off(t)
	s.on(t)
	own()
	s.reports(t, "both to say so after a boot", touchesNothing(master), touchesNothing(backup))
	// Stopped for a moment is not given up.
	s.run(t, master, "systemctl", "stop", "haproxy", "keepalived")
	s.run(t, master, "systemctl", "restart", "lb-agent")
	s.reports(t, "lb-master to say so of what is stopped", touchesNothing(master))
	s.run(t, master, "systemctl", "start", "haproxy", "keepalived")
	own()
}

// TestTakeoverOfUnits takes a pair over whose daemons systemd runs, and gives it
// back: no new connection fails and no VIP moves. In between the nodes are what
// others are, over a restart and a boot.
func TestTakeoverOfUnits(t *testing.T) {
	s := newSite(t)
	s.handwrite(t)
	s.join(t)
	s.reports(t, "both to say that they touch nothing", touchesNothing(master), touchesNothing(backup))
	s.adopt(t)
	s.run(t, controller, "lbctl", "backend", "set", "web_servers/web1", "--weight", "7")
	s.settled(t)
	// Another agent finds both, and can change what needs a reload.
	s.run(t, master, "systemctl", "restart", "lb-agent")
	s.reports(t, "the agent to be back", cluster.Connected(master))
	s.run(t, controller, "lbctl", "pool", "set", "web_servers", "--rise", "1")
	s.settled(t)
	s.release(t)
	for _, node := range clustertest.Both {
		if log := s.run(t, node, "journalctl", "--unit", "lb-agent"); strings.Contains(log, "may be silent") || !strings.Contains(log, "took keepalived over") {
			t.Errorf("lb-agent on %s could not hold keepalived's watches:\n%s", node, log)
		}
	}
	// Nobody was frightened meanwhile.
	if events := s.run(t, controller, "lbctl", "events", "--tail", "1000"); strings.Contains(events, "_HOLDER") || !strings.Contains(events, "APPLY_FAILED") {
		t.Errorf("the events are:\n%s", events)
	}

	// Again, and now both daemons are started by Tandem's units.
	s.adopt(t)
	s.run(t, backup, "systemctl", "restart", "haproxy")
	s.settled(t)
	if !s.argument(t, backup, "haproxy", "-f /var/lib/tandem/agent/haproxy/haproxy.cfg") {
		t.Error("haproxy is not what Tandem's unit starts")
	}
	s.off(t)
	s.on(t)
	s.settled(t)
	s.serves(t)
	load := s.load(t, everyNew)
	for _, node := range []string{backup, master} {
		s.run(t, node, "lb-agent", "release", "--yes")
		s.own(t, node)
		s.serves(t)
	}
	s.held(t, master)
	// A move of the VIP ends what is open at that moment, and refuses nobody.
	report := load.end()
	t.Logf("%d new connections, %d ended", report.Attempts(), report.Failed())
	for _, f := range report.Failures {
		if f.Phase == probe.Connect || report.Failed() > maxEnded {
			t.Errorf("%d of %d failed, as %+v", report.Failed(), report.Attempts(), f)
		}
	}
}

// maxEnded is how many connections may be open at the moment of one of a few moves
// of a VIP; one is in most runs.
const maxEnded = 5

// settled waits until both nodes do what the controller wants, with the VIP on
// lb-master.
func (s *site) settled(t *testing.T) {
	t.Helper()
	s.reports(t, "a settled cluster", cluster.Settled(clustertest.Both...), cluster.NoAlarms)
	s.held(t, master)
}

// adopt takes both nodes over, as docs/takeover.md says.
func (s *site) adopt(t *testing.T) {
	t.Helper()
	s.copy(t.Context(), t, s.Host(backup).OnDisk("/etc/keepalived/keepalived.conf"), s.Host(master).OnDisk("/root/peer.conf"))
	s.run(t, master, "lb-agent", "adopt", "--peer", backup+"=/root/peer.conf", "--output", "/root/cluster.yaml")
	s.copy(t.Context(), t, s.Host(master).OnDisk("/root/cluster.yaml"), s.Host(controller).OnDisk("/root/cluster.yaml"))
	s.run(t, controller, "lbctl", "apply", "-f", "/root/cluster.yaml", "--no-wait")
	before := s.pids(t)
	still := s.follow(t)
	load := s.load(t, everyNew)
	s.run(t, backup, "lb-agent", "adopt", "--yes")
	s.run(t, master, "lb-agent", "adopt", "--yes", "--holder")
	s.settled(t)
	for _, node := range clustertest.Both {
		s.until(t, node+" to be ready for handovers", func(ctx context.Context) error { return s.handsOver(ctx, node, true) })
	}
	load.clean()
	still()
	if after := s.pids(t); !maps.Equal(before, after) {
		t.Errorf("the daemons are the processes %v, and were %v", after, before)
	}
}

// release gives both nodes back that were not started since.
func (s *site) release(t *testing.T) {
	t.Helper()
	before := s.pids(t)
	still := s.follow(t)
	load := s.load(t, everyNew)
	for _, node := range []string{backup, master} {
		s.run(t, node, "lb-agent", "release", "--yes")
		s.own(t, node)
		s.run(t, node, "systemctl", "reload", "haproxy")
		s.own(t, node)
	}
	load.clean()
	still()
	if after := s.pids(t); !maps.Equal(before, after) {
		t.Errorf("the daemons are the processes %v, and were %v", after, before)
	}
}

// own holds that a node serves its own files, and that its units are its
// packages'.
func (s *site) own(t *testing.T, node string) {
	t.Helper()
	s.until(t, node+" to serve its own file", func(ctx context.Context) error {
		// Workers of the guide's file have another root directory than Tandem's.
		out, err := s.Host(node).Output(ctx, "sh", "-c", "for p in $(pgrep -P $(systemctl show --value --property=MainPID haproxy)); do readlink /proc/$p/root; done")
		if roots := strings.Fields(string(out)); err == nil && !slices.Equal(roots, []string{"/var/lib/haproxy"}) {
			err = fmt.Errorf("its workers have the root directories %v", roots)
		}
		return err
	})
	s.until(t, node+" to hand nothing over", func(ctx context.Context) error { return s.handsOver(ctx, node, false) })
	for _, unit := range []string{"haproxy", "keepalived"} {
		if got := s.unit(t, node, unit, "DropInPaths"); got != "" {
			t.Errorf("%s: %s has the drop-ins %s", node, unit, got)
		}
	}
	if !s.argument(t, node, "haproxy", "-f /etc/haproxy/haproxy.cfg") || s.argument(t, node, "keepalived", "--use-file") {
		t.Errorf("%s does not run its own files", node)
	}
}

// follow notes from now on what becomes of the VIP on both nodes.
func (s *site) follow(t *testing.T) (still func()) {
	t.Helper()
	var said [2]bytes.Buffer
	var monitors [2]*lab.Process
	for i, node := range clustertest.Both {
		var err error
		monitors[i], err = s.Host(node).Start(t.Context(), lab.ProcessSpec{
			Name: "monitor", Args: []string{"ip", "-o", "monitor", "address"}, Stdout: &said[i],
		})
		s.must(t, err)
	}
	return func() {
		t.Helper()
		for i, m := range monitors {
			s.must(t, m.Kill())
			if strings.Contains(said[i].String(), lab.VIP.Addr().String()+"/") {
				t.Errorf("the VIP moved on %s: %s", clustertest.Both[i], said[i].String())
			}
		}
	}
}

// pids are the main processes of both units on both nodes.
func (s *site) pids(t *testing.T) map[string]string {
	t.Helper()
	pids := map[string]string{}
	for _, node := range clustertest.Both {
		for _, unit := range []string{"haproxy", "keepalived"} {
			pids[node+" "+unit] = s.pid(t, node, unit)
		}
	}
	return pids
}
