package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// onlyOn waits until a node alone has the VIP, by the kernels' word.
func (s *site) onlyOn(ctx context.Context, node string) {
	s.t.Helper()
	err := lab.Until(ctx, "the VIP on "+node+" alone", func(ctx context.Context) error {
		holders, err := s.Lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && !slices.Equal(holders, []string{node}) {
			err = fmt.Errorf("held by %v", holders)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// staysOn fails unless a node alone has the VIP now and two seconds later.
func (s *site) staysOn(ctx context.Context, node string) {
	s.t.Helper()
	s.onlyOn(ctx, node)
	_ = pause(ctx, 2*time.Second)
	if holders, err := s.Lab.Holders(ctx, lab.VIP.Addr()); err != nil || !slices.Equal(holders, []string{node}) {
		s.t.Errorf("the VIP is held by %v, %v; want %s alone", holders, err, node)
	}
}

// I1: with no agent there the end of HAProxy still moves the VIP, and a new agent
// finds everything as it is.
func TestI1WithoutAgentsADeadHAProxyMovesTheVIP(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	if err := errors.Join(s.Master().KillAgent(), s.Backup().KillAgent()); err != nil {
		t.Fatal(err)
	}
	_ = pause(ctx, time.Second)
	s.onlyOn(ctx, cluster.Master)
	report := s.during(ctx, everyFew, func() {
		if err := s.Master().KillHAProxy(ctx); err != nil {
			t.Fatal(err)
		}
		s.onlyOn(ctx, cluster.Backup)
		_ = pause(ctx, 500*time.Millisecond) // until there are answers again
	})
	t.Logf("longest gap %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.Open || gap.MS > 3000 {
		t.Errorf("clients were without an answer for %.0f ms (at the end, still none: %v)", gap.MS, gap.Open)
	}
	// I8: the last one dies, too.
	if err := s.Backup().KillHAProxy(ctx); err != nil {
		t.Fatal(err)
	}
	s.staysOn(ctx, cluster.Master)
	if err := errors.Join(s.Master().StartAgent(ctx), s.Backup().StartAgent(ctx)); err != nil {
		t.Fatal(err)
	}
	s.healthy(ctx)
	// The next agents see to it that there are guards again.
	if err := errors.Join(s.Master().KillAgent(), s.Backup().KillAgent(), s.Master().KillHAProxy(ctx)); err != nil {
		t.Fatal(err)
	}
	s.onlyOn(ctx, cluster.Backup)
	for _, node := range clustertest.Both {
		if err := s.Nodes[node].StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.healthy(ctx)
}

// I8: whatever is dead everywhere, one node holds the VIP, and the status says what is
// wrong.
func TestI8AllDead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.lbctl(ctx, "pool", "set", "web_servers", "--interval", "250ms")
	for _, tt := range []struct {
		name       string
		begin, end func() error
		alarm      string // about the VIP or the pool
		words      string // of its message
		holder     string
	}{
		{
			"every HAProxy is dead",
			func() error { return errors.Join(s.Master().StopHAProxy(ctx), s.Backup().StopHAProxy(ctx)) },
			func() error { return errors.Join(s.Master().LetHAProxyRun(), s.Backup().LetHAProxyRun()) },
			"NOT_SERVED", "HAProxy runs on no node", cluster.Master,
		},
		{
			"every backend is down",
			func() error { return s.eachWeb(func(p *lab.Process) error { return p.Kill() }) },
			func() (err error) { s.Webs, err = traffic.StartWebs(ctx, s.Lab, s.Labhost); return err },
			"NO_BACKEND", "no backend of pool web_servers is up", cluster.Master,
		},
		{
			"every node is drained",
			func() error { return s.drains(ctx, "drain") },
			func() error { return s.drains(ctx, "undrain") },
			"ALL_DRAINED", "every node is drained", cluster.Master,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := s.in(t)
			before := s.stateLog(cluster.Master)
			if err := tt.begin(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Until(ctx, tt.alarm+" in the status", alarmed(tt.alarm, tt.words)); err != nil {
				t.Fatal(err)
			}
			s.staysOn(ctx, tt.holder)
			if text := squeezed(s.lbctl(ctx, "status")); !strings.Contains(text, tt.words) {
				t.Errorf("lbctl status does not say %q:\n%s", tt.words, text)
			}
			if after := s.stateLog(cluster.Master); tt.alarm == "NO_BACKEND" && after != before {
				t.Errorf("the VIP has moved for its backends: %s", strings.TrimPrefix(after, before))
			}
			if err := tt.end(); err != nil {
				t.Fatal(err)
			}
			s.healthy(ctx)
		})
	}
}

func (s *site) eachWeb(do func(*lab.Process) error) error {
	var errs []error
	for _, p := range s.Webs {
		errs = append(errs, do(p))
	}
	return errors.Join(errs...)
}

// drains drains both nodes, or ends that.
func (s *site) drains(ctx context.Context, verb string) error {
	for _, node := range clustertest.Both {
		if _, err := s.Lbctl(ctx, "node", verb, node); err != nil {
			return err
		}
	}
	return nil
}
