package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *agent) report(boot string, events ...*agentv1.Event) {
	a.l.t.Helper()
	a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: &agentv1.EventBatch{BootId: boot, Events: events}}})
}

func backendEvent(sequence uint64, s agentv1.ServerState) *agentv1.Event {
	return &agentv1.Event{Sequence: sequence, Time: timestamppb.Now(), Kind: &agentv1.Event_Backend{
		Backend: &agentv1.BackendObservation{Pool: "web_servers", Backend: "web1", State: s, Reason: "Layer7 wrong status"},
	}}
}

const web1 = "clusters/default/pools/web_servers/backends/web1"

// Each event of an agent is logged once and in order, whatever is repeated.
func TestEventsOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		down, up := agentv1.ServerState_SERVER_STATE_DOWN, agentv1.ServerState_SERVER_STATE_UP
		a.report(a.boot, backendEvent(1, down), backendEvent(2, up))
		a.report(a.boot, backendEvent(2, up), backendEvent(3, down))
		synctest.Wait()
		want := []string{"BACKEND_DOWN", "BACKEND_UP", "BACKEND_DOWN"}
		if d := cmp.Diff(want, l.log.reasons(web1)); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		if last := a.acks[len(a.acks)-1]; last.GetSequence() != 3 || last.GetBootId() != a.boot {
			t.Errorf("acks = %v", a.acks)
		}
		// A new session learns where the last one was, and repeats are dropped.
		_ = a.disconnect()
		a.connect()
		synctest.Wait()
		if got := a.welcome.GetLastEvent(); got.GetBootId() != a.boot || got.GetSequence() != 3 {
			t.Errorf("welcome tells %v, want event 3", got)
		}
		a.report(a.boot, backendEvent(3, down), backendEvent(4, up))
		synctest.Wait()
		if got := l.log.reasons(web1); len(got) != 4 {
			t.Errorf("%d events, want 4: %v", len(got), got)
		}
		// A jump is a loss; so is a gap that the agent tells of.
		a.report(a.boot, backendEvent(10, down), &agentv1.Event{Sequence: 20, Kind: &agentv1.Event_Gap{Gap: 9}}, backendEvent(21, up))
		synctest.Wait()
		var lost []string
		for _, e := range l.log.all {
			if e.GetReason() == "EVENTS_LOST" {
				lost = append(lost, e.GetMessage())
			}
		}
		if d := cmp.Diff([]string{"5 events of this node were lost", "9 events of this node were lost"}, lost); d != "" {
			t.Errorf("losses (-want +got):\n%s", d)
		}
		// A restarted agent counts from 1 again.
		a.report("another boot", backendEvent(1, down))
		synctest.Wait()
		if got := l.log.reasons(web1); len(got) != 7 {
			t.Errorf("%d events, want 7: %v", len(got), got)
		}
	})
}

// A controller that has just started tells what its log has, of this boot of the
// agent or of a former one, so that the agent repeats none of it.
func TestRestartedControllerKnowsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		down, up := agentv1.ServerState_SERVER_STATE_DOWN, agentv1.ServerState_SERVER_STATE_UP
		a.report("former boot", backendEvent(8, down), backendEvent(9, up))
		b.report(b.boot, backendEvent(1, down))
		synctest.Wait()
		l.stop()
		l.start()
		a.acks = nil
		a.connect()
		synctest.Wait()
		if got := a.welcome.GetLastEvent(); got.GetBootId() != "former boot" || got.GetSequence() != 9 {
			t.Errorf("welcome tells %v, want event 9 of the former boot", got)
		}
		if len(a.acks) != 1 || a.acks[0].GetSequence() != 9 {
			t.Errorf("acks = %v, want event 9", a.acks)
		}
		// What the agent repeats all the same is dropped, a jump is a loss.
		before := len(l.log.reasons(""))
		a.report("former boot", backendEvent(9, up), backendEvent(12, down))
		a.report(a.boot, &agentv1.Event{Sequence: 0, Kind: &agentv1.Event_Gap{Gap: 3}}, backendEvent(1, up))
		synctest.Wait()
		want := []string{"EVENTS_LOST", "BACKEND_DOWN", "EVENTS_LOST", "BACKEND_UP"}
		if d := cmp.Diff(want, l.log.reasons("")[before:]); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

