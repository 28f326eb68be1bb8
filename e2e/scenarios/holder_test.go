package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heldBy holds when that node alone holds every VIP.
func heldBy(node string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
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
				t.Errorf("%s is shown on %v", v.GetName(), v.GetHolders())
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// nobodyWasFrightened holds that there was no alarm but that nodes touch nothing,
// or that an agent was away: none about who holds a VIP or about a daemon.
func (p *pair) nobodyWasFrightened(ctx context.Context) {
	p.t.Helper()
	conn, err := p.Controller.Conn()
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := tandemv1.NewEventServiceClient(conn).ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1000})
	if err != nil || list.GetNextPageToken() != "" {
		p.t.Fatalf("the events, whose next page is %q: %v", list.GetNextPageToken(), err)
	}
	for _, e := range list.GetEvents() {
		if e.GetReason() == "ALARM_RAISED" && !strings.HasPrefix(e.GetMessage(), "APPLY_FAILED") && !strings.HasPrefix(e.GetMessage(), "NODE_DISCONNECTED") {
			p.t.Errorf("alarm: %s", e.GetMessage())
		}
	}
}
