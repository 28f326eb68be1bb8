package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// changed is what an agent says when these local changes are all.
func changed(changes ...*agentv1.LocalChange) *agentv1.Observation {
	return &agentv1.Observation{LocalChanges: &agentv1.LocalChangeSet{Changes: changes}}
}

func localDrain(drain bool) *agentv1.LocalChange {
	return &agentv1.LocalChange{Author: "ann", Reason: "kernel", Kind: &agentv1.LocalChange_Drain{Drain: drain}}
}

func localBackend(name string, state agentv1.AdminState, weight ...uint32) *agentv1.LocalChange {
	b := &agentv1.LocalBackend{Pool: "web_servers", Backend: name, State: state}
	for _, w := range weight {
		b.Weight = proto.Uint32(w)
	}
	return &agentv1.LocalChange{Author: "ann", Kind: &agentv1.LocalChange_Backend{Backend: b}}
}

const (
	isReady = agentv1.AdminState_ADMIN_STATE_READY
	isDrain = agentv1.AdminState_ADMIN_STATE_DRAIN
)

// wantDrift compares a node's drift, as "subject: desired, local".
func (l *lab) wantDrift(node string, want ...string) {
	l.t.Helper()
	synctest.Wait()
	var got []string
	for _, d := range l.node(node).GetDrift() {
		words := func(s *tandemv1.DriftState) string {
			if s == nil || s.Weight == nil {
				return s.GetState()
			}
			return fmt.Sprintf("%s %d", s.GetState(), s.GetWeight())
		}
		got = append(got, lastID(d.GetName())+": "+words(d.GetDesired())+", "+words(d.GetLocal()))
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("%s drifts %q, want %q", node, got, want)
	}
}

func TestLocalChangesAreDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(changed(localDrain(true), localBackend("web1", isDrain), localBackend("web2", isReady, 7), localBackend("gone", isDrain)))
		l.wantDrift("lb-master", "lb-master: ready, drain", "web1: ready 1, drain 1", "web2: ready 1, ready 7", "gone: , drain")
		l.wantDrift("lb-backup")
		l.wantAlarms("DRIFT lb-master")
		if d := l.node("lb-master").GetDrift()[0]; d.GetAuthor() != "ann" || d.GetReason() != "kernel" {
			t.Errorf("the drift is %v", d)
		}
		// It depends on what is desired now, before the node has said anything new.
		l.change(state.UpdateNode(&tandemv1.Node{Name: "clusters/default/nodes/lb-master", Drain: true}, &fieldmaskpb.FieldMask{Paths: []string{"drain"}}),
			state.Administer("web_servers", "web1", "drain", nil, ""), weight(3))
		l.wantDrift("lb-master", "web1: ready 3, drain 3", "web2: ready 1, ready 7", "gone: , drain")
		a.observe(&agentv1.Observation{Score: proto.Int32(-50)}) // says nothing of it
		l.wantDrift("lb-master", "web1: ready 3, drain 3", "web2: ready 1, ready 7", "gone: , drain")
		if _, err := l.fleet.Drift(home, "lb-backup"); err != nil {
			t.Errorf("a node without drift: %v", err)
		}
		a.observe(changed())
		b.observe(changed(localDrain(false))) // as desired: nothing to decide
		l.wantDrift("lb-master")
		l.wantDrift("lb-backup")
		l.wantAlarms()
		_ = a.disconnect()
		if _, err := l.fleet.Drift(home, "lb-master"); !errors.Is(err, ErrDisconnected) {
			t.Errorf("a node that is away: %v", err)
		}
	})
}

// Watchers see a node's drift change with the head alone.
func TestDriftIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		a.observe(changed(localBackend("web1", isDrain)))
		synctest.Wait()
		w, err := l.fleet.Watch(l.ctx, home)
		if err != nil {
			t.Fatal(err)
		}
		drift := -1
		a.pause = func() time.Duration { return time.Hour } // the node is slow to say anything
		next := func() {
			for {
				step, err := w.Next(l.ctx)
				if err != nil {
					t.Error(err)
					return
				}
				if n := step.GetNode(); n != nil && lastID(n.GetName()) == "lb-master" {
					drift = len(n.GetDrift())
				}
				if step.GetSynced() || step.GetHeartbeat() {
					return
				}
			}
		}
		next()
		if drift != 1 {
			t.Errorf("at the start %d drifts", drift)
		}
		l.change(weight(3)) // keeps the node busy
		next()
		l.change(state.Administer("web_servers", "web1", "drain", nil, ""))
		next()
		if drift != 0 {
			t.Errorf("after it is desired %d drifts", drift)
		}
	})
}

func TestHostileLocalChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		many := []*agentv1.LocalChange{{}, {Kind: &agentv1.LocalChange_Backend{}}, localBackend("web1", 99),
			localBackend("../web1", isDrain), localBackend(strings.Repeat("x", 1<<16), isDrain)}
		for range maxLocal {
			many = append(many, localBackend("web2", isDrain))
		}
		many[len(many)-1].Reason = "\x1b[2J"
		a.observe(changed(many...))
		synctest.Wait()
		drift := l.node("lb-master").GetDrift()
		if len(drift) == 0 || len(drift) > maxLocal {
			t.Errorf("%d drifts", len(drift))
		}
		for _, d := range drift {
			if lastID(d.GetName()) != "web2" || strings.ContainsRune(d.GetReason(), 0x1b) {
				t.Fatalf("a drift is %v", d)
			}
		}
	})
}

func TestLocalChangesAreEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		change := localBackend("web1", isDrain, 7)
		change.Reason = "garbage"
		a.report("boot", &agentv1.Event{Sequence: 1, Kind: &agentv1.Event_LocalBegun{LocalBegun: change}},
			&agentv1.Event{Sequence: 2, Kind: &agentv1.Event_LocalEnded{LocalEnded: &agentv1.LocalChangeEnd{Change: localDrain(true), How: "discarded"}}})
		synctest.Wait()
		var got []string
		for _, e := range l.log.all {
			if strings.HasPrefix(e.GetReason(), "LOCAL_") {
				got = append(got, e.GetReason()+" "+lastID(e.GetSubject())+": "+e.GetMessage())
			}
		}
		want := []string{
			"LOCAL_CHANGE_BEGUN web1: backend web_servers/web1 drain, weight 7, on lb-master itself, by ann: garbage",
			"LOCAL_CHANGE_ENDED lb-master: node lb-master drain, on lb-master itself, by ann, is over: discarded",
		}
		if !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}
