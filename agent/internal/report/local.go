package report

import (
	"maps"
	"slices"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// LocalChanges reports all that operators have changed on the node itself.
func (r *Report) LocalChanges(all []*agentv1.LocalChange) {
	r.update(func() {
		r.state.local = all
		r.changed.LocalChanges = &agentv1.LocalChangeSet{Changes: all}
	})
}

// LocalBegun is an event: a local change has begun, or become another one.
func (r *Report) LocalBegun(c *agentv1.LocalChange) {
	r.update(func() { r.spool.add(&agentv1.Event{Kind: &agentv1.Event_LocalBegun{LocalBegun: c}}) })
}

// LocalEnded is an event: a local change is over.
func (r *Report) LocalEnded(c *agentv1.LocalChange, how string) {
	r.update(func() {
		r.spool.add(&agentv1.Event{Kind: &agentv1.Event_LocalEnded{LocalEnded: &agentv1.LocalChangeEnd{Change: c, How: how}}})
	})
}

// State is the whole present state, backends in order of their names. Its parts
// are shared and must not be changed.
func (r *Report) State() *agentv1.Observation {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.present()
	for _, key := range slices.Sorted(maps.Keys(r.state.backends)) {
		o.Backends = append(o.Backends, r.state.backends[key])
	}
	return o
}
