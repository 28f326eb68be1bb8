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
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// rogue advertises the guide's VIP with the highest priority that one may have. It
// has the address where nobody can ask for it, so that nothing but its
// advertisements does harm.
const rogue = `vrrp_instance rogue {
    state BACKUP
    version 3
    interface eth0
    virtual_router_id 51
    priority 254
    advert_int 0.05
    virtual_ipaddress {
        192.168.1.100/32 dev lo
    }
}
`

// startRogue starts it on a host that is no node, and returns when it advertises.
func startRogue(ctx context.Context, t *testing.T, h *lab.Host) {
	t.Helper()
	if _, err := h.Output(ctx, "sysctl", "--quiet", "--write", "net.ipv4.conf.all.arp_ignore=1"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.Dir(), "rogue.conf")
	if err := os.WriteFile(file, []byte(rogue), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(ctx, lab.ProcessSpec{Name: "rogue", Args: []string{
		"keepalived", "--dont-fork", "--vrrp", "--log-console", "--no-syslog", "--use-file", file,
		"--pid", filepath.Join(h.Dir(), "rogue.pid"), "--vrrp_pid", filepath.Join(h.Dir(), "rogue-vrrp.pid"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Logged(ctx, "Entering MASTER STATE"); err != nil {
		t.Fatal(err)
	}
}

// A stranger on the network that advertises a VIP with a higher priority than any
// node's takes it from nobody and costs no client a request, with the agents and
// the controller alive or dead.
func TestI7AStrangersAdvertisementsMoveNoVIP(t *testing.T) {
	g := clustertest.Start(t)
	ctx := labtest.Deadline(t, time.Minute)
	for _, node := range clustertest.Both {
		h := g.Nodes[node].Host
		if err := lab.Until(ctx, "a table on "+node, func(ctx context.Context) error {
			_, err := h.Output(ctx, "nft", "list", "table", "inet", "tandem_vrrp")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := traffic.StartProbe(ctx, g.Lab.Host("client"), g.Labhost, probe.Config{
		Target: "192.168.1.100:80", Timeout: time.Second, Interval: 10 * time.Millisecond, Reused: 2, Think: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	startRogue(ctx, t, g.Lab.Host("web3"))
	heard := func(what string) {
		t.Helper()
		was := dropped(ctx, t, g.Master().Host)
		if err := lab.Until(ctx, "40 advertisements dropped "+what, func(ctx context.Context) error {
			if dropped(ctx, t, g.Master().Host) < was+40 {
				return errors.New("there are fewer")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	heard("with all alive")
	if _, err := g.Until(ctx, "the VIP on lb-master, and the stranger told", cluster.HeldBy("web", cluster.Master), alarmed("FOREIGN_VRRP_SPEAKER", "with priority 254")); err != nil {
		t.Error(err)
	}
	for _, node := range clustertest.Both {
		if err := g.Nodes[node].KillAgent(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Controller.Kill(); err != nil {
		t.Fatal(err)
	}
	heard("with the agents and the controller dead")
	report, err := p.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed() > 0 || report.Attempts() == 0 {
		t.Errorf("%d of %d requests failed: %+v", report.Failed(), report.Attempts(), report.Failures)
	}
}

// dropped counts the advertisements of IPv4 that a node has dropped.
func dropped(ctx context.Context, t *testing.T, h *lab.Host) int {
	t.Helper()
	said, err := h.Output(ctx, "nft", "list", "table", "inet", "tandem_vrrp")
	if err != nil {
		t.Fatal(err)
	}
	_, count, _ := strings.Cut(string(said), "l4proto vrrp iifname @interfaces4 ip saddr != @sources4 counter packets ")
	var n int
	if _, err := fmt.Sscan(count, &n); err != nil {
		t.Fatalf("%s: %v", said, err)
	}
	return n
}
