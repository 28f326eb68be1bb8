package reconcile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A HAProxy that runs what is newer than the disk is not moved back, nor is the
// drain of the node; the controller's next target is put in effect.
func TestI3WhatIsNewerThanTheDiskIsLeftAlone(t *testing.T) {
	for name, r := range map[string]*recorder{
		"runs something else": {other: true, drained: true},
		"cannot be asked":     {unasked: errors.New("does not answer"), drained: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				good := draining(t, "good", wanted(t, "a", "web", "web1"), false)
				reconciler := startWith(t, r, Options{Good: good, Behind: true})
				<-reconciler.Begun()
				synctest.Wait()
				expect(t, r, "keepalived web drained")
				if !slices.Equal(r.watched, []string{"web"}) {
					t.Errorf("watched is %q", r.watched)
				}
				if reconciler.Applied() != nil {
					t.Error("what HAProxy does not run counts as applied")
				}
				if !strings.Contains(r.problem, "left with what it runs") {
					t.Errorf("told is %q", r.problem)
				}
				reconciler.Submit("1", draining(t, "b", wanted(t, "a", "web", "web1", "web2"), true))
				if o := <-reconciler.Outcomes(); o.Err != nil {
					t.Fatal(o.Err)
				}
				expect(t, r, "journal good to b", "haproxy a web1 web2")
				if r.problem != "" {
					t.Errorf("still told: %q", r.problem)
				}
			})
		})
	}
}

// Without the controller an operator decides: a local change lies on what the
// disk has.
func TestALocalChangeEndsThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{other: true}
		reconciler := startWith(t, r, Options{Good: wanted(t, "a", "web", "web1"), Behind: true})
		<-reconciler.Begun()
		r.taken(nil)
		<-time.After(time.Minute)
		if err := reconciler.Again(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, r, "haproxy a web1")
	})
}

// What runs no other thing, or not at all, gets what the disk has.
func TestWhatPrecedesTheDamageIsPutInEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{drained: true}
		reconciler := startWith(t, r, Options{Good: wanted(t, "a", "web", "web1"), Behind: true})
		<-reconciler.Begun()
		expect(t, r, "keepalived -t", "haproxy a web1", "keepalived web")
	})
}
