package scenarios

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// What all nodes of a VIP must have alike changes under load, each in its turn: at
// no moment two kernels have the VIP, it never goes to another node, and no client
// loses a request.
func TestI7WhatNodesMustHaveAlikeChangesAtOnce(t *testing.T) {
	g := clustertest.Start(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("geheim12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vip := netip.MustParseAddr("192.168.1.100")
	watch, err := lab.WatchAddresses(ctx, []*lab.Host{g.Master().Host, g.Backup().Host}, vip)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	for _, change := range [][]string{
		{"vip", "set", "web", "--vrid", "77"},
		{"cluster", "set", "--vrrp-version", "2", "--advert-interval", "1s"},
		{"cluster", "set", "--vrrp-password-file", password},
		{"cluster", "set", "--advert-interval", "2s"},
		{"vip", "set", "web", "--vrid", "78"},
		{"cluster", "set", "--vrrp-version", "3", "--advert-interval", "100ms"},
		{"vip", "set", "web", "--vrid", "51"},
		{"vip", "set", "web", "--unicast"},
		{"cluster", "set", "--vrrp-version", "2", "--advert-interval", "1s"},
		{"cluster", "set", "--vrrp-version", "3", "--advert-interval", "100ms"},
		{"vip", "set", "web", "--unicast=false"},
		{"vip", "set", "web", "--virtual-mac"},
		{"vip", "set", "web", "--virtual-mac=false"},
	} {
		what := strings.Join(change, " ")
		p, err := traffic.StartProbe(ctx, g.Lab.Host("client"), g.Labhost, probe.Config{
			Target: vip.String() + ":80", Timeout: 2 * time.Second,
			Interval: 10 * time.Millisecond, Reused: 4, Inflight: 2, Think: 10 * time.Millisecond, Hold: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Lbctl(ctx, change...); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Until(ctx, "a cluster in good health after "+what, cluster.Settled(clustertest.Both...), cluster.HeldBy("web", cluster.Master)); err != nil {
			t.Fatal(err)
		}
		report, err := p.Stop(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if report.Failed() > 0 {
			t.Errorf("%s: %d of %d requests failed: %+v", what, report.Failed(), report.Attempts(), report.Failures)
		}
		t.Logf("%s: %d requests, the longest time without an answer %.0f ms", what, report.Attempts(), report.LongestGap.MS)
	}
	changes, err := watch.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	holders := make(map[string]bool)
	for _, c := range changes {
		if c.Held {
			holders[c.Host] = true
		} else {
			delete(holders, c.Host)
		}
		if len(holders) > 1 {
			t.Errorf("two holders: %v at %v", slices.Sorted(maps.Keys(holders)), c)
		}
		if c.Host != cluster.Master {
			t.Errorf("the VIP moved: %v", c)
		}
	}
	t.Log(changes)
}
