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
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heldBy holds when that node alone holds every VIP, and there is one: what was just
// stored may be in the status a moment later.
func heldBy(node string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if len(s.GetVips()) == 0 {
			return errors.New("no VIP is shown")
		}
		for _, v := range s.GetVips() {
			if !slices.Equal(v.GetHolders(), []string{node}) {
				return fmt.Errorf("%s is held by %v", v.GetName(), v.GetHolders())
			}
		}
		return nil
	}
}

// shownOn watches the status until told to stop, and fails the test for every
// moment at which it shows a VIP anywhere but on that node.
func (p *pair) shownOn(node string) (stop func()) {
	t := p.t
	t.Helper()
	conn, err := p.Controller.Conn()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Until(labtest.Deadline(t, 10*time.Second), "all VIPs shown on "+node, heldBy(node)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := tandemv1.NewFleetServiceClient(conn).WatchStatus(ctx, &tandemv1.WatchStatusRequest{Name: cluster.Name})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			m, err := stream.Recv()
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("the watch over the status: %v", err)
				}
				return
			}
			if v := m.GetVip(); v != nil && !slices.Equal(v.GetHolders(), []string{node}) {
				t.Errorf("%s is shown on %v, want %s alone: %v", v.GetName(), v.GetHolders(), node, v)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// nobodyWasFrightened holds that there was no alarm but that nodes touch nothing,
// or that an agent was away: none about who holds a VIP or about a daemon.
func (p *pair) nobodyWasFrightened(ctx context.Context) {
	p.t.Helper()
	untroubled(ctx, p.t, p.Cluster, "APPLY_FAILED", "NODE_DISCONNECTED")
}

// untroubled holds that no alarm was ever raised but for these reasons.
func untroubled(ctx context.Context, t *testing.T, c *cluster.Cluster, but ...string) {
	t.Helper()
	conn, err := c.Controller.Conn()
	if err != nil {
		t.Fatal(err)
	}
	events := tandemv1.NewEventServiceClient(conn)
	request := &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1000}
	for {
		list, err := events.ListEvents(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.GetEvents() {
			reason, _, _ := strings.Cut(e.GetMessage(), ":")
			if e.GetReason() == "ALARM_RAISED" && !slices.Contains(but, reason) {
				t.Errorf("alarm: %s", e.GetMessage())
			}
		}
		if request.PageToken = list.GetNextPageToken(); request.GetPageToken() == "" {
			return
		}
	}
}
