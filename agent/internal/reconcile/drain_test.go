package reconcile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/target"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// draining is a target like wanted's with a drain, or without one, of the node.
func draining(t *testing.T, hash string, base *target.Target, drain bool) *target.Target {
	t.Helper()
	config := base.Config()
	config.Version = &agentv1.Version{Hash: hash}
	config.Resources = append(config.Resources, &agentv1.Resource{
		Key:  "keepalived/global",
		Body: &agentv1.Resource_KeepalivedGlobal{KeepalivedGlobal: &keepalivedv1.Global{Drain: drain}},
	})
	made, err := target.FromConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// drainedFirst runs a reconciler with an undrained target in effect, gives it a
// drained one and returns its steps.
func drainedFirst(t *testing.T, hash string, fail map[string]error) (steps []string, o Outcome) {
	t.Helper()
	r := &recorder{}
	reconciler := start(t, r, nil)
	reconciler.Submit("1", draining(t, "1", wanted(t, "a", "web"), false))
	if o := <-reconciler.Outcomes(); o.Err != nil {
		t.Fatal(o.Err)
	}
	r.taken(fail)
	reconciler.Submit("2", draining(t, "2", wanted(t, hash, "web"), true))
	o = <-reconciler.Outcomes()
	return r.taken(nil), o
}

// A drain is a score: it waits neither for HAProxy nor for a structure.
func TestADrainWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps, o := drainedFirst(t, "a", nil)
		if want := []string{"journal 1 to 2", "keepalived web drained", "haproxy a"}; o.Err != nil || !slices.Equal(steps, want) {
			t.Errorf("the steps are %q, the outcome %+v", steps, o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("haproxy does not answer")
		steps, o := drainedFirst(t, "a", map[string]error{"haproxy a": down})
		if !errors.Is(o.Err, down) || !slices.Contains(steps, "keepalived web drained") {
			t.Errorf("without HAProxy the steps are %q, the outcome %+v", steps, o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		steps, o := drainedFirst(t, "b", map[string]error{"haproxy b": &haproxy.RefusedError{Words: "no"}})
		if got := strings.Join(steps, ", "); o.Err == nil || !strings.Contains(got, "keepalived web drained") ||
			strings.HasSuffix(got, "keepalived web") || !strings.Contains(got, "journal 1 to 1+2") {
			t.Errorf("beside a bad structure the steps are %q, the outcome %+v", steps, o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		full := map[string]error{"journal 1 to 2": errDiskFull, "candidate 2": errDiskFull}
		if steps, o := drainedFirst(t, "a", full); o.Err != nil || !slices.Contains(steps, "keepalived web drained") {
			t.Errorf("with a full disk the steps are %q, the outcome %+v", steps, o)
		}
	})
}

// While HAProxy refuses everything, a local change of something else undoes no
// drain of the controller's.
func TestALocalChangeKeepsTheControllersDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := start(t, r, nil)
		reconciler.Submit("1", draining(t, "1", wanted(t, "a", "web"), false))
		<-reconciler.Outcomes()
		down := errors.New("haproxy does not answer")
		r.mu.Lock()
		r.again = map[string]error{"haproxy a": down}
		r.mu.Unlock()
		r.taken(map[string]error{"haproxy a": down})
		reconciler.Submit("2", draining(t, "2", wanted(t, "a", "web"), true))
		if o := <-reconciler.Outcomes(); o.Err == nil {
			t.Fatal("the target is in effect")
		}
		if steps := r.taken(nil); !slices.Contains(steps, "keepalived web drained") {
			t.Fatalf("not drained: %q", steps)
		}
		if err := reconciler.Again(t.Context()); err != nil {
			t.Fatal(err)
		}
		if steps := r.taken(nil); slices.Contains(steps, "keepalived web") || !slices.Contains(steps, "haproxy a") {
			t.Errorf("the steps of a local change are %q", steps)
		}
	})
}

// I8: with every HAProxy dead the VIP still lives somewhere.
func TestI8KeepalivedGoesOnWithoutHAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("haproxy does not start")
		r := &recorder{fail: map[string]error{"haproxy good": down}, again: map[string]error{"haproxy good": down}}
		reconciler := start(t, r, wanted(t, "good", "web"))
		<-reconciler.Begun()
		expect(t, r, "keepalived -t", "haproxy good", "keepalived web")
		if reconciler.Applied() != nil {
			t.Error("what HAProxy does not run counts as applied")
		}
	})
	// One that was never in effect is no reason to touch anything.
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{fail: map[string]error{"haproxy a": errors.New("haproxy does not start")}}
		reconciler := start(t, r, nil)
		reconciler.Submit("1", wanted(t, "a", "web"))
		<-reconciler.Outcomes()
		expect(t, r, "candidate a", "keepalived -t", "haproxy a")
	})
}
