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
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// wireFault is made and ended for real.
type wireFault struct {
	name       string
	make, end  func() error
	conditions []cluster.Condition // that hold meanwhile
	local      string              // what lb-agent status says on lb-master meanwhile
}

// I7: each alarm about who holds a VIP is raised by its fault, made for real, with
// what the nodes have seen, and is over with it.
func TestI7AlarmsOfTheWire(t *testing.T) {
	t.Parallel()
	g := clustertest.Start(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	master, backup, stranger := g.Lab.Host(cluster.Master), g.Lab.Host(cluster.Backup), g.Lab.Host("client2")
	mac := macOf(ctx, t, stranger)
	address := func(verb string) func() error {
		return func() error {
			_, err := stranger.Output(ctx, "ip", "address", verb, "192.168.1.100/24", "dev", "eth0")
			return err
		}
	}
	for _, f := range []wireFault{
		{
			name: "a cut of one way",
			make: func() error { return backup.Drop(ctx, lab.In, "ip protocol vrrp") },
			end:  func() error { return backup.Undrop(ctx) },
			conditions: []cluster.Condition{
				alarmed("FENCED", "lb-backup is kept off VIP web"), alarmed("PEER_SILENT", "lb-backup does not hear lb-master"),
			},
		},
		{
			name: "a node whose packets do not arrive",
			make: func() error {
				return errors.Join(master.Drop(ctx, lab.Out, "meta protocol arp"), master.Drop(ctx, lab.Out, "ip protocol vrrp"))
			},
			end: func() error { return master.Undrop(ctx) },
			conditions: []cluster.Condition{
				cluster.HeldBy("web", cluster.Backup), alarmed("NOTHING_SENT", "nothing that is sent on eth0 arrives", "seen by lb-master"),
			},
			local: "nothing that is sent on eth0 arrives",
		},
		otherVIP(ctx, t, "a stranger with the VRID", stranger, "192.168.1.51 (100)",
			alarmed("FOREIGN_VRRP_SPEAKER", "192.168.1.51 (MAC address "+mac+")", "seen by lb-master and lb-backup")),
		otherVIP(ctx, t, "another keepalived on a node", backup, "lb-backup (100)",
			alarmed("ADVERT_MISMATCH", "lb-backup (192.168.1.11)", "with interval 50ms and not 100ms, with addresses [192.168.1.200] and not [192.168.1.100]", "seen by lb-master")),
		{
			name: "a host with the VIP", make: address("add"), end: address("delete"),
			conditions: []cluster.Condition{alarmed("DUPLICATE_ADDRESS", "192.168.1.100", mac)},
			local:      "192.168.1.100 is also on the machine with the MAC address " + mac,
		},
	} {
		began := time.Now()
		if err := f.make(); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		if _, err := g.Until(labtest.Deadline(t, 30*time.Second), "the alarms of "+f.name, f.conditions...); err != nil {
			t.Fatal(err)
		}
		raised := time.Since(began)
		node := g.Nodes[cluster.Master]
		said, err := node.Host.Output(ctx, g.Programs.Agent, "status", "--config", node.Config)
		if err != nil || !strings.Contains(string(said), f.local) {
			t.Errorf("%s: lb-agent status says, %v:\n%s", f.name, err, said)
		}
		began = time.Now()
		if err := f.end(); err != nil {
			t.Fatalf("the end of %s: %v", f.name, err)
		}
		if _, err := g.Until(labtest.Deadline(t, 30*time.Second), "a cluster in good health after "+f.name, clustertest.Healthy()...); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: raised within %v, over within %v", f.name, raised, time.Since(began))
	}
}

// alarmed holds when an alarm is raised whose message has all of the words, and
// which says how it is cured.
func alarmed(reason string, words ...string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		for _, a := range s.GetAlarms() {
			if a.GetReason() != reason {
				continue
			}
			for _, word := range words {
				if !strings.Contains(a.GetMessage(), word) {
					return fmt.Errorf("%s says %q", reason, a.GetMessage())
				}
			}
			if a.GetCure() == "" {
				return fmt.Errorf("%s has no cure", reason)
			}
			return nil
		}
		return fmt.Errorf("no alarm %s, but %v", reason, s.GetAlarms())
	}
}

// otherVIP is a keepalived that has the VIP's virtual router and another address, which
// lb-master hears.
func otherVIP(ctx context.Context, t *testing.T, name string, on *lab.Host, heard string, condition cluster.Condition) wireFault {
	begin, end := otherKeepalived(ctx, t, on, 51, "192.168.1.200/24")
	return wireFault{name: name, make: begin, end: end, conditions: []cluster.Condition{condition}, local: heard}
}

// otherKeepalived is one beside Tandem's. It advertises more often than the holder:
// keepalived 2.2.7 puts its next advertisement off with each one that it refuses.
func otherKeepalived(ctx context.Context, t *testing.T, on *lab.Host, vrid int, address string) (begin, end func() error) {
	var process *lab.Process
	begin = func() (err error) {
		dir := t.TempDir()
		file := filepath.Join(dir, "keepalived.conf")
		text := fmt.Sprintf("vrrp_instance VI_1 {\n version 3\n interface eth0\n virtual_router_id %d\n priority 100\n advert_int 0.05\n"+
			" virtual_ipaddress {\n  %s\n }\n}\n", vrid, address)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		process, err = on.Start(ctx, lab.ProcessSpec{Name: "rogue", Args: []string{
			"keepalived", "--dont-fork", "--vrrp", "--log-console", "--use-file", file,
			"--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp"),
		}})
		return err
	}
	return begin, func() error { return errors.Join(process.Signal(syscall.SIGTERM), process.Wait(ctx)) }
}

// macOf is the link-layer address of a host's eth0.
func macOf(ctx context.Context, t *testing.T, h *lab.Host) string {
	t.Helper()
	said, err := h.Output(ctx, "ip", "-oneline", "link", "show", "dev", "eth0")
	_, rest, found := strings.Cut(string(said), "link/ether ")
	if err != nil || !found {
		t.Fatalf("the address of %s: %v: %s", h.Name, err, said)
	}
	return strings.Fields(rest)[0]
}
