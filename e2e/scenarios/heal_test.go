package scenarios

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// partition is a way in which the nodes lose each other.
type partition struct {
	name  string
	lasts time.Duration
	drops []drop
}

type drop struct {
	node      string
	direction lab.Direction
	match     string
}

const vrrpOnly = "ip protocol vrrp"

var partitions = []partition{
	{"neither hears the other, for a moment", 600 * time.Millisecond, []drop{{cluster.Master, lab.In, vrrpOnly}, {cluster.Backup, lab.In, vrrpOnly}}},
	{"neither hears the other", 3 * time.Second, []drop{{cluster.Master, lab.In, vrrpOnly}, {cluster.Backup, lab.In, vrrpOnly}}},
	{"the standby hears nobody advertise", 600 * time.Millisecond, []drop{{cluster.Backup, lab.In, vrrpOnly}}},
	{"the holder is cut off, for a moment", 600 * time.Millisecond, []drop{{cluster.Master, lab.In, ""}, {cluster.Master, lab.Out, ""}}},
	{"the holder is cut off", 3 * time.Second, []drop{{cluster.Master, lab.In, ""}, {cluster.Master, lab.Out, ""}}},
	{"the holder receives nothing", 3 * time.Second, []drop{{cluster.Master, lab.In, ""}}},
	{"the holder sends nothing", 600 * time.Millisecond, []drop{{cluster.Master, lab.Out, ""}}},
	{"the standby receives nothing", 600 * time.Millisecond, []drop{{cluster.Backup, lab.In, ""}}},
	{"the standby receives nothing for long", 3 * time.Second, []drop{{cluster.Backup, lab.In, ""}}},
	{"the standby is cut off", 3 * time.Second, []drop{{cluster.Backup, lab.In, ""}, {cluster.Backup, lab.Out, ""}}},
}

// I7: after each of ten heals, of ten kinds of partitions, all clients reach the VIP, and
// the one with an ARP entry that was in use has the holder's.
func TestI7HealsLeaveNoStaleEntry(t *testing.T) {
	t.Parallel()
	healsLeaveNoStaleEntry(t, false)
}

// I7: nor does the switch have one, where both nodes have spoken from one virtual MAC address.
func TestI7HealsWithAVirtualMAC(t *testing.T) {
	t.Parallel()
	healsLeaveNoStaleEntry(t, true)
}

func healsLeaveNoStaleEntry(t *testing.T, virtual bool) {
	t.Helper()
	s := newSite(t)
	if virtual {
		s.lbctl(labtest.Deadline(t, time.Minute), "vip", "set", "web", "--virtual-mac")
	}
	clients := s.startFaultClients(t.Context(), t, lab.VIP.Addr())
	s.healthy(labtest.Deadline(t, repair))
	macs := map[string]string{}
	for name, node := range s.Nodes {
		macs[name] = macOf(labtest.Deadline(t, time.Minute), t, node.Host)
		if virtual {
			macs[name] = virtualMAC
		}
	}
	stale := 0
	for n, p := range partitions {
		ctx := labtest.Deadline(t, time.Minute)
		for _, d := range p.drops {
			if err := s.Nodes[d.node].Host.Drop(ctx, d.direction, d.match); err != nil {
				t.Fatal(err)
			}
		}
		wait(ctx, p.lasts)
		for _, d := range p.drops {
			if err := s.Nodes[d.node].Host.Undrop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		healed := time.Now()
		bounded, cancel := context.WithDeadline(ctx, healed.Add(recovery))
		err := lab.Until(bounded, "all clients to reach the VIP at its holder", func(ctx context.Context) error {
			return errors.Join(s.entryIsRight(ctx, macs), reachedBy(clients, healed))
		})
		cancel()
		if err != nil {
			t.Errorf("heal %d, %s: %v", n, p.name, err)
			stale++
		}
		t.Logf("heal %d, %s: right after %s", n, p.name, time.Since(healed).Round(time.Millisecond))
		if _, err := s.Until(ctx, "the VIP back on "+cluster.Master, cluster.HeldBy("web", cluster.Master)); err != nil {
			t.Fatal(err)
		}
		s.healthy(ctx)
	}
	t.Logf("%d of %d heals left a stale entry", stale, len(partitions))
}

// entryIsRight tells what is wrong with the warm entry of a client, by the nodes'
// link-layer addresses.
func (s *site) entryIsRight(ctx context.Context, macs map[string]string) error {
	holders, err := s.Lab.Holders(ctx, lab.VIP.Addr())
	if err != nil {
		return err
	}
	if len(holders) != 1 {
		return fmt.Errorf("it is held by %v", holders)
	}
	entry, err := s.Lab.Host("client").Output(ctx, "ip", "neighbor", "show", lab.VIP.Addr().String())
	if mac := macs[holders[0]]; err == nil && !strings.Contains(string(entry), mac) {
		err = fmt.Errorf("%s holds it with %s, and the client's entry is %s", holders[0], mac, entry)
	}
	return err
}

// I7: all processes of the holder's keepalived are killed. Its address is gone and the
// peer holds the VIP at once, and later the node has it back.
func TestI7AKilledKeepalivedLeavesOneHolder(t *testing.T) {
	const rounds, limit = 5, 4 * time.Second
	s := newSite(t)
	s.healthy(labtest.Deadline(t, repair))
	watch, err := lab.WatchAddresses(t.Context(), []*lab.Host{s.Master().Host, s.Backup().Host}, lab.VIP.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Close() })
	for round := range rounds {
		ctx := labtest.Deadline(t, time.Minute)
		killed := time.Now()
		if _, err := signal(ctx, s.Master().Host, "keepalived", everyone, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		taken := func(ctx context.Context) error {
			changes, err := watch.Changes(ctx)
			if err == nil && len(changes) == 0 || changes[len(changes)-1].At.Before(killed) {
				err = errors.New("nothing has changed")
			}
			holders, failed := s.Lab.Holders(ctx, lab.VIP.Addr())
			if err = errors.Join(err, failed); err == nil && len(holders) != 1 {
				err = fmt.Errorf("it is held by %v", holders)
			}
			return err
		}
		if err := lab.Until(labtest.Deadline(t, limit), "one holder", taken); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: one holder after %s", round, time.Since(killed).Round(time.Millisecond))
		if _, err := s.Until(ctx, "the VIP back on "+cluster.Master, cluster.HeldBy("web", cluster.Master)); err != nil {
			t.Fatal(err)
		}
		s.healthy(ctx)
		changes, err := watch.Changes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range notHeldOnce(changes, time.Now()) {
			if w.to.After(killed) && w.to.Sub(w.from) > limit {
				t.Errorf("round %d: %s for %s", round, w.what, w.to.Sub(w.from))
			}
		}
	}
}
