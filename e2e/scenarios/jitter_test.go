package scenarios

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// proposed holds when a profile is proposed for VIP web, with a note that has the words,
// or none.
func proposed(profile, words string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		vip := s.GetVips()[0]
		notes := strings.Join(vip.GetNotes(), "\n")
		if vip.GetProposedProfile() != profile || (words == "") != (notes == "") || !strings.Contains(notes, words) {
			return fmt.Errorf("%q is proposed, %q noted", vip.GetProposedProfile(), notes)
		}
		return nil
	}
}

// The standby measures how punctual the holder is. A holder that stands still again and
// again, for less than it takes to lose the VIP, makes a nervous profile stand out; the
// command that the note names ends that.
func TestJitterProposesAProfile(t *testing.T) {
	g := clustertest.Start(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	until := func(what string, limit time.Duration, conditions ...cluster.Condition) error {
		_, err := g.Until(labtest.Deadline(t, limit), what, conditions...)
		return err
	}
	measured := func(s *tandemv1.ClusterStatus) error {
		on := s.GetVips()[0].GetNodes()
		if len(on) != 2 || on[0].GetJitter() != nil || on[1].GetJitter().GetMeasured().AsDuration() < 10*time.Second {
			return fmt.Errorf("the nodes say %v", on)
		}
		return nil
	}
	if err := until("the standby to have measured", 30*time.Second, measured); err != nil {
		t.Fatal(err)
	}
	t.Logf("of a cluster in peace:\n%s", mustLbctl(ctx, t, g, "vip", "profile", "web"))
	if wide := mustLbctl(ctx, t, g, "status", "-o", "wide"); !strings.Contains(wide, ", at worst ") {
		t.Errorf("the status has no jitter:\n%s", wide)
	}

	const note = "the interval of 100ms is too nervous for this network: an advertisement came to lb-backup up to "
	for try, noted := 0, errors.New("none yet"); noted != nil; try++ {
		if try == 10 {
			t.Fatal(noted)
		}
		// The gap between two advertisements is 180 to 280 ms, and after 314 the VIP is lost.
		if err := freeze(ctx, g.Lab.Host(cluster.Master), 180*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		noted = until("the note", 3*time.Second, proposed("wan", note))
	}
	said := mustLbctl(ctx, t, g, "vip", "profile")
	t.Logf("of a holder that stands still:\n%s", said)
	_, command, found := strings.Cut(said, ": use lbctl ")
	if !found {
		t.Fatalf("no command is named:\n%s", said)
	}
	mustLbctl(ctx, t, g, strings.Fields(command)...)
	if err := until("the note to be over", 10*time.Second, proposed("", "")); err != nil {
		t.Fatal(err)
	}
}

// freeze has a node's keepalived stand still for a while.
func freeze(ctx context.Context, h *lab.Host, while time.Duration) error {
	frozen, err := signal(ctx, h, "keepalived", everyone, syscall.SIGSTOP)
	return errors.Join(err, pause(ctx, while), signalPids(frozen, syscall.SIGCONT))
}
