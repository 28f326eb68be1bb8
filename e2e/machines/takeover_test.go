package machines

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
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
