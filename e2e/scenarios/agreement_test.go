package scenarios

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// I3: at start, after each apply and after a kill at any point in it, file =
// runtime = target.
func TestI3FileRuntimeAndTargetAgree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	d := &drawn{site: s, random: rand.New(rand.NewPCG(3, 3)), extra: map[string]netip.AddrPort{}}
	for _, spare := range []string{"192.168.1.20:81", "192.168.1.21:81", "192.168.1.22:81"} {
		d.spare = append(d.spare, netip.MustParseAddrPort(spare))
	}
	both := func(context.Context) error { return s.agree(clustertest.Both...) }

	t.Run("after start", func(t *testing.T) {
		if err := both(ctx); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("after each change", func(t *testing.T) {
		d := d.in(t)
		for i := range 40 {
			revision := uint64(0)
			if i%10 == 9 {
				revision = d.change("reload", d.reloadChange(ctx, i/10))
			} else {
				revision = d.next(ctx)
			}
			d.inEffect(ctx, revision)
			if err := both(ctx); err != nil {
				t.Fatalf("after revision %d: %v", revision, err)
			}
		}
	})

	t.Run("after a kill of the agent during changes", func(t *testing.T) {
		d := d.in(t)
		longest := time.Duration(0)
		for i := range 8 {
			name := clustertest.Both[d.random.IntN(2)]
			longest = max(longest, d.killedDuringChanges(ctx, i, name))
			if err := both(ctx); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("in step again at most %s after the agent's start", longest.Round(time.Millisecond))
	})

	t.Run("after start without a controller", func(t *testing.T) {
		s := s.in(t)
		before := views(ctx, t, s.Guide)
		if err := s.Controller.Kill(); err != nil {
			t.Fatal(err)
		}
		s.under(ctx, steady, func() {
			for _, n := range s.Nodes {
				s.restartAgent(ctx, n)
				if err := n.Agent().Logged(labtest.Deadline(t, 2*time.Second), "found haproxy running"); err != nil {
					t.Error(err)
				}
			}
		})
		for name, n := range s.Nodes {
			if err := differs(ctx, n, before[name]); err != nil {
				t.Error(err)
			}
		}
		s.controllerBack(ctx)
	})

	t.Run("after HAProxy dies without agent and controller", func(t *testing.T) {
		s := s.in(t)
		before := views(ctx, t, s.Guide)
		n := s.Backup()
		if err := errors.Join(s.Controller.Kill(), n.KillAgent(), n.KillHAProxy(ctx)); err != nil {
			t.Fatal(err)
		}
		if _, err := runtime(ctx, n); err == nil {
			t.Fatal("HAProxy lives on, killed and without an agent")
		}
		if err := n.StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
		s.until(inStep, "HAProxy to do what it did", func(ctx context.Context) error {
			return differs(ctx, n, before[cluster.Backup])
		})
		s.controllerBack(ctx)
	})
}

// in returns what is drawn for a subtest. It goes on where it is.
func (d *drawn) in(t *testing.T) *drawn {
	d.site = d.site.in(t)
	return d
}

// killedDuringChanges makes changes, kills the agent of a node at some moment
// of them and returns how long after its start the node was in step again.
func (d *drawn) killedDuringChanges(ctx context.Context, round int, name string) time.Duration {
	d.t.Helper()
	n := d.Nodes[name]
	for range 1 + d.random.IntN(3) {
		d.next(ctx)
	}
	if round%2 == 1 {
		d.change("reload", d.reloadChange(ctx, 4*round))
	}
	moment := time.NewTimer(time.Duration(d.random.IntN(300)) * time.Millisecond)
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-ctx.Done():
		d.t.Fatal(ctx.Err())
	}
	d.restartAgent(ctx, n)
	start := time.Now()
	d.until(inStep, name+" in step again", func(ctx context.Context) error { return d.agrees(ctx, name) })
	took := time.Since(start)
	d.inEffect(ctx, d.head(ctx))
	return took
}

// inStep is how long a started agent may take to bring its node in step, on a
// machine that does other work too: one second is what it needs.
const inStep = 5 * time.Second

// restartAgent kills an agent and starts it again.
func (s *site) restartAgent(ctx context.Context, n *cluster.Node) {
	s.t.Helper()
	if err := errors.Join(n.KillAgent(), n.StartAgent(ctx)); err != nil {
		s.t.Fatal(err)
	}
}

// controllerBack starts the controller again and waits until all is well.
func (s *site) controllerBack(ctx context.Context) {
	s.t.Helper()
	if err := s.Controller.Start(ctx); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Until(ctx, "both nodes to be back", cluster.Settled(clustertest.Both...), cluster.NoAlarms); err != nil {
		s.t.Fatal(err)
	}
}

// views reads what both nodes do.
func views(ctx context.Context, t *testing.T, g *clustertest.Guide) map[string]view {
	t.Helper()
	all := map[string]view{}
	for name, n := range g.Nodes {
		v, err := runtime(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = v
	}
	return all
}
