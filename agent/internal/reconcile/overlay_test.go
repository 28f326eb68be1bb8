package reconcile

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// alias is an overlay that gives the server web1 of every target another
// name, until it settles.
type alias struct {
	mu      sync.Mutex
	name    string
	settled []string // hashes
}

func (o *alias) Over(t *target.Target) *target.Target {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.name == "" || t.Server("pool", "web1") == nil {
		return t
	}
	r := target.ServerResource(&haproxyv1.Server{Backend: "pool", Name: o.name})
	r.Key = target.ServerResource(t.Server("pool", "web1")).GetKey()
	return t.With([]*agentv1.Resource{r})
}

func (o *alias) Settle(t *target.Target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settled = append(o.settled, t.Hash())
}

func (o *alias) rename(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.name = name
}

func TestTheOverlayLiesOnTopOfEveryTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := &recorder{}, &alias{}
		reconciler := startOver(t, r, nil, o)
		if err := reconciler.Again(t.Context()); !errors.Is(err, ErrNothing) {
			t.Errorf("without a target: %v", err)
		}
		reconciler.Submit("1", wanted(t, "a", "web", "web1"))
		<-reconciler.Outcomes()
		r.taken(nil)
		o.rename("local")
		if err := reconciler.Again(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Nothing is written: what is durable is the target's alone.
		expect(t, r, "haproxy a local")
		reconciler.Submit("2", wanted(t, "b", "web", "web1"))
		if outcome := <-reconciler.Outcomes(); outcome.Target.Hash() != "b" || reconciler.Applied().Server("pool", "web1") == nil {
			t.Errorf("the target does not count as applied as it came: %+v", outcome)
		}
		expect(t, r, "candidate b", "haproxy b local", "promote")
		if got := o.settled; len(got) != 3 || got[2] != "b" {
			t.Errorf("settled with %q", got)
		}
	})
}

func TestAnOverlayThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := &recorder{}, &alias{}
		reconciler := startOver(t, r, nil, o)
		reconciler.Submit("1", wanted(t, "a", "web", "web1"))
		<-reconciler.Outcomes()
		failed := errors.New("haproxy does not answer")
		r.taken(map[string]error{"haproxy a local": failed})
		o.rename("local")
		if err := reconciler.Again(t.Context()); !errors.Is(err, failed) {
			t.Errorf("it says %v", err)
		}
		r.taken(nil)
		<-time.After(maxRetry)
		expect(t, r, "haproxy a local")
	})
}

// A target that cannot be put in effect does not hold back a local change.
func TestAnOverlayIsNotHeldBackByABadTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := &recorder{}, &alias{}
		reconciler := startOver(t, r, nil, o)
		reconciler.Submit("1", wanted(t, "a", "web", "web1"))
		<-reconciler.Outcomes()
		r.taken(map[string]error{"haproxy b web1": errors.New("port taken")})
		reconciler.Submit("2", wanted(t, "b", "web", "web1"))
		if outcome := <-reconciler.Outcomes(); outcome.Err == nil {
			t.Fatal("a failure is told as success")
		}
		r.taken(nil)
		o.rename("local")
		if err := reconciler.Again(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, r, "haproxy a local")
		// The target goes on being tried, with the change on top.
		if outcome := <-reconciler.Outcomes(); outcome.Err != nil || reconciler.Applied().Hash() != "b" {
			t.Errorf("the outcome is %+v", outcome)
		}
	})
}
