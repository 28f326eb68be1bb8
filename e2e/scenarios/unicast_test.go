package scenarios

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// Where the network carries no multicast, a pair that advertises by unicast has one
// holder, which fails over as fast as any other and moves without loss. By multicast the
// nodes do not hear each other there, and unicast cures that.
func TestAPairWithoutMulticast(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	s.lbctl(ctx, "cluster", "set", "--profile", "fast")
	for _, node := range clustertest.Both {
		if err := s.Nodes[node].Host.Drop(ctx, lab.Out, "ip daddr 224.0.0.0/4"); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(ctx, "nodes that do not hear each other", alarmed("PEER_SILENT", "lb-backup does not hear lb-master"))
	s.lbctl(ctx, "vip", "set", "web", "--unicast")
	s.wait(ctx, "a cluster in good health by unicast", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	watch, err := lab.WatchAddresses(ctx, []*lab.Host{s.Master().Host, s.Backup().Host}, lab.VIP.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	s.under(ctx, load, func() {
		s.lbctl(ctx, "vip", "failover", "web", "--for", "2s")
		s.holdsNow(ctx, cluster.Backup)
		s.holds(ctx, cluster.Master) // its fail-back is automatic
	})
	changes, err := watch.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 5 { // the first one is what was there
		t.Errorf("the address changed as %v, want two moves", changes)
	}

	faults := []struct {
		name      string
		make, end func(context.Context) error
	}{
		{"HAProxy killed", s.Master().KillHAProxy, func(context.Context) error { return nil }},
		{"node cut off", s.Master().Host.Cut, s.Master().Host.Plug},
	}
	for _, f := range faults {
		report := s.during(ctx, probe.Config{Interval: 5 * time.Millisecond, Timeout: 200 * time.Millisecond}, func() {
			if err := f.make(ctx); err != nil {
				t.Fatal(err)
			}
			s.until(10*time.Second, "the VIP on lb-backup", s.heldByBackup)
			_ = pause(ctx, 500*time.Millisecond) // until there are answers again
		})
		t.Logf("%s: longest time without an answer %.0f ms", f.name, report.LongestGap.MS)
		if gap := report.LongestGap; gap.Open || gap.MS > 2000 {
			t.Errorf("%s: clients were without an answer for %.0f ms (at the end, still none: %v)", f.name, gap.MS, gap.Open)
		}
		if err := f.end(ctx); err != nil {
			t.Fatal(err)
		}
		s.wait(ctx, "a cluster in good health after "+f.name, append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	}
}

// heldByBackup holds when lb-backup has the VIP's address.
func (s *site) heldByBackup(ctx context.Context) error {
	held, err := s.Backup().Host.Addresses(ctx)
	if err != nil {
		return err
	}
	for _, p := range held {
		if p.Addr() == lab.VIP.Addr() {
			return nil
		}
	}
	return errors.New("it has not")
}
