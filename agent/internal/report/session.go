package report

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Begin starts a session: Next gives the whole state first, and the events
// after the last one that the controller has; nil: it has none. A controller
// that has forgotten what it once had safe is not told of a gap for it.
func (r *Report) Begin(last *agentv1.EventAck) {
	r.update(func() {
		r.whole()
		r.spool.begin(position{last.GetBootId(), last.GetSequence()})
	})
}

// Ready has an entry when Next may have something new.
func (r *Report) Ready() <-chan struct{} { return r.ready }

// Ack drops events up to one that the controller has safe. What never was an
// event of this node is ignored.
func (r *Report) Ack(bootID string, sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spool.ack(position{bootID, sequence})
	if len(r.spool.waiting) == 0 {
		stir(r.unkept)
	}
}

// Next returns what the session has not seen yet: the change of state and the
// next events, each nil when there is none. Call it until both are nil.
func (r *Report) Next() (*agentv1.Observation, *agentv1.EventBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.observation(), r.spool.next()
}

// maxObserved bounds the backends in one message.
const maxObserved = 1024

// observation takes what changed, of many backends a part.
func (r *Report) observation() *agentv1.Observation {
	o := r.changed
	keys := slices.Sorted(maps.Keys(r.backends))
	for _, key := range keys[:min(len(keys), maxObserved)] {
		delete(r.backends, key)
		if b := r.state.backends[key]; b != nil {
			o.Backends = append(o.Backends, b)
		} else {
			o.RemovedBackends = append(o.RemovedBackends, key)
		}
	}
	r.changed = &agentv1.Observation{}
	if proto.Size(o) == 0 {
		return nil
	}
	return o
}

// present is the whole state but backends. Call it under the lock.
func (r *Report) present() *agentv1.Observation {
	return &agentv1.Observation{
		Whole:         true,
		Haproxy:       r.state.haproxy,
		Keepalived:    r.state.keepalived,
		Instances:     &agentv1.InstanceSet{Instances: r.state.instances},
		Score:         proto.Int32(r.state.score),
		Problems:      r.problems(),
		Reloads:       proto.Uint64(r.state.reloads),
		NotPersistent: proto.Bool(len(r.state.unsaved) > 0),
		LocalChanges:  &agentv1.LocalChangeSet{Changes: r.state.local},
		Networks:      r.state.networks,
	}
}

// whole makes everything count as not seen yet. Call it under the lock.
func (r *Report) whole() {
	r.changed = r.present()
	r.backends = make(map[string]bool, len(r.state.backends))
	for key := range r.state.backends {
		r.backends[key] = true
	}
}
