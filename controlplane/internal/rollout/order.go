package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
)

// Order brings the nodes of one VIP from the terms in force to others, so that at
// no moment two of them have different ones: the standbys leave, the keeper, which
// holds the VIP, changes, and the standbys come back with what it has. It keeps
// the VIP all the time. Its steps are taken from what the nodes have confirmed
// alone, so that whoever decides them may die between any two of them.
//
// While a node does not answer nothing begins, since it would go on with the old
// terms; once the keeper may have the new ones there is no way back but through
// the same steps.
type Order struct {
	// Agreed are the terms in force.
	Agreed compile.Terms `json:"agreed"`
	// Since is the revision that began to want others; 0: none does.
	Since uint64 `json:"since,omitempty"`
	// Keeper is the node that keeps the VIP; "": none is chosen.
	Keeper string `json:"keeper,omitempty"`
	// Switching tells that all others have left and the keeper may have Goal. It
	// and what is above must be durable before any node acts on it.
	Switching bool          `json:"switching,omitempty"`
	Goal      compile.Terms `json:"goal,omitzero"`

	refused uint64    // revision whose terms a node has refused; 0: none
	heard   bool      // the keeper has been connected while this controller runs
	lost    time.Time // since when the keeper is away while switching
}

// Standing is what is known of one node.
type Standing struct {
	Node string
	// Connected tells that its agent has a session.
	Connected bool
	// Failed tells that it could not apply the newest revision.
	Failed bool
	// Volatile tells that it would be back with something older after a reboot: its disk
	// cannot be written.
	Volatile bool
	// Known tells that Has, Terms and Current are what its agent has confirmed.
	Known bool
	// Has tells that it has an instance of the VIP, with Terms.
	Has   bool
	Terms compile.Terms
	// Current tells that it takes part as it was last told, and that nothing older is
	// on its way to it any more.
	Current bool
	// Mute tells that the wanted terms leave the node out: it has no address that it
	// could advertise from.
	Mute bool
	// Holds tells that the kernel has the VIP's address.
	Holds    bool
	Priority uint32
}

const (
	// Patience is how long a keeper may be away while it switches, before the others
	// come back with what it was given: if it lives, it has that.
	Patience = 3 * time.Second
	// Settling is how long one may be away that a controller which has just started
	// has not heard yet: its agent looks for the controller from time to time only.
	Settling = 15 * time.Second
)

// Step takes the next step towards the wanted terms of the configuration at that
// revision. It returns how each node takes part in the VIP, nil when all do as the
// configuration says; and in words what is waited for, "" when nothing but the
// nodes' next answers is. Call it again with every change of what is known, and
// when next, if it is not zero, has passed.
func (o *Order) Step(now time.Time, revision uint64, wanted compile.Terms, nodes []Standing) (parts map[string]compile.Part, waits string, next time.Duration) {
	o.Since = cmp.Or(o.Since, revision)
	if o.Switching {
		if next, done := o.change(now, revision, wanted, nodes); !done {
			return o.parts(nodes, wanted), "", next
		}
	}
	if o.Agreed == wanted {
		o.Keeper, o.Since = "", 0
		return nil, "", 0
	}
	if waits := o.obstacle(revision, nodes); waits != "" {
		o.Keeper = ""
		return o.all(nodes), waits, 0
	}
	o.elect(nodes)
	if slices.ContainsFunc(nodes, func(s Standing) bool { return s.Node != o.Keeper && (s.Has || !s.Current) }) {
		return o.parts(nodes, wanted), "", 0
	}
	o.Switching, o.Goal, o.heard, o.lost = true, wanted, true, time.Time{}
	return o.parts(nodes, wanted), "", 0
}

// change is the step of a keeper that switches; done: it has, or never will.
func (o *Order) change(now time.Time, revision uint64, wanted compile.Terms, nodes []Standing) (next time.Duration, done bool) {
	at := slices.IndexFunc(nodes, func(s Standing) bool { return s.Node == o.Keeper })
	switch {
	case at < 0: // removed
	case !nodes[at].Connected:
		if o.lost.IsZero() {
			o.lost = now
		}
		patience := Settling
		if o.heard {
			patience = Patience
		}
		if left := patience - now.Sub(o.lost); left > 0 {
			return left, false
		}
	default:
		o.heard, o.lost = true, time.Time{}
		if o.Goal != wanted && o.refused != revision && !nodes[at].Mute {
			o.Goal = wanted
		}
		if nodes[at].Failed && o.Goal != o.Agreed && o.refused != revision {
			o.Goal, o.refused = o.Agreed, revision
		}
		if k := nodes[at]; !k.Known || !k.Current || !k.Has || k.Terms != o.Goal {
			return 0, false
		}
	}
	o.Agreed, o.Switching, o.Goal, o.Keeper, o.lost = o.Goal, false, compile.Terms{}, "", time.Time{}
	return 0, true
}

// obstacle says in words what keeps the nodes from beginning.
func (o *Order) obstacle(revision uint64, nodes []Standing) string {
	var away, volatile, mute []string
	speaks := slices.ContainsFunc(nodes, func(s Standing) bool { return !s.Mute })
	for _, s := range nodes {
		switch {
		case !s.Connected || !s.Known:
			away = append(away, s.Node)
		case s.Volatile:
			volatile = append(volatile, s.Node)
		case s.Mute && (s.Has || !speaks):
			mute = append(mute, s.Node)
		case s.Failed:
			o.refused = revision
		}
	}
	switch {
	case len(away) > 0:
		return fmt.Sprintf("it waits for %s, which the controller does not hear", strings.Join(away, " and "))
	case len(volatile) > 0:
		return fmt.Sprintf("it waits for %s, which would have other settings after a reboot, as the disk cannot be written", strings.Join(volatile, " and "))
	case len(mute) > 0:
		return fmt.Sprintf("it waits for %s to have an address on the VIP's network to advertise from", strings.Join(mute, " and "))
	case o.refused == revision:
		return "a node could not apply it"
	}
	return ""
}

// elect chooses the keeper: who holds the VIP, or else would.
func (o *Order) elect(nodes []Standing) {
	if slices.ContainsFunc(nodes, func(s Standing) bool { return s.Node == o.Keeper }) {
		return
	}
	rank := func(s Standing) int {
		switch {
		case s.Mute:
			return -1
		case s.Holds:
			return 2
		case s.Has:
			return 1
		}
		return 0
	}
	if len(nodes) > 0 {
		o.Keeper = slices.MaxFunc(nodes, func(a, b Standing) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Priority, b.Priority))
		}).Node
	}
}

// all gives every node the terms in force.
func (o *Order) all(nodes []Standing) map[string]compile.Part {
	parts := make(map[string]compile.Part, len(nodes))
	for _, s := range nodes {
		parts[s.Node] = compile.Part{Terms: o.Agreed, Since: o.Since}
	}
	return parts
}

// parts has all but the keeper stay away.
func (o *Order) parts(nodes []Standing, wanted compile.Terms) map[string]compile.Part {
	parts := make(map[string]compile.Part, len(nodes))
	for _, s := range nodes {
		switch {
		case s.Node != o.Keeper:
			parts[s.Node] = compile.Part{Out: true, Since: o.Since}
		case !o.Switching:
			parts[s.Node] = compile.Part{Terms: o.Agreed, Since: o.Since}
		case o.Goal != wanted:
			parts[s.Node] = compile.Part{Terms: o.Goal, Since: o.Since}
		}
	}
	return parts
}
