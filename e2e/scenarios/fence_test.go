package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// torn is a cluster whose nodes may come to hold the VIP both, and a client with an
// ARP entry for it that is in use.
type torn struct {
	*clustertest.Guide
	t *testing.T
}

func newTorn(t *testing.T) *torn {
	t.Helper()
	g := &torn{clustertest.Start(t), t}
	p, err := traffic.StartProbe(labtest.Deadline(t, time.Minute), g.Lab.Host("client"), g.Labhost, probe.Config{
		Target: "192.168.1.100:80", Timeout: time.Second, Interval: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// heldBy waits until the nodes' kernels say that those hold the VIP.
func (g *torn) waitHeld(limit time.Duration, nodes ...string) time.Duration {
	g.t.Helper()
	began := time.Now()
	err := lab.Until(labtest.Deadline(g.t, limit), "the VIP on "+strings.Join(nodes, " and "), func(ctx context.Context) error {
		return g.held(ctx, nodes)
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return time.Since(began)
}

func (g *torn) held(ctx context.Context, nodes []string) error {
	holders, err := g.Lab.Holders(ctx, lab.VIP.Addr())
	if err == nil && !slices.Equal(holders, nodes) {
		err = fmt.Errorf("it is on %v", holders)
	}
	return err
}

// stays fails if anything changes who holds the VIP for a while.
func (g *torn) stays(while time.Duration, nodes ...string) {
	g.t.Helper()
	ctx := labtest.Deadline(g.t, while)
	for ctx.Err() == nil {
		if err := g.held(g.t.Context(), nodes); err != nil {
			g.t.Fatal(err)
		}
	}
}

// fenced waits until one is kept off the VIP and the client's entry is the other's.
func (g *torn) fenced(loser, survivor string, why string) {
	t := g.t
	t.Helper()
	ctx := labtest.Deadline(t, 20*time.Second)
	began := time.Now()
	if _, err := g.Until(ctx, loser+" fenced off", cluster.HeldBy("web", survivor), alarmed("FENCED", loser+" is kept off VIP web", why)); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	mac := macOf(ctx, t, g.Lab.Host(survivor))
	if err := lab.Until(ctx, "the client's entry of "+survivor, func(ctx context.Context) error {
		said, err := g.Lab.Host("client").Output(ctx, "ip", "neighbor", "show", "192.168.1.100")
		if err == nil && !strings.Contains(string(said), mac) {
			err = fmt.Errorf("it is %s", said)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	t.Logf("%s fenced off within %v, the client's entry right within %v", loser, took, time.Since(began))
}

func (g *torn) well() {
	g.t.Helper()
	if _, err := g.Until(labtest.Deadline(g.t, 30*time.Second), "a cluster in good health", clustertest.Healthy()...); err != nil {
		g.t.Fatal(err)
	}
}

// I7: two holders are one soon, and stay so while the nodes do not hear each other;
// the other one takes over all the same when the holder is lost, and when the
// controller dies nobody is kept off for longer than a lease.
func TestI7OneOfTwoHoldersIsFencedOff(t *testing.T) {
	g := newTorn(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	master, backup := g.Lab.Host(cluster.Master), g.Lab.Host(cluster.Backup)
	apart := func() error {
		return errors.Join(master.Drop(ctx, lab.In, "ip protocol vrrp"), backup.Drop(ctx, lab.In, "ip protocol vrrp"))
	}
	together := func() error { return errors.Join(master.Undrop(ctx), backup.Undrop(ctx)) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	must(backup.Drop(ctx, lab.In, "ip protocol vrrp"))
	g.fenced(cluster.Backup, cluster.Master, "it has the lower priority")
	wasRaised(ctx, t, g.Cluster, "TWO_HOLDERS", "held by lb-master and lb-backup at once")
	g.stays(7*time.Second, cluster.Master)
	must(backup.Undrop(ctx))
	g.well()

	must(apart())
	g.fenced(cluster.Backup, cluster.Master, "it has the lower priority")
	must(g.Controller.Kill())
	t.Logf("without a controller both hold it after %v", g.waitHeld(15*time.Second, cluster.Master, cluster.Backup))
	must(g.Controller.Start(ctx))
	g.fenced(cluster.Backup, cluster.Master, "it has the lower priority")
	must(master.Cut(ctx))
	took := g.waitHeld(15*time.Second, cluster.Backup)
	t.Logf("without the holder the other one holds it after %v", took)
	must(errors.Join(together(), master.Plug(ctx)))
	g.well()
}

// However many ask what keeps VIPs from moving, and however long that takes, a fence
// stands: it is renewed each second.
func TestDoctorsKeepNoFenceAway(t *testing.T) {
	const doctors, while = 8, 8 * time.Second
	g := newTorn(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	backup := g.Lab.Host(cluster.Backup)
	if err := backup.Drop(ctx, lab.In, "ip protocol vrrp"); err != nil {
		t.Fatal(err)
	}
	g.fenced(cluster.Backup, cluster.Master, "it has the lower priority")
	asking, end := context.WithTimeout(ctx, while)
	defer end()
	var all sync.WaitGroup
	var answered atomic.Int64
	for range doctors {
		all.Go(func() {
			for asking.Err() == nil {
				if _, err := g.Lbctl(asking, "doctor"); failedWith(err, 1, "no standby would take web") {
					answered.Add(1)
				} else if asking.Err() == nil {
					t.Errorf("lbctl doctor: %v", err)
				}
			}
		})
	}
	g.stays(while, cluster.Master)
	all.Wait()
	if n := answered.Load(); n < doctors {
		t.Errorf("%d answers in %v", n, while)
	}
	if err := backup.Undrop(ctx); err != nil {
		t.Fatal(err)
	}
	g.well()
	t.Logf("%d diagnoses of %d doctors at a time", answered.Load(), doctors)
}

// The node is fenced off that the gateway does not answer, though its priority is
// the higher one.
func TestI7TheOneThatIsCutOffIsFencedOff(t *testing.T) {
	t.Parallel()
	g := newTorn(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	master := g.Lab.Host(cluster.Master)
	for _, h := range []*lab.Host{master, g.Lab.Host(cluster.Backup)} {
		if _, err := h.Output(ctx, "ip", "route", "add", "default", "via", "192.168.1.51"); err != nil {
			t.Fatal(err)
		}
	}
	for direction, match := range map[lab.Direction]string{lab.In: "arp saddr ip 192.168.1.51", lab.Out: "ip protocol vrrp"} {
		if err := master.Drop(ctx, direction, match); err != nil {
			t.Fatal(err)
		}
	}
	g.fenced(cluster.Master, cluster.Backup, "its gateway does not answer it")
	g.stays(5*time.Second, cluster.Backup)
	if err := master.Undrop(ctx); err != nil {
		t.Fatal(err)
	}
	g.well()
}

// A node that has lost only the controller never gives a VIP up.
func TestI7LosingTheControllerMovesNoVIP(t *testing.T) {
	t.Parallel()
	g := newTorn(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	if err := g.Lab.Host(cluster.Master).Drop(ctx, lab.In, "tcp sport 9443"); err != nil {
		t.Fatal(err)
	}
	g.stays(10*time.Second, cluster.Master)
	if err := g.Controller.Kill(); err != nil {
		t.Fatal(err)
	}
	g.stays(5*time.Second, cluster.Master)
}
