// Package report holds what a node observes for whoever has the session with
// the controller: the present state, of which a session gets what changed, and
// numbered events, which wait until the controller has them safe.
package report

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Report is safe for concurrent use; no call blocks on anything but memory.
// One session at a time reads it.
type Report struct {
	ready  chan struct{}
	unkept chan struct{} // has an entry when the file is to be brought up to date
	keeper *keeper       // of the file; nil: there is none

	mu       sync.Mutex
	state    state
	changed  *agentv1.Observation // what the session has not seen yet
	backends map[string]bool      // keys in state.backends that it has not seen yet
	spool    spool
}

// state is the present state.
type state struct {
	haproxy, keepalived *agentv1.DaemonObservation
	backends            map[string]*agentv1.BackendObservation
	instances           []*agentv1.InstanceObservation
	score               int32
	reloads             uint64
	problems            map[string]string
	unsaved             map[string]bool // keys of problems
	local               []*agentv1.LocalChange
	networks            *agentv1.NetworkSet // nil: not known yet
}

// New returns an empty report whose events end with the agent. bootID scopes
// their numbers.
func New(bootID string) *Report {
	r := &Report{
		ready:  make(chan struct{}, 1),
		unkept: make(chan struct{}, 1),
		state: state{
			backends: make(map[string]*agentv1.BackendObservation),
			problems: make(map[string]string),
			unsaved:  make(map[string]bool),
		},
		spool: spool{bootID: bootID},
	}
	r.whole()
	return r
}

// BootID scopes the numbers of events.
func (r *Report) BootID() string { return r.spool.bootID }

// update runs f under the lock and wakes the session.
func (r *Report) update(f func()) {
	r.mu.Lock()
	f()
	unkept := r.spool.kept < len(r.spool.waiting)
	r.mu.Unlock()
	stir(r.ready)
	if unkept {
		stir(r.unkept)
	}
}

// stir leaves an entry in a channel of depth one.
func stir(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// maxWords bounds what a daemon says in words, in bytes.
const maxWords = 4096

// words makes what a daemon says fit to be sent: the text of a message must be
// UTF-8, or the whole message is stuck, and every one after it.
func words(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxWords)], "?")
}

// HAProxy reports HAProxy's state; a change of it is an event.
func (r *Report) HAProxy(d *agentv1.DaemonObservation) {
	d.Version, d.Message = words(d.GetVersion()), words(d.GetMessage())
	r.update(func() {
		if d.GetState() != r.state.haproxy.GetState() {
			r.spool.add(&agentv1.Event{Kind: &agentv1.Event_Haproxy{Haproxy: d}})
		}
		r.state.haproxy, r.changed.Haproxy = d, d
	})
}

// Keepalived reports keepalived's state; a change of it is an event.
func (r *Report) Keepalived(d *agentv1.DaemonObservation) {
	d.Version, d.Message = words(d.GetVersion()), words(d.GetMessage())
	r.update(func() {
		if d.GetState() != r.state.keepalived.GetState() {
			r.spool.add(&agentv1.Event{Kind: &agentv1.Event_Keepalived{Keepalived: d}})
		}
		r.state.keepalived, r.changed.Keepalived = d, d
	})
}

// Backend reports one backend; a change of its state is an event.
func (r *Report) Backend(b *agentv1.BackendObservation) {
	b.Reason = words(b.GetReason())
	key := b.GetPool() + "/" + b.GetBackend()
	r.update(func() {
		old := r.state.backends[key]
		if proto.Equal(old, b) {
			return
		}
		if old.GetState() != b.GetState() {
			r.spool.add(&agentv1.Event{Kind: &agentv1.Event_Backend{Backend: b}})
		}
		r.state.backends[key] = b
		r.backends[key] = true
	})
}

// RemoveBackend reports that a backend is no more.
func (r *Report) RemoveBackend(pool, backend string) {
	key := pool + "/" + backend
	r.update(func() {
		if r.state.backends[key] != nil {
			delete(r.state.backends, key)
			r.backends[key] = true
		}
	})
}

// Instances reports all VRRP instances; a change of one's state is an event.
func (r *Report) Instances(all []*agentv1.InstanceObservation) {
	r.update(func() {
		for _, i := range all {
			if i.GetState() != stateOf(r.state.instances, i.GetName()) {
				r.spool.add(&agentv1.Event{Kind: &agentv1.Event_Instance{Instance: i}})
			}
		}
		r.state.instances = all
		r.changed.Instances = &agentv1.InstanceSet{Instances: all}
	})
}

func stateOf(all []*agentv1.InstanceObservation, name string) agentv1.VrrpState {
	for _, i := range all {
		if i.GetName() == name {
			return i.GetState()
		}
	}
	return agentv1.VrrpState_VRRP_STATE_UNSPECIFIED
}

// Score reports what is added to keepalived's priorities.
func (r *Report) Score(score int32) {
	r.update(func() { r.state.score, r.changed.Score = score, proto.Int32(score) })
}

// Networks reports the node's own addresses.
func (r *Report) Networks(all *agentv1.NetworkSet) {
	r.update(func() {
		if !proto.Equal(r.state.networks, all) {
			r.state.networks, r.changed.Networks = all, all
		}
	})
}

// Reloads reports how often HAProxy was reloaded.
func (r *Report) Reloads(n uint64) {
	r.update(func() { r.state.reloads, r.changed.Reloads = n, proto.Uint64(n) })
}

// Problem reports what keeps the node from being well, one text a key; an
// empty text ends it.
func (r *Report) Problem(key, text string) {
	r.update(func() { r.problem(key, text) })
}

// problem is Problem under the lock.
func (r *Report) problem(key, text string) {
	text = words(text)
	if r.state.problems[key] == text {
		return
	}
	if text == "" {
		delete(r.state.problems, key)
	} else {
		r.state.problems[key] = text
	}
	r.changed.Problems = r.problems()
}

// Unsaved is Problem about something that is in effect and would not survive a
// reboot of the node.
func (r *Report) Unsaved(key, text string) {
	r.update(func() {
		r.problem(key, text)
		was := len(r.state.unsaved) > 0
		if text == "" {
			delete(r.state.unsaved, key)
		} else {
			r.state.unsaved[key] = true
		}
		if is := len(r.state.unsaved) > 0; is != was {
			r.changed.NotPersistent = proto.Bool(is)
		}
	})
}

// NotPersistent tells whether something that is in effect would not survive a
// reboot of the node.
func (r *Report) NotPersistent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.state.unsaved) > 0
}

func (r *Report) problems() *agentv1.ProblemSet {
	set := &agentv1.ProblemSet{}
	for _, key := range slices.Sorted(maps.Keys(r.state.problems)) {
		set.Problems = append(set.Problems, r.state.problems[key])
	}
	return set
}

// Note is an event about the node itself, one sentence for people.
func (r *Report) Note(text string) {
	r.update(func() { r.spool.add(&agentv1.Event{Kind: &agentv1.Event_Note{Note: words(text)}}) })
}
