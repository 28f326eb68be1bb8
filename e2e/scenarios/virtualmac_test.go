package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// virtualMAC is the link-layer address of the guide's VIP, whose VRID is 51.
const virtualMAC = "00:00:5e:00:01:33"

// A VIP with a virtual MAC address has the same one on every node. It moves by plan
// without a loss, and when its holder loses its power clients need not learn anything:
// their entry never changes.
func TestTheVirtualMACStays(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 5*time.Minute)
	watch, err := lab.WatchAddresses(ctx, []*lab.Host{s.Master().Host, s.Backup().Host}, lab.VIP.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	s.under(ctx, load, func() {
		s.lbctl(ctx, "vip", "set", "web", "--virtual-mac")
		s.wellOn(ctx, cluster.Master)
	})
	if changes, err := watch.Changes(ctx); err != nil || len(changes) != 3 || changes[2].Host != cluster.Master {
		t.Errorf("the address changed as %v (%v), want it away and back", changes, err)
	}
	if out, err := s.Lbctl(ctx, "doctor"); err != nil {
		t.Errorf("lbctl doctor: %v:\n%s", err, out)
	}
	entries := s.neighbors(ctx)

	s.tell(s.under(ctx, load, func() {
		for range 2 {
			s.backAndForth(ctx)
		}
	}))
	for _, f := range []struct {
		name      string
		make, end func(context.Context) error
	}{
		{"HAProxy killed", s.Master().KillHAProxy, func(context.Context) error { return nil }},
		{"keepalived killed", func(context.Context) error {
			_, err := signal(ctx, s.Master().Host, "keepalived", everyone, syscall.SIGKILL)
			return err
		}, func(context.Context) error { return nil }},
		{"node powered off", s.Master().PowerCut, s.Master().PowerBack},
	} {
		report := s.during(ctx, probe.Config{Interval: 5 * time.Millisecond, Timeout: 200 * time.Millisecond}, func() {
			if err := f.make(ctx); err != nil {
				t.Fatal(err)
			}
			s.until(10*time.Second, "the VIP on lb-backup", s.heldByBackup)
			_ = pause(ctx, 500*time.Millisecond) // until there are answers again
		})
		t.Logf("%s: longest time without an answer %.0f ms", f.name, report.LongestGap.MS)
		if gap := report.LongestGap; gap.Open || gap.MS > 3000 {
			t.Errorf("%s: clients were without an answer for %.0f ms (at the end, still none: %v)", f.name, gap.MS, gap.Open)
		}
		if err := f.end(ctx); err != nil {
			t.Fatal(err)
		}
		s.wellOn(ctx, cluster.Master)
		s.holdsNow(ctx, cluster.Master)
	}
	if seen := entries()[lab.VIP.Addr().String()]; !slices.Equal(seen, []string{virtualMAC}) {
		t.Errorf("the client's entry was %v, want %s all the time", seen, virtualMAC)
	}

	s.lbctl(ctx, "vip", "set", "web", "--virtual-mac=false")
	s.wellOn(ctx, cluster.Master)
	for _, n := range s.Nodes {
		out, err := n.Host.Output(ctx, "ip", "link", "show", "type", "macvlan")
		if err != nil || len(out) > 0 {
			t.Errorf("what is left on %s (%v): %s", n.Host.Name, err, out)
		}
	}
}