// Events are acknowledged when they are on disk, not before: a controller that
// is killed in between gets them again.
func TestEventsAreAcknowledgedWhenDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		l.log.held = true
		down, up := agentv1.ServerState_SERVER_STATE_DOWN, agentv1.ServerState_SERVER_STATE_UP
		a.report(a.boot, backendEvent(1, down), backendEvent(2, up))
		synctest.Wait()
		if len(l.log.reasons(web1)) != 2 || len(a.acks) != 0 {
			t.Errorf("%v logged, acks %v before they are on disk", l.log.reasons(web1), a.acks)
		}
		_ = a.disconnect()
		a.connect()
		synctest.Wait()
		if got := a.welcome.GetLastEvent(); got.GetSequence() != 2 || len(a.acks) != 0 {
			t.Errorf("welcome tells %v, acks %v; want 2 and none: it is here and not safe", got, a.acks)
		}
		// If the agent repeats all the same, what was taken is not logged twice.
		a.report(a.boot, backendEvent(1, down), backendEvent(2, up))
		synctest.Wait()
		l.log.release()
		synctest.Wait()
		if len(l.log.reasons(web1)) != 2 || len(a.acks) == 0 || a.acks[len(a.acks)-1].GetSequence() != 2 {
			t.Errorf("%v logged, acks %v", l.log.reasons(web1), a.acks)
		}
		// A repeat of what is safe is acknowledged again.
		acks := len(a.acks)
		a.report(a.boot, backendEvent(2, up))
		synctest.Wait()
		if len(a.acks) == acks || a.acks[len(a.acks)-1].GetSequence() != 2 {
			t.Errorf("acks = %v", a.acks)
		}
		// And a gap that the agent tells of is one event.
		all := len(l.log.reasons(""))
		a.report(a.boot, &agentv1.Event{Sequence: 5, Kind: &agentv1.Event_Gap{Gap: 2}})
		synctest.Wait()
		if got := l.log.reasons("")[all:]; a.acks[len(a.acks)-1].GetSequence() != 5 || len(got) != 1 || got[0] != "EVENTS_LOST" {
			t.Errorf("events %v, acks %v", got, a.acks)
		}
	})
}

// What a full log does not take is logged later, once and in order, and not
// acknowledged before.
func TestEventsWaitForAFullLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		down, up := agentv1.ServerState_SERVER_STATE_DOWN, agentv1.ServerState_SERVER_STATE_UP
		a.report(a.boot, backendEvent(1, down))
		synctest.Wait()
		before := len(l.log.reasons(""))
		l.log.fill(2) // event 2, and the loss of 3 to 6 but not event 7
		a.report(a.boot, backendEvent(2, up), backendEvent(7, down), backendEvent(8, up))
		pass(time.Second)
		if d := cmp.Diff([]string{"BACKEND_UP", "EVENTS_LOST"}, l.log.reasons("")[before:]); d != "" {
			t.Errorf("events of a full log (-want +got):\n%s", d)
		}
		if last := a.acks[len(a.acks)-1]; last.GetSequence() != 6 {
			t.Errorf("acknowledged up to %d, want 6", last.GetSequence())
		}
		// A new session of the same agent repeats what was not acknowledged.
		_ = a.disconnect()
		a.connect()
		synctest.Wait()
		before = len(l.log.reasons(""))
		a.report(a.boot, backendEvent(7, down), backendEvent(8, up))
		pass(time.Second)
		l.log.fill(-1)
		pass(time.Second)
		if d := cmp.Diff([]string{"BACKEND_DOWN", "BACKEND_UP"}, l.log.reasons("")[before:]); d != "" {
			t.Errorf("events when there is room again (-want +got):\n%s", d)
		}
		if last := a.acks[len(a.acks)-1]; last.GetSequence() != 8 {
			t.Errorf("acknowledged up to %d, want 8", last.GetSequence())
		}
	})
}

