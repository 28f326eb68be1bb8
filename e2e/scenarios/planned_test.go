package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// A failover by the controller ends when the other node holds the VIP, and is
// refused, with the reason, when none can.
func TestFailoverByTheController(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.moves(ctx, 2, func() {
		var moved struct{ From, To, Duration string }
		out := s.lbctl(ctx, "vip", "failover", "web", "--for", "2s", "--reason", "new kernel", "-o", "json")
		if err := json.Unmarshal([]byte(out), &moved); err != nil || moved.From != cluster.Master || moved.To != cluster.Backup {
			t.Errorf("it prints %s (%v)", out, err)
		}
		s.holdsNow(ctx, cluster.Backup)
		s.holds(ctx, cluster.Master) // its fail-back is automatic
	})
	s.wait(ctx, "the VIP to be back", cluster.HeldBy("web", cluster.Master))
	if out := s.lbctl(ctx, "events", "--tail", "50"); !strings.Contains(out, "VIP web was moved to another node by admin: new kernel") {
		t.Errorf("the events do not tell it:\n%s", out)
	}

	s.lbctl(ctx, "node", "drain", cluster.Backup)
	if _, err := s.Lbctl(ctx, "vip", "failover", "web"); !failedWith(err, 5, "lb-backup is drained [NO_TAKER]") {
		t.Errorf("to a drained node: %v", err)
	}
	if _, err := s.Lbctl(ctx, "vip", "failover", "web", "--to", "nobody"); !failedWith(err, 3, "nobody") {
		t.Errorf("to no node: %v", err)
	}
	s.lbctl(ctx, "node", "undrain", cluster.Backup)
	if err := s.Backup().KillAgent(); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "a node without an agent to be told of", func(ctx context.Context) error {
		if _, err := s.Lbctl(ctx, "vip", "failover", "web"); !failedWith(err, 5, "lb-backup is not connected [NO_TAKER]") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	s.holdsNow(ctx, cluster.Master)
}

// holdsNow fails the test if the VIP's address is not on that node alone.
func (s *site) holdsNow(ctx context.Context, node string) {
	s.t.Helper()
	if holders, err := s.Lab.Holders(ctx, lab.VIP.Addr()); err != nil || len(holders) != 1 || holders[0] != node {
		s.t.Errorf("the VIP is on %v (%v), want %s", holders, err, node)
	}
}
