package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// secondNetwork lays a cable between the load balancers, as eth2, and has their agents
// call it vrrp.
func (s *site) secondNetwork(ctx context.Context) {
	s.t.Helper()
	one, other := s.Master().Host.Netns(), s.Backup().Host.Netns()
	if said, err := exec.CommandContext(ctx, "ip", "-n", one, "link", "add", "eth2", "type", "veth", "peer", "name", "eth2", "netns", other).CombinedOutput(); err != nil {
		s.t.Fatalf("ip link add: %v: %s", err, said)
	}
	s.nameSecond(ctx)
}

// nameSecond gives the load balancers' eth2 addresses and has their agents call it vrrp.
func (s *site) nameSecond(ctx context.Context) {
	s.t.Helper()
	for n, node := range clustertest.Both {
		of := s.Nodes[node]
		for _, args := range [][]string{
			{"address", "add", fmt.Sprintf("10.0.0.%d/24", n+1), "dev", "eth2"}, {"link", "set", "eth2", "up"},
		} {
			if _, err := of.Host.Output(ctx, "ip", args...); err != nil {
				s.t.Fatal(err)
			}
		}
		config, err := os.ReadFile(of.Config)
		if err != nil {
			s.t.Fatal(err)
		}
		config = bytes.Replace(config, []byte("interface: eth0\n"), []byte("networks: {front: eth0, vrrp: eth2}\n"), 1)
		if err := os.WriteFile(of.Config, config, 0o600); err != nil {
			s.t.Fatal(err)
		}
		if err := of.StopAgent(10 * time.Second); err != nil {
			s.t.Fatal(err)
		}
		if err := of.StartAgent(ctx); err != nil {
			s.t.Fatal(err)
		}
	}
	s.wait(ctx, "a cluster in good health with two networks", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
}

// A VIP goes over to advertisements on a network of their own without a loss; there it
// moves as ever, and also when its holder loses the network of the addresses.
func TestVRRPOverANetworkOfItsOwn(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	s.secondNetwork(ctx)
	watch, err := lab.WatchAddresses(ctx, []*lab.Host{s.Master().Host, s.Backup().Host}, lab.VIP.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	s.under(ctx, load, func() {
		s.lbctl(ctx, "vip", "set", "web", "--vrrp-network", "vrrp")
		s.wait(ctx, "a cluster in good health", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	})
	changes, err := watch.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.Host != cluster.Master {
			t.Errorf("the VIP moved: %v", c)
		}
	}
	// Nothing of VRRP is left on the network of the clients.
	for _, node := range clustertest.Both {
		if err := s.Nodes[node].Host.Drop(ctx, lab.Out, "ip protocol vrrp"); err != nil {
			t.Fatal(err)
		}
	}
	s.under(ctx, load, func() {
		s.lbctl(ctx, "vip", "failover", "web", "--for", "2s")
		s.holdsNow(ctx, cluster.Backup)
		s.holds(ctx, cluster.Master)
	})
	report := s.during(ctx, probe.Config{Interval: 5 * time.Millisecond, Timeout: 200 * time.Millisecond}, func() {
		if err := s.Master().Host.Cut(ctx); err != nil {
			t.Fatal(err)
		}
		s.until(10*time.Second, "the VIP on lb-backup", s.heldByBackup)
		_ = pause(ctx, 500*time.Millisecond) // until there are answers again
	})
	t.Logf("port of the addresses cut: longest time without an answer %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.Open || gap.MS > 3000 {
		t.Errorf("clients were without an answer for %.0f ms (at the end, still none: %v)", gap.MS, gap.Open)
	}
	s.holdsNow(ctx, cluster.Backup)
	if err := s.Master().Host.Plug(ctx); err != nil {
		t.Fatal(err)
	}
	s.wait(ctx, "a cluster in good health again", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	untroubled(ctx, t, s.Cluster, "NODE_DISCONNECTED")
}

// A cable between the nodes is a network that ends with either of them: the survivor has
// no carrier on it. It holds the VIP all the same, and they are a pair again when the other
// one is back. While both live, a cut cable is settled like any other cut.
func TestI8VRRPOverACableThatEndsWithThePeer(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	s.secondNetwork(ctx)
	well := append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))
	s.lbctl(ctx, "vip", "set", "web", "--vrrp-network", "vrrp")
	s.wait(ctx, "a cluster in good health", well...)
	// Down at one end, it has no carrier at the other one.
	cable := func(node, state string) {
		t.Helper()
		if _, err := s.Nodes[node].Host.Output(ctx, "ip", "link", "set", "eth2", state); err != nil {
			t.Fatal(err)
		}
	}
	powerOff := func(node string) {
		t.Helper()
		cable(node, "down")
		if err := s.Nodes[node].PowerCut(ctx); err != nil {
			t.Fatal(err)
		}
	}
	powerOn := func(node string) {
		t.Helper()
		cable(node, "up")
		if err := s.Nodes[node].PowerBack(ctx); err != nil {
			t.Fatal(err)
		}
		s.wait(ctx, "a pair again, and no alarm", well...)
		s.holdsNow(ctx, cluster.Master)
	}
	noCarrier := func(node string) cluster.Condition {
		return alarmed("TRACK_LOST", node+" has lost network vrrp (interface eth2 has no carrier)")
	}

	report := s.during(ctx, probe.Config{Interval: 5 * time.Millisecond, Timeout: 200 * time.Millisecond}, func() {
		powerOff(cluster.Master)
		s.until(10*time.Second, "the VIP on lb-backup", s.heldByBackup)
		_ = pause(ctx, 3*time.Second) // longer than a fence, and than anything else lasts
	})
	t.Logf("holder powered off: longest time without an answer %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.Open || gap.MS > 3000 {
		t.Errorf("clients were without an answer for %.0f ms (at the end, still none: %v)", gap.MS, gap.Open)
	}
	s.wait(ctx, "the alarm", noCarrier(cluster.Backup))
	powerOn(cluster.Master)

	s.under(ctx, load, func() {
		powerOff(cluster.Backup)
		_ = pause(ctx, 3*time.Second)
		s.holdsNow(ctx, cluster.Master)
	})
	s.wait(ctx, "the alarm", noCarrier(cluster.Master))
	powerOn(cluster.Backup)

	cable(cluster.Master, "down")
	s.until(10*time.Second, "one node that keeps the VIP, and one that is fenced off", func(ctx context.Context) error {
		holders, err := s.Lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && len(holders) != 1 {
			err = fmt.Errorf("it is on %v", holders)
		}
		if err != nil {
			return err
		}
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		return alarmed("FENCED", "is kept off VIP web")(status)
	})
	cable(cluster.Master, "up")
	s.wait(ctx, "a pair again, and no alarm", well...)
	s.holdsNow(ctx, cluster.Master)
}