// What waits is bounded in bytes as well.
func TestEventsThatWaitAreCut(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	daemon := &agentv1.DaemonObservation{Message: long, Version: long}
	for _, e := range []*agentv1.Event{
		{Kind: &agentv1.Event_Note{Note: long}},
		{Kind: &agentv1.Event_Backend{Backend: &agentv1.BackendObservation{Pool: long, Backend: long, Reason: long}}},
		{Kind: &agentv1.Event_Instance{Instance: &agentv1.InstanceObservation{Name: long, Vip: long}}},
		{Kind: &agentv1.Event_Haproxy{Haproxy: daemon}},
		{Kind: &agentv1.Event_Keepalived{Keepalived: daemon}},
	} {
		e.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), long))
		// The first waits as well: its session has others before it.
		s := &session{waiting: make([]waiting, 1)}
		s.events(&agentv1.EventBatch{Events: []*agentv1.Event{e}})
		if size := proto.Size(s.waiting[1].event); size > 2*maxText {
			t.Errorf("an event of %d bytes waits with %d", proto.Size(e), size)
		}
	}
}

// A node that floods the log waits for its turns; what is too much is lost and
// told. It delays neither its own observations nor other nodes.
func TestI9FloodOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		flood := func(from, n int) {
			var events []*agentv1.Event
			for i := range n {
				events = append(events, backendEvent(uint64(from+i), agentv1.ServerState_SERVER_STATE_UP))
			}
			a.report(a.boot, events...)
		}
		flood(1, 10*portion)
		flood(10*portion+1, maxWaiting)
		a.observe(&agentv1.Observation{Instances: holding(fault)})
		b.report(b.boot, backendEvent(1, agentv1.ServerState_SERVER_STATE_DOWN))
		synctest.Wait()
		if got := l.log.reasons(web1); len(got) != portion+1 || !slices.Contains(got, "BACKEND_DOWN") {
			t.Errorf("%d events at once, want %d and the other node's", len(got), portion)
		}
		if h := l.status().GetVips()[0].GetHolders(); h != nil {
			t.Errorf("holders = %v: the observation waits behind the events", h)
		}
		pass(10 * time.Minute)
		if got := len(l.log.reasons(web1)); got != maxWaiting+portion+1 {
			t.Errorf("%d events in the end, want %d", got, maxWaiting+portion+1)
		}
		flood(10*portion+maxWaiting+1, 1)
		synctest.Wait()
		last := l.log.all[len(l.log.all)-2]
		if want := fmt.Sprintf("%d events of this node were lost", 9*portion); last.GetMessage() != want {
			t.Errorf("%q, want %q", last.GetMessage(), want)
		}
	})
}

// One node cannot push the others' events out of the log: what it may have
// logged is bounded, by itself and by what it does.
func TestI9LogBelongsToAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		sequence := uint64(0)
		version := a.version
		for range 20 {
			var events []*agentv1.Event
			for range 1000 {
				sequence++
				events = append(events, backendEvent(sequence, agentv1.ServerState_SERVER_STATE_UP))
			}
			a.report(a.boot, events...)
			// Two versions in turn, each an event of its own.
			for i := range 1000 {
				a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Version: &agentv1.Version{
					Epoch: version.GetEpoch(), Runtime: uint64(1 + i%2), Hash: version.GetHash(),
				}}}})
			}
			pass(time.Second)
		}
		if got := len(l.log.reasons("")); got > burst+20*eventRate+100 {
			t.Errorf("%d events of one node within 20 s, want at most %d and %d a second", got, burst, eventRate)
		}
		a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Version: version}}})
		pass(10 * time.Minute)
		_ = a.disconnect()
		synctest.Wait()
		if got := l.log.reasons("clusters/default/nodes/lb-master"); !slices.Contains(got, "EVENTS_LOST") || got[len(got)-1] != "NODE_DISCONNECTED" {
			t.Errorf("the end of the node's events: %v", got[max(0, len(got)-5):])
		}
	})
}

func TestEventsOfEveryKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		sequence := uint64(0)
		next := func(e *agentv1.Event) *agentv1.Event {
			sequence++
			e.Sequence = sequence
			return e
		}
		var events []*agentv1.Event
		for s := range agentv1.ServerState_name {
			events = append(events, next(backendEvent(0, agentv1.ServerState(s))))
		}
		for s := range agentv1.VrrpState_name {
			events = append(events, next(&agentv1.Event{Kind: &agentv1.Event_Instance{
				Instance: &agentv1.InstanceObservation{Name: "web", Vip: "web", State: agentv1.VrrpState(s), Priority: 230},
			}}))
		}
		for s := range agentv1.DaemonState_name {
			d := &agentv1.DaemonObservation{State: agentv1.DaemonState(s), Message: "in its own words"}
			events = append(events,
				next(&agentv1.Event{Kind: &agentv1.Event_Haproxy{Haproxy: d}}),
				next(&agentv1.Event{Kind: &agentv1.Event_Keepalived{Keepalived: d}}))
		}
		events = append(events,
			next(&agentv1.Event{Kind: &agentv1.Event_Note{Note: "a note\x00"}}),
			next(&agentv1.Event{Kind: &agentv1.Event_Backend{Backend: &agentv1.BackendObservation{Pool: "../..", Backend: "x\ny", State: 99}}}),
			next(&agentv1.Event{Time: &timestamppb.Timestamp{Nanos: -1}, Kind: &agentv1.Event_Note{Note: "no time"}}),
			next(&agentv1.Event{})) // of a newer agent
		before := len(l.log.reasons(""))
		a.report(a.boot, events...)
		synctest.Wait()
		got := l.log.all[before:]
		if len(got) != len(events) {
			t.Errorf("%d events logged of %d", len(got), len(events))
		}
		var reasons []string
		for _, e := range got {
			reasons = append(reasons, e.GetReason())
			if e.GetType() == 0 || e.GetSeverity() == 0 || e.GetNode() != "lb-master" || e.GetTime().CheckValid() != nil ||
				!strings.HasPrefix(e.GetSubject(), "clusters/default/") || e.GetMessage() == "" || strings.ContainsAny(e.GetMessage(), "\x00\x1b") {
				t.Errorf("event %v is not whole", e)
			}
		}
		for _, want := range []string{
			"BACKEND_UP", "BACKEND_DOWN", "BACKEND_DRAIN", "BACKEND_MAINTENANCE", "BACKEND_NO_CHECK",
			"VIP_MASTER", "VIP_BACKUP", "VIP_FAULT", "HAPROXY_STOPPED", "HAPROXY_RUNNING", "KEEPALIVED_STOPPED", "KEEPALIVED_MISSING", "NODE_NOTE",
		} {
			if !slices.Contains(reasons, want) {
				t.Errorf("no %s among %v", want, reasons)
			}
		}
		if last := a.acks[len(a.acks)-1]; last.GetSequence() != sequence {
			t.Errorf("acknowledged up to %d, want %d", last.GetSequence(), sequence)
		}
	})
}

func TestControllersOwnEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		l.change(weight(5))
		synctest.Wait()
		a.judge = func(*agentv1.Update) *agentv1.Nack {
			return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_FAILED, Message: "cannot bind :80"}
		}
		failed := l.change(weight(6))
		synctest.Wait()
		_ = a.disconnect()
		synctest.Wait()
		want := []string{"NODE_CONNECTED", "CONFIG_APPLIED", "CONFIG_APPLIED", "CONFIG_FAILED", "ALARM_RAISED", "ALARM_CLEARED", "NODE_DISCONNECTED"}
		got := l.log.reasons("clusters/default/nodes/lb-master")
		got = slices.DeleteFunc(got, func(r string) bool { return r == "ALARM_CLEARED" })
		want = slices.DeleteFunc(want, func(r string) bool { return r == "ALARM_CLEARED" })
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		i := slices.IndexFunc(l.log.all, func(e *tandemv1.Event) bool { return e.GetReason() == "CONFIG_FAILED" })
		if e := l.log.all[i]; e.GetRevision() != failed.Revision() || !strings.Contains(e.GetMessage(), "cannot bind :80") ||
			e.GetSeverity() != tandemv1.EventSeverity_EVENT_SEVERITY_ERROR {
			t.Errorf("event = %v", e)
		}
	})
}
