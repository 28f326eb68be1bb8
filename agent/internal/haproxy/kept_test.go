package haproxy

import (
	"fmt"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// What is kept of a hand-written file serves beside what is rendered, and its
// servers are none of the driver's business, until it is rendered too.
func TestKeptProxies(t *testing.T) {
	own, other := newWeb(t, "own"), newWeb(t, "other")
	port := freePort(t)
	kept := &config.Kept{
		Global:   []string{"    tune.bufsize 32768 # by hand"},
		Defaults: []string{"    http-reuse safe"},
		Sections: []config.KeptSection{
			{Kind: "defaults", Lines: []string{"defaults", " mode http", " timeout client 5s", " timeout connect 5s", " timeout server 5s"}},
			{Kind: "listen", Name: "hand", Lines: []string{
				"listen hand", fmt.Sprintf(" bind 127.0.0.1:%d", port), " cookie X insert",
				fmt.Sprintf(" server other %s:%d cookie o", other.backend(1).GetAddress(), other.backend(1).GetPort()),
			}},
		},
	}
	r := newRig(t)
	r.stop()
	r.startDriver(Options{Kept: func() *config.Kept { return kept }})
	c := r.config(own.backend(1))
	r.apply(c)
	front := r.port
	if got := r.get(); got != "own" {
		t.Errorf("the rendered listener answers %q", got)
	}
	r.port = port
	if got := r.get(); got != "other" {
		t.Errorf("the kept listener answers %q", got)
	}
	if result := r.apply(with(c, func(c *haproxyv1.Config) { first(c).Weight = 9 })); result.Reloaded || result.Operations != 1 {
		t.Errorf("%+v, want one operation: the kept server is left alone", result)
	}
	if got := r.get(); got != "other" {
		t.Errorf("after a change the kept listener answers %q", got)
	}
	r.mu.Lock()
	for _, e := range r.events {
		if s, ok := e.(ServerChanged); ok && s.Backend == "hand" {
			t.Errorf("the kept server is reported: %+v", s)
		}
	}
	r.mu.Unlock()
	// The model has it now.
	c = with(c, func(c *haproxyv1.Config) {
		c.Backends[0].Name, c.Frontends[0].DefaultBackend = "hand", "hand"
		first(c).Backend = "hand"
	})
	r.apply(c)
	r.port = front
	if got := r.get(); got != "own" {
		t.Errorf("the rendered listener answers %q", got)
	}
	// The next agent knows that, too.
	r.stop()
	r.startDriver(Options{Kept: func() *config.Kept { return kept }})
	eventually(t, "the running one is found", func() bool { return r.driver.Snapshot().State == Running })
	if other, err := r.driver.RunsOther(t.Context(), c); other || err != nil {
		t.Errorf("what runs is taken for something else: %v, %v", other, err)
	}
}
