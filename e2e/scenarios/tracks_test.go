package scenarios

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
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// lost holds when a node says whether it has lost a track of VIP web.
func lost(node, track string, is bool) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		for _, vip := range s.GetVips() {
			for _, on := range vip.GetNodes() {
				for _, t := range on.GetTracks() {
					if on.GetNode() == node && t.GetTrack() == track && t.GetSince() != nil && t.GetLost() == is {
						return nil
					}
				}
			}
		}
		return fmt.Errorf("%s does not say that %s is lost: %v", node, track, is)
	}
}

// mustLbctl runs lbctl and returns what it says on either output.
func mustLbctl(ctx context.Context, t *testing.T, g *clustertest.Guide, args ...string) string {
	t.Helper()
	said, err := g.LbctlCommand(ctx, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lbctl %s: %v: %s", strings.Join(args, " "), err, said)
	}
	return string(said)
}

// The gateway that one node has lost moves the VIP, and brings it back; lost on both, one
// of them holds it and an alarm tells. A killed agent's score ends, and nobody is left
// without a holder.
func TestI8ATrackMovesTheVIPAndNeverTakesItAway(t *testing.T) {
	t.Parallel()
	g := newTorn(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	const track, promised = "gateway 192.168.1.51", 4 * time.Second // 3 questions, a second apart, and a second
	gateway, master := g.Lab.Host("client2"), g.Lab.Host(cluster.Master)
	until := func(what string, conditions ...cluster.Condition) time.Duration {
		t.Helper()
		began := time.Now()
		if _, err := g.Until(labtest.Deadline(t, 20*time.Second), what, conditions...); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	if said := mustLbctl(ctx, t, g.Guide, "vip", "set", "web", "--track", track+" weight=-5"); !strings.Contains(said, "note: VIP web: track \"gateway 192.168.1.51\" is too light") {
		t.Errorf("a weight that moves nothing: %s", said)
	}
	if said := mustLbctl(ctx, t, g.Guide, "status"); !strings.Contains(said, "use -11 to -56") {
		t.Errorf("the status does not say so:\n%s", said)
	}
	mustLbctl(ctx, t, g.Guide, "vip", "set", "web", "--track", track)
	until("both nodes to have asked", lost(cluster.Master, track, false), lost(cluster.Backup, track, false))
	sameAgain(ctx, t, g.Guide)
	g.well()

	away := func() error { return master.Drop(ctx, lab.In, "arp saddr ip 192.168.1.51") }
	must(away())
	took := g.waitHeld(3*promised, cluster.Backup)
	t.Logf("lost on the holder, it is on the other node after %v; promised are %v", took, promised)
	until("the alarm", alarmed("TRACK_LOST", "lb-master has lost gateway 192.168.1.51", "192.168.1.51 does not answer on eth0"), lost(cluster.Master, track, true))
	said, err := master.Output(ctx, g.Programs.Agent, "status", "--config", g.Nodes[cluster.Master].Config)
	if err != nil || !strings.Contains(string(said), "-44 as it has lost gateway 192.168.1.51") {
		t.Errorf("lb-agent status says, %v:\n%s", err, said)
	}
	if said, err := g.Lbctl(ctx, "vip", "failover", "web"); err == nil || !strings.Contains(err.Error(), "has lost what the VIP needs") {
		t.Errorf("a failover to where the gateway is lost: %v: %s", err, said)
	}
	must(master.Undrop(ctx))
	t.Logf("found again, it is back after %v", g.waitHeld(3*promised, cluster.Master))
	g.well()

	must(gateway.Cut(ctx))
	until("both to have lost it", alarmed("TRACK_LOST", "lb-master has lost", "lb-backup has lost", "so has every node"), cluster.HeldBy("web", cluster.Master))
	g.stays(5*time.Second, cluster.Master)
	must(gateway.Plug(ctx))
	g.well()

	must(away())
	g.waitHeld(3*promised, cluster.Backup)
	must(g.Master().KillAgent())
	t.Logf("its agent dead, it is back after %v", g.waitHeld(20*time.Second, cluster.Master))
	g.stays(3*time.Second, cluster.Master)
	must(g.Master().StartAgent(ctx))
	g.waitHeld(3*promised, cluster.Backup)
	// An agent that is back soon moves nothing.
	must(errors.Join(g.Master().KillAgent(), g.Master().StartAgent(ctx)))
	g.stays(8*time.Second, cluster.Backup)
	must(master.Undrop(ctx))
	g.well()
}

// sameAgain exports the configuration and applies it, which changes nothing.
func sameAgain(ctx context.Context, t *testing.T, g *clustertest.Guide) {
	t.Helper()
	text, err := g.Lbctl(ctx, "export")
	if err != nil || !strings.Contains(string(text), "tracks:") {
		t.Fatalf("export, %v:\n%s", err, text)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := mustLbctl(ctx, t, g, "apply", "-f", file); !strings.Contains(said, "is like that already") {
		t.Errorf("what was exported changes something: %s", said)
	}
}

// A network beside the VIP's own that loses its carrier on the holder moves the VIP; lost
// on both, one of them holds it.
func TestI8ANetworkThatAVIPNeeds(t *testing.T) {
	t.Parallel()
	g := newTorn(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	on := func(node string, args ...string) {
		t.Helper()
		_, err := g.Lab.Host(node).Output(ctx, "ip", args...)
		must(err)
	}
	for _, node := range clustertest.Both {
		on(node, "link", "add", "back0", "type", "veth", "peer", "name", "back1")
		on(node, "link", "set", "back0", "up")
		on(node, "link", "set", "back1", "up")
		n := g.Nodes[node]
		text, err := os.ReadFile(n.Config)
		must(err)
		must(os.WriteFile(n.Config, append(text, "networks: {back: back0}\n"...), 0o600))
		must(errors.Join(n.StopAgent(10*time.Second), n.StartAgent(ctx)))
	}
	g.well()
	mustLbctl(ctx, t, g.Guide, "vip", "set", "web", "--track", "network back")
	if _, err := g.Until(labtest.Deadline(t, 20*time.Second), "both to know it", lost(cluster.Master, "network back", false), lost(cluster.Backup, "network back", false)); err != nil {
		t.Fatal(err)
	}
	g.stays(time.Second, cluster.Master)
	on(cluster.Master, "link", "set", "back1", "down")
	t.Logf("without carrier on the holder, it is on the other node after %v", g.waitHeld(10*time.Second, cluster.Backup))
	if _, err := g.Until(labtest.Deadline(t, 10*time.Second), "the alarm", alarmed("TRACK_LOST", "lb-master has lost network back (interface back0 has no carrier)")); err != nil {
		t.Fatal(err)
	}
	on(cluster.Backup, "link", "set", "back0", "down")
	g.waitHeld(10*time.Second, cluster.Master)
	g.stays(3*time.Second, cluster.Master)
	on(cluster.Backup, "link", "set", "back0", "up")
	g.waitHeld(10*time.Second, cluster.Backup)
	on(cluster.Master, "link", "set", "back1", "up")
	g.well()
}
