package lab_test

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

func TestPowerCut(t *testing.T) {
	l := labtest.Start(t, pair())
	serve(t, l)
	b := l.Host("b")
	ctx := t.Context()
	vip := netip.MustParseAddr("192.168.1.100")
	mustRun(ctx, t, b, "ip", "address", "add", vip.String()+"/24", "dev", "eth0")
	if err := b.Drop(ctx, lab.Out, "ip protocol vrrp"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Path("/run/volatile"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerCut(ctx); err != nil {
		t.Fatal(err)
	}
	unreachable(t, l)
	pids, err := b.Pids("haproxy")
	if err != nil || len(pids) > 0 {
		t.Errorf("HAProxy survived a power cut: %v, %v", pids, err)
	}
	if _, err := os.Stat(b.Path("/run/volatile")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file in /run survived a power cut: %v", err)
	}
	if err := b.PowerBack(ctx); err != nil {
		t.Fatal(err)
	}
	held, err := b.Addresses(ctx)
	if err != nil || len(held) == 0 || held[0] != b.Address {
		t.Errorf("addresses after a power cut: %v, %v", held, err)
	}
	if holders, err := l.Holders(ctx, vip); err != nil || len(holders) > 0 {
		t.Errorf("the kernel has an address of before the power cut: %v, %v", holders, err)
	}
	if rules, err := b.Output(ctx, "nft", "list", "ruleset"); err != nil || len(rules) > 0 {
		t.Errorf("the kernel has rules of before the power cut: %s, %v", rules, err)
	}
	serve(t, l)
}

func TestWatchAddresses(t *testing.T) {
	l := labtest.Start(t, pair())
	ctx := t.Context()
	a, b := l.Host("a"), l.Host("b")
	v4, v6 := netip.MustParseAddr("192.168.1.100"), netip.MustParseAddr("fd00::100")
	mustRun(ctx, t, a, "ip", "address", "add", "192.168.1.100/24", "dev", "eth0")
	watch, err := lab.WatchAddresses(ctx, []*lab.Host{a, b}, v4, v6)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	mustRun(ctx, t, b, "ip", "address", "add", "192.168.1.101/24", "dev", "eth0") // nobody's business
	mustRun(ctx, t, b, "ip", "address", "add", "192.168.1.100/24", "dev", "eth0")
	mustRun(ctx, t, a, "ip", "address", "del", "192.168.1.100/24", "dev", "eth0")
	mustRun(ctx, t, b, "ip", "address", "add", "fd00::100/64", "dev", "eth0", "nodad")
	changes, err := watch.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		_, what, _ := strings.Cut(c.String(), " ") // without the time
		got = append(got, what)
	}
	want := []string{"a got 192.168.1.100", "b got 192.168.1.100", "a lost 192.168.1.100", "b got fd00::100"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func mustRun(ctx context.Context, t *testing.T, h *lab.Host, name string, args ...string) {
	t.Helper()
	if _, err := h.Output(ctx, name, args...); err != nil {
		t.Fatal(err)
	}
}
