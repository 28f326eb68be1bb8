package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// telling is how far the time of an event may be from that of the kernel's word.
const telling = time.Second

// verifyEvents holds the event log against what the kernels and the faults were.
func (r *faultRun) verifyEvents(ctx context.Context) {
	t := r.t
	t.Helper()
	if _, err := r.Until(ctx, "both nodes to have everything", cluster.Settled(clustertest.Both...)); err != nil {
		t.Fatal(err)
	}
	changes, err := r.watch.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var events []*tandemv1.Event
	// What the agents know is on its way: the last change is in the log soon.
	if err := lab.Until(ctx, "an event of each change of an address", func(ctx context.Context) error {
		if events, err = r.allEvents(ctx); err != nil {
			return err
		}
		return r.addressesTold(events, changes)
	}); err != nil {
		t.Error(err)
	}
	r.inOrder(events)
	for _, p := range r.past {
		if err := p.isTold(events); err != nil {
			t.Errorf("fault %d, %s: %v", p.index, p.fault, err)
		}
	}
	t.Logf("%d events tell of %d faults and %d changes of addresses", len(events), len(r.past), len(changes))
}

// inOrder fails the test if the log has a gap, or what one node tells is not in
// the order in which it happened.
func (r *faultRun) inOrder(events []*tandemv1.Event) {
	r.t.Helper()
	last := map[string]*tandemv1.Event{}
	for i, e := range events {
		if e.GetReason() == "EVENTS_LOST" {
			r.t.Errorf("%s: %s", e.GetName(), e.GetMessage())
		}
		if id := eventID(e); id != eventID(events[0])+uint64(i) {
			r.t.Fatalf("event %d of the log is %s, the first is %s", i, e.GetName(), events[0].GetName())
		}
		if !fromAgent(e) {
			continue
		}
		if before := last[e.GetNode()]; before != nil && e.GetTime().AsTime().Before(before.GetTime().AsTime()) {
			r.t.Errorf("%s comes after %s", eventLine(e), eventLine(before))
		}
		last[e.GetNode()] = e
	}
}

// fromAgent tells whether a node itself told of an event, not the controller.
func fromAgent(e *tandemv1.Event) bool {
	for _, prefix := range []string{"VIP_", "HAPROXY_", "KEEPALIVED_", "BACKEND_", "LOCAL_"} {
		if strings.HasPrefix(e.GetReason(), prefix) {
			return e.GetNode() != ""
		}
	}
	return false
}

func eventID(e *tandemv1.Event) uint64 {
	name := e.GetName()
	id, _ := strconv.ParseUint(name[strings.LastIndexByte(name, '/')+1:], 10, 64)
	return id
}

func eventLine(e *tandemv1.Event) string {
	return fmt.Sprintf("%s %s of %s at %s", e.GetName(), e.GetReason(), e.GetNode(), e.GetTime().AsTime().Format("15:04:05.000"))
}

// addressesTold holds that for each change of an address, by the kernel's word,
// the log has an event of that node at that time, in the same order. What
// happened while a node's agent was away nobody could see.
func (r *faultRun) addressesTold(events []*tandemv1.Event, changes []lab.AddressChange) error {
	next := map[string]int{}                      // by node and address: the first event that may tell of the next change
	for _, c := range changes[len(activeVIPs):] { // those that were there at the start
		if r.away(c) {
			continue
		}
		of := c.Host + " " + c.Address.String()
		found := slices.IndexFunc(events[next[of]:], func(e *tandemv1.Event) bool { return tells(e, c) })
		if found < 0 {
			return fmt.Errorf("no event tells that %s", c)
		}
		next[of] += found + 1
	}
	return nil
}

// tells tells whether an event is about a change of an address.
func tells(e *tandemv1.Event, c lab.AddressChange) bool {
	if e.GetNode() != c.Host || !strings.HasPrefix(e.GetReason(), "VIP_") || (e.GetReason() == "VIP_MASTER") != c.Held {
		return false
	}
	if !slices.ContainsFunc(activeVIPs, func(v activeVIP) bool { return v.address == c.Address && e.GetSubject() == cluster.Name+"/vips/"+v.id }) {
		return false
	}
	return e.GetTime().AsTime().Sub(c.At).Abs() < telling
}

// away tells whether nobody could see a change on its node: its agent did not
// run, or a moment ago.
func (r *faultRun) away(c lab.AddressChange) bool {
	return slices.ContainsFunc(r.past, func(p pastFault) bool {
		return p.absent && p.at(c.Host) && c.At.After(p.begun.Add(-telling)) && c.At.Before(p.mended)
	})
}

// isTold holds that the agents told of the fault itself, in its time.
func (p pastFault) isTold(events []*tandemv1.Event) error {
	for _, node := range p.nodes {
		wanted := p.told
		for _, e := range events {
			at := e.GetTime().AsTime()
			if len(wanted) == 0 || e.GetNode() != node || at.Before(p.begun) || at.After(p.mended) {
				continue
			}
			if reason, words, _ := strings.Cut(wanted[0], " "); e.GetReason() == reason && strings.Contains(e.GetMessage(), words) {
				wanted = wanted[1:]
			}
		}
		if len(wanted) > 0 {
			return fmt.Errorf("no event %s of %s between %s and %s", wanted[0], node, p.begun.Format("15:04:05.000"), p.mended.Format("15:04:05.000"))
		}
	}
	return nil
}
