package scenarios

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// says waits until lbctl status has a text.
func (s *site) says(what, text string) {
	s.t.Helper()
	s.until(20*time.Second, what, func(ctx context.Context) error {
		said, err := s.Lbctl(ctx, "status")
		if err == nil && !strings.Contains(string(said), text) {
			err = fmt.Errorf("lbctl status does not say %q:\n%s", text, said)
		}
		return err
	})
}

// I7: a holder whose cable is pulled is one of which nothing is known; that it held the
// VIP when it was last heard makes no second holder, and no peer that is not heard.
func TestI7ACutCableIsNoSecondHolder(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	began := time.Now()
	if err := s.Master().Host.Cut(ctx); err != nil {
		t.Fatal(err)
	}
	s.wait(ctx, "the VIP on lb-backup alone", cluster.HeldBy("web", cluster.Backup))
	t.Logf("the status has one holder, and the right one, %v after the cut", time.Since(began))
	s.says("that nothing is known of lb-master", "not known for ")
	s.wait(ctx, "the alarm that lb-master is away", alarmed("NODE_DISCONNECTED", "the agent of lb-master is not connected"))
	if err := s.Master().Host.Plug(ctx); err != nil {
		t.Fatal(err)
	}
	s.wait(ctx, "a cluster in good health again", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	untroubled(ctx, t, s.Cluster, "NODE_DISCONNECTED")
}

// A holder that the controller alone has lost holds the VIP by what its peer hears.
func TestAHolderThatTheControllerHasLostIsHeard(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	if err := s.Master().Host.Drop(ctx, lab.Out, "ip daddr 192.168.1.5"); err != nil {
		t.Fatal(err)
	}
	s.says("that lb-backup hears lb-master", "lb-master, by its advertisements")
	s.says("since when nothing else is known", ", heard")
	s.holdsNow(ctx, cluster.Master)
	if said, _ := s.Lbctl(ctx, "doctor"); !strings.Contains(string(said), "lb-master, by its advertisements") || !strings.Contains(string(said), "not known: HOLDER_AWAY") {
		t.Errorf("the doctor says\n%s", said)
	}
	if err := s.Master().Host.Undrop(ctx); err != nil {
		t.Fatal(err)
	}
	s.wait(ctx, "a cluster in good health again", append(clustertest.Healthy(), cluster.HeldBy("web", cluster.Master))...)
	untroubled(ctx, t, s.Cluster, "NODE_DISCONNECTED")
}
