package scenarios

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// secondSwitch puts a switch between the load balancers' eth2, and has their agents call
// that vrrp. port runs ip there on a node's port.
func (s *site) secondSwitch(ctx context.Context) (port func(node, state string)) {
	s.t.Helper()
	sw := s.Master().Host.Netns() + "-vrrp"
	run := func(args ...string) {
		s.t.Helper()
		if said, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			s.t.Fatalf("ip %v: %v: %s", args, err, said)
		}
	}
	run("netns", "add", sw)
	s.t.Cleanup(func() { run("netns", "delete", sw) })
	run("-n", sw, "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0")
	for _, node := range clustertest.Both {
		run("link", "add", node, "netns", sw, "type", "veth", "peer", "name", "eth2", "netns", s.Nodes[node].Host.Netns())
		run("-n", sw, "link", "set", node, "master", "br0", "up")
	}
	s.nameSecond(ctx)
	return func(node, state string) { run("-n", sw, "link", "set", node, state) }
}

// settled waits until one node has the VIP alone, and sees that it stays so for longer
// than anybody keeps off it by himself.
func (s *site) settled(ctx context.Context, node string) {
	s.t.Helper()
	began := time.Now()
	s.until(10*time.Second, "both nodes with the VIP", func(ctx context.Context) error {
		holders, err := s.Lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && len(holders) != 2 {
			err = fmt.Errorf("it is on %v", holders)
		}
		return err
	})
	both := time.Now()
	s.holds(ctx, node)
	s.t.Logf("both held the VIP %v after the cut, and one of them %v later", both.Sub(began), time.Since(both))
	quiet := labtest.Deadline(s.t, 5*time.Second)
	for quiet.Err() == nil {
		if holders, err := s.Lab.Holders(ctx, lab.VIP.Addr()); err != nil || !slices.Equal(holders, []string{node}) {
			s.t.Fatalf("the VIP is on %v (%v), want %s", holders, err, node)
		}
	}
}

// I7: where only the network of the advertisements is cut, without a controller, one of
// the nodes holds the VIP. I8: when that one loses its power the other one takes over.
func TestI7AVRRPNetworkThatIsCutWithoutAController(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		switched bool
		cut      string // the node whose port it is
		keeps    string
	}{
		{"a cable", false, cluster.Master, cluster.Master},
		{"the holder's port", true, cluster.Master, cluster.Backup},
		{"the standby's port", true, cluster.Backup, cluster.Master},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			ctx := labtest.Deadline(t, 4*time.Minute)
			var port func(node, state string)
			if test.switched {
				port = s.secondSwitch(ctx)
			} else {
				s.secondNetwork(ctx)
				port = func(node, state string) {
					if _, err := s.Nodes[node].Host.Output(ctx, "ip", "link", "set", "eth2", state); err != nil {
						t.Fatal(err)
					}
				}
			}
			well := append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))
			s.lbctl(ctx, "vip", "set", "web", "--vrrp-network", "vrrp")
			s.wait(ctx, "a cluster in good health", well...)
			if err := s.Controller.Kill(); err != nil {
				t.Fatal(err)
			}

			port(test.cut, "down")
			s.settled(ctx, test.keeps)

			other := cluster.Backup
			if test.keeps == other {
				other = cluster.Master
			}
			report := s.during(ctx, probe.Config{Interval: 5 * time.Millisecond, Timeout: 200 * time.Millisecond}, func() {
				if err := s.Nodes[test.keeps].PowerCut(ctx); err != nil {
					t.Fatal(err)
				}
				s.holds(ctx, other)
				_ = pause(ctx, 500*time.Millisecond) // until there are answers again
			})
			t.Logf("its power cut: longest time without an answer %.0f ms", report.LongestGap.MS)
			if gap := report.LongestGap; gap.Open || gap.MS > 4000 {
				t.Errorf("clients were without an answer for %.0f ms (at the end, still none: %v)", gap.MS, gap.Open)
			}
			if err := s.Nodes[test.keeps].PowerBack(ctx); err != nil {
				t.Fatal(err)
			}
			port(test.cut, "up")
			if err := s.Controller.Start(ctx); err != nil {
				t.Fatal(err)
			}
			s.wait(ctx, "a pair again, and no alarm", well...)
			s.holdsNow(ctx, cluster.Master)
		})
	}
}
