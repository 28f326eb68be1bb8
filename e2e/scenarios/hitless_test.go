package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// I11: a change that needs no reload causes none, and no change costs a client
// a request.
func TestI11NoChangeCostsARequest(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	// Keep-alive clients that alternate GET and POST and think in between lose
	// most when a connection that they are about to use is closed.
	clients := probe.Config{Reused: 30, Think: 20 * time.Millisecond, Timeout: 5 * time.Second}
	// Backends that are added come into service within the test.
	s.lbctl(ctx, "pool", "set", "web_servers", "--interval", "200ms", "--check-timeout", "2s", "--rise", "1")

	t.Run("500 runtime changes", func(t *testing.T) {
		s := s.in(t)
		d := &drawn{site: s, random: rand.New(rand.NewPCG(11, 500)), extra: map[string]netip.AddrPort{}}
		for _, name := range traffic.WebNames {
			if _, err := traffic.StartWebOn(ctx, s.Lab.Host(name), s.Labhost, ":81"); err != nil {
				t.Fatal(err)
			}
			d.spare = append(d.spare, netip.AddrPortFrom(s.Lab.Host(name).Address.Addr(), 81))
		}
		before := s.reloads(ctx)
		report := s.under(ctx, clients, func() {
			for range 500 {
				s.inEffect(ctx, d.next(ctx))
			}
		})
		if n := s.reloads(ctx) - before; n > 0 {
			t.Errorf("500 runtime changes caused %d reloads, want none", n)
		}
		enough(t, report)
	})

	t.Run("20 reload changes", func(t *testing.T) {
		s := s.in(t)
		before := s.reloads(ctx)
		report := s.under(ctx, clients, func() {
			for i := range 20 {
				s.inEffect(ctx, s.change(fmt.Sprintf("reload change %d", i), s.reloadChange(ctx, i)))
			}
		})
		if n := s.reloads(ctx) - before; n != 40 {
			t.Errorf("20 changes caused %d reloads on two nodes, want 40", n)
		}
		enough(t, report)
	})
	untroubled(ctx, t, s.Cluster)
}

// reloadChange is the nth of changes that need a reload each: of a timeout, of
// a listener's binds, of a new listener and pool, and of their removal.
func (s *site) reloadChange(ctx context.Context, n int) call {
	listener := &tandemv1.Listener{
		Name: cluster.Name + "/listeners/web_frontend", Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}},
	}
	switch n % 4 {
	case 0:
		return s.setTimeout(ctx, time.Minute+time.Duration(1+n)*time.Second)
	case 1:
		listener.Binds = append(listener.Binds, &tandemv1.Bind{Vip: "web", Port: uint32(9000 + n)})
		fallthrough
	case 3:
		return func(o grpc.CallOption) error {
			_, err := s.config.UpdateListener(ctx, &tandemv1.UpdateListenerRequest{
				Listener: listener, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"binds"}},
			}, o)
			return err
		}
	default:
		return func(o grpc.CallOption) error {
			_, err := s.config.CreatePool(ctx, &tandemv1.CreatePoolRequest{
				Parent: cluster.Name, PoolId: fmt.Sprintf("pool%d", n), Pool: &tandemv1.Pool{},
			}, o)
			return err
		}
	}
}

// enough fails the test if the clients did not send what it is about.
func enough(t *testing.T, r *probe.Report) {
	t.Helper()
	gets, posts := r.Kinds[probe.ReusedGet].Attempts, r.Kinds[probe.ReusedPost].Attempts
	t.Logf("%d GETs and %d POSTs in %s, answered by %v", gets, posts, r.End.Sub(r.Start).Round(time.Millisecond), r.Servers)
	if gets < 1000 || posts < 1000 || len(r.Servers) != 3 {
		t.Errorf("got %d GETs and %d POSTs answered by %v, want 1000 of each at least, and 3 servers", gets, posts, r.Servers)
	}
}
