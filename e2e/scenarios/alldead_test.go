package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
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
