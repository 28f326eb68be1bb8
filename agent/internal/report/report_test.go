package report

import (
	"fmt"
	"testing"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func backend(name string, state agentv1.ServerState) *agentv1.BackendObservation {
	return &agentv1.BackendObservation{Pool: "web", Backend: name, State: state}
}

const (
	up   = agentv1.ServerState_SERVER_STATE_UP
	down = agentv1.ServerState_SERVER_STATE_DOWN
)

func TestSessionGetsTheWholeStateThenChanges(t *testing.T) {
	r := New("boot")
	r.Backend(backend("a", up))
	r.Backend(backend("b", up))
	r.Begin(nil)
	o, _ := r.Next()
	if !o.GetWhole() || len(o.GetBackends()) != 2 {
		t.Fatalf("the first observation is %v, want the whole state", o)
	}
	if o, _ := r.Next(); o != nil {
		t.Errorf("with nothing new there is %v", o)
	}
	r.Backend(backend("a", down))
	r.Backend(backend("a", up))
	r.Backend(backend("a", down))
	r.RemoveBackend("web", "b")
	o, _ = r.Next()
	if o.GetWhole() || len(o.GetBackends()) != 1 || o.GetBackends()[0].GetState() != down {
		t.Errorf("changes to one backend give %v, want its newest state once", o)
	}
	if got := o.GetRemovedBackends(); len(got) != 1 || got[0] != "web/b" {
		t.Errorf("removed backends are %v, want web/b", got)
	}
	r.Begin(nil)
	if o, _ = r.Next(); !o.GetWhole() || len(o.GetBackends()) != 1 {
		t.Errorf("a new session begins with %v, want the whole state", o)
	}
}

func TestEventsAreNumberedAndKeptUntilTheyAreSafe(t *testing.T) {
	r := New("boot")
	for _, s := range []agentv1.ServerState{up, down, up} {
		r.Backend(backend("a", s))
	}
	r.Backend(backend("a", up)) // no change of state: no event
	r.Begin(nil)
	if got := sequences(r); len(got) != 3 || got[0] != 1 || got[2] != 3 {
		t.Fatalf("the session gets events %v, want 1 2 3", got)
	}
	if got := sequences(r); len(got) != 0 {
		t.Errorf("the session gets events %v again", got)
	}
	r.Ack("another boot", 3)
	r.Ack("boot", 1)
	r.Begin(&agentv1.EventAck{BootId: "boot", Sequence: 1})
	if got := sequences(r); len(got) != 2 || got[0] != 2 {
		t.Errorf("the next session gets events %v, want 2 3", got)
	}
}

func TestARestartedControllerIsToldOfNoGap(t *testing.T) {
	r := New("boot")
	r.Note("one")
	r.Note("two")
	r.Begin(nil)
	r.Next()
	r.Ack("boot", 2)
	r.Begin(nil) // a controller that remembers nothing
	r.Note("three")
	if got := sequences(r); len(got) != 1 || got[0] != 3 {
		t.Errorf("it gets events %v, want 3 alone, without a gap", got)
	}
}

func TestLostEventsAreReportedAsAGap(t *testing.T) {
	r := New("boot")
	for range maxSpool + 7 {
		r.Note("something")
	}
	r.Begin(nil)
	_, batch := r.Next()
	gap := batch.GetEvents()[0]
	if gap.GetGap() != 7 || gap.GetSequence() != 7 {
		t.Errorf("the first event is %v, want a gap of 7 with number 7", gap)
	}
	if next := batch.GetEvents()[1].GetSequence(); next != 8 {
		t.Errorf("after the gap comes %d, want 8", next)
	}
	total := len(batch.GetEvents()) - 1
	for {
		_, batch := r.Next()
		if batch == nil {
			break
		}
		total += len(batch.GetEvents())
	}
	if total != maxSpool {
		t.Errorf("%d events arrive, want the newest %d", total, maxSpool)
	}
}

func sequences(r *Report) []uint64 {
	_, batch := r.Next()
	var out []uint64
	for _, e := range batch.GetEvents() {
		out = append(out, e.GetSequence())
	}
	return out
}

func TestNotPersistentUntilEveryCauseIsGone(t *testing.T) {
	r := New("boot")
	r.Unsaved("journal", "the disk is full")
	r.Unsaved("file", "the disk is full, too")
	r.Begin(nil)
	o, _ := r.Next()
	if !o.GetNotPersistent() || len(o.GetProblems().GetProblems()) != 2 || !r.NotPersistent() {
		t.Fatalf("the session begins with %v, want not persistent, and why", o)
	}
	r.Unsaved("journal", "")
	if o, _ := r.Next(); o.NotPersistent != nil || len(o.GetProblems().GetProblems()) != 1 || !r.NotPersistent() {
		t.Errorf("with one cause left: %v", o)
	}
	r.Unsaved("file", "")
	if o, _ := r.Next(); o.NotPersistent == nil || o.GetNotPersistent() || r.NotPersistent() {
		t.Errorf("with no cause left: %v", o)
	}
}

// Many backends come in several messages, and together they are whole.
func TestManyBackendsComeInParts(t *testing.T) {
	r := New("boot")
	const all = 3*maxObserved + 7
	for i := range all {
		r.Backend(backend(fmt.Sprint("b", i), up))
	}
	r.Begin(nil)
	seen := map[string]bool{}
	for part := 0; ; part++ {
		o, _ := r.Next()
		if o == nil {
			break
		}
		if o.GetWhole() != (part == 0) || len(o.GetBackends()) > maxObserved {
			t.Errorf("part %d is whole: %v, and has %d backends", part, o.GetWhole(), len(o.GetBackends()))
		}
		for _, b := range o.GetBackends() {
			seen[b.GetBackend()] = true
		}
	}
	if len(seen) != all {
		t.Errorf("%d backends come, want %d", len(seen), all)
	}
}