// A standby whose keepalived has just been started anew takes the VIP without a loss: its
// device is another one than what had the program.
func TestAVirtualMACMovesRightAfterARestart(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	s.lbctl(ctx, "vip", "set", "web", "--virtual-mac")
	s.wellOn(ctx, cluster.Master)
	for range 3 {
		s.under(ctx, load, func() {
			before := device(ctx, s.Backup().Host)
			if _, err := signal(ctx, s.Backup().Host, "keepalived", everyone, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.until(10*time.Second, "another device on lb-backup", func(ctx context.Context) error {
				if now := device(ctx, s.Backup().Host); now == "" || now == before {
					return fmt.Errorf("it has %q, and had %q", now, before)
				}
				return nil
			})
			s.lbctl(ctx, "node", "drain", cluster.Master)
			s.until(10*time.Second, "the VIP on lb-backup", s.heldByBackup)
			s.lbctl(ctx, "node", "undrain", cluster.Master)
			s.wellOn(ctx, cluster.Master)
		})
	}
}

// device is the number of the device with the virtual MAC address on a host; empty: there is
// none.
func device(ctx context.Context, h *lab.Host) string {
	out, _ := h.Output(ctx, "ip", "-oneline", "link", "show", "dev", "v4-51-eth0")
	index, _, _ := strings.Cut(string(out), ":")
	return index
}

// wellOn waits for a cluster in good health that has the VIP on a node.
func (s *site) wellOn(ctx context.Context, node string) {
	s.t.Helper()
	s.wait(ctx, "a cluster in good health", append(clustertest.Healthy(), cluster.HeldBy("web", node))...)
}

// neighbors records the link-layer addresses that the client has had for each address from
// now on, until it is asked for them.
func (s *site) neighbors(ctx context.Context) (seen func() map[string][]string) {
	s.t.Helper()
	var out bytes.Buffer
	p, err := s.Lab.Host("client").Start(ctx, lab.ProcessSpec{Name: "neighbors", Args: []string{"ip", "monitor", "neigh"}, Stdout: &out})
	if err != nil {
		s.t.Fatal(err)
	}
	return func() map[string][]string {
		s.t.Helper()
		if err := p.Kill(); err != nil {
			s.t.Fatal(err)
		}
		_ = p.Wait(ctx)
		all := make(map[string][]string)
		for line := range strings.Lines(out.String()) {
			address, rest, _ := strings.Cut(line, " ")
			_, mac, known := strings.Cut(rest, "lladdr ")
			if mac, _, _ = strings.Cut(mac, " "); known && !slices.Contains(all[address], mac) {
				all[address] = append(all[address], mac)
			}
		}
		return all
	}
}

// Two VIPs with virtual MAC addresses, one of them of both families, share a network, and
// move without a loss.
func TestTwoVIPsWithVirtualMACs(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	for host, address := range map[string]string{cluster.Master: "fd00:1::10", cluster.Backup: "fd00:1::11", "client": "fd00:1::50"} {
		if _, err := s.Lab.Host(host).Output(ctx, "ip", "address", "add", address+"/64", "dev", "eth0", "nodad"); err != nil {
			t.Fatal(err)
		}
	}
	s.lbctl(ctx, "vip", "set", "web", "--virtual-mac")
	s.lbctl(ctx, "vip", "add", "mail", "192.168.1.101/24", "fd00:1::101/64", "--vrid", "52", "--virtual-mac",
		"--priority", "lb-backup=230", "--priority", "lb-master=220")
	s.lbctl(ctx, "listener", "add", "mail", "--vip", "mail", "--port", "80", "--protocol", "http", "--pool", "web_servers")
	on := func(web, mail string) {
		t.Helper()
		s.wait(ctx, "web on "+web+" and mail on "+mail, cluster.HeldBy("web", web), cluster.HeldBy("mail", mail), cluster.NoAlarms)
	}
	on(cluster.Master, cluster.Backup)
	var all []probe.Config
	for _, target := range []string{"192.168.1.100:80", "192.168.1.101:80", "[fd00:1::101]:80"} {
		cfg := load
		cfg.Target, cfg.Interval = target, 20*time.Millisecond
		all = append(all, cfg)
	}
	entries := s.neighbors(ctx)
	reports := s.duringAll(ctx, all, func() {
		for _, node := range clustertest.Both {
			other := cluster.Backup
			if node == other {
				other = cluster.Master
			}
			s.lbctl(ctx, "node", "drain", node)
			on(other, other)
			s.lbctl(ctx, "node", "undrain", node)
			on(cluster.Master, cluster.Backup)
		}
	})
	for n, report := range reports {
		t.Log(all[n].Target)
		s.tell(report)
		if failed := report.Failed(); failed > 0 {
			t.Errorf("%s: %d of %d requests failed, the first %+v", all[n].Target, failed, report.Attempts(), report.Failures[0])
		}
		if gap := report.LongestGap; gap.Open || gap.MS > 2000 {
			t.Errorf("%s: clients were without an answer for %.0f ms (at the end, still none: %v)", all[n].Target, gap.MS, gap.Open)
		}
	}
	seen := entries()
	for address, mac := range map[string]string{"192.168.1.100": virtualMAC, "192.168.1.101": "00:00:5e:00:01:34", "fd00:1::101": "00:00:5e:00:02:34"} {
		if !slices.Equal(seen[address], []string{mac}) {
			t.Errorf("the client's entry of %s was %v, want %s all the time", address, seen[address], mac)
		}
	}
	s.lbctl(ctx, "listener", "remove", "mail")
	s.lbctl(ctx, "vip", "remove", "mail")
	s.wellOn(ctx, cluster.Master)
	for _, n := range s.Nodes {
		s.until(5*time.Second, "the devices of a VIP that is gone to be gone on "+n.Host.Name, func(ctx context.Context) error {
			out, err := n.Host.Output(ctx, "ip", "-brief", "link", "show", "type", "macvlan")
			if err == nil && strings.Count(string(out), "\n") != 1 {
				err = fmt.Errorf("there are %s", out)
			}
			return err
		})
	}
}
