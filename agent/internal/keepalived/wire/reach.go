package wire

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// Reach is what an interface carries, as those tell who are asked.
type Reach int

// What an interface carries.
const (
	// ReachUnknown: there is nobody to tell, or nobody but the other nodes: their end
	// would look the same as that of the cable.
	ReachUnknown Reach = iota
	// ReachBoth: somebody answers.
	ReachBoth
	// ReachDeaf: nothing at all comes in, though hosts and another node were there a
	// moment before and are asked.
	ReachDeaf
	// ReachMute: others are heard, but nobody answers any more, as nothing goes out.
	ReachMute
)

const (
	// witnessEvery is how often a witness is asked, in turn: at each beat, be it that the
	// question before came late. In a cut all are, off the beat.
	witnessEvery = beat.Every - beat.Every/2
	// openFor is how long a question may be open until all are asked: an answer takes less
	// than a millisecond, and is taken at the next beat. againEvery is how often they are
	// then.
	openFor    = witnessEvery
	againEvery = 90 * time.Millisecond
	// cutAfter is how long nobody answers until that is told, and cutRounds how often
	// all have been asked by then.
	cutAfter  = 600 * time.Millisecond
	cutRounds = 4
	// absentAfter is how many questions in a row a node leaves unanswered, and is asked
	// once more, until it counts as one that is not there.
	absentAfter = 5
	// maxNeighbors bounds the hosts that are asked beside gateway and nodes.
	maxNeighbors = 4
)

// witness is a host that is asked, by ARP, whether it is there.
type witness struct {
	address netip.Addr
	kind    witnessKind
	at      link.MAC // zero: it has never answered
	pending bool     // it has been asked since its last answer
	missed  int      // questions without an answer, the last one not counted
}

type witnessKind int

const (
	gatewayWitness witnessKind = iota
	nodeWitness
	neighborWitness
)

// good tells whether it answers: its silence would be news.
func (w *witness) good() bool { return w.at != link.MAC{} && w.missed == 0 }

// reach judges whether the interface still carries what is sent both ways. It is pure:
// answers and the time come from outside.
type reach struct {
	witnesses []witness
	turn      int       // whose it is to be asked
	asked     time.Time // last
	slow      time.Time // when those were asked last that do not answer
	heard     time.Time // anybody, last
	opened    time.Time // the oldest question since the last answer; zero: none
	rounds    int       // for which all have been asked since
	judges    bool      // there was somebody to tell, and another node, when it was opened
	answers   bool      // anybody has ever answered
}

// set makes the witnesses of a kind those with the addresses. What is known of those
// that were there before stays.
func (r *reach) set(kind witnessKind, addresses []netip.Addr) {
	var next []witness
	for _, w := range r.witnesses {
		if w.kind != kind || slices.Contains(addresses, w.address) {
			next = append(next, w)
		}
	}
	for _, a := range addresses {
		switch n := slices.IndexFunc(next, func(w witness) bool { return w.address == a }); {
		case n >= 0:
			next[n].kind = min(next[n].kind, kind)
		case a.Is4():
			next = append(next, witness{address: a, kind: kind})
		}
	}
	slices.SortStableFunc(next, func(a, b witness) int { return int(a.kind) - int(b.kind) })
	r.witnesses = next
}

// begin begins anew with the questions: nothing was listened to.
func (r *reach) begin() { r.opened, r.rounds = time.Time{}, 0 }

// hear takes it that somebody else has sent something.
func (r *reach) hear(now time.Time) { r.heard = now }

// answer takes an answer to a question of this machine's: both ways are open.
func (r *reach) answer(from netip.Addr, at link.MAC, now time.Time) {
	r.hear(now)
	r.opened, r.rounds, r.answers = time.Time{}, 0, true
	for n := range r.witnesses {
		if w := &r.witnesses[n]; w.address == from {
			w.at, w.pending, w.missed = at, false, 0
		}
	}
}

// meet takes it that a host has asked for something: when nobody answers it may.
func (r *reach) meet(from netip.Addr, now time.Time) {
	if r.doubt(now) && !slices.ContainsFunc(r.witnesses, func(w witness) bool { return w.address == from }) {
		neighbors := []netip.Addr{from}
		for _, w := range r.witnesses {
			if w.kind == neighborWitness && len(neighbors) < maxNeighbors {
				neighbors = append(neighbors, w.address)
			}
		}
		r.set(neighborWitness, neighbors)
	}
}

// doubt tells whether a question has been open for so long that everybody is asked,
// and everything listened to.
func (r *reach) doubt(now time.Time) bool { return !r.opened.IsZero() && now.Sub(r.opened) >= openFor }

// cut tells whether nobody has answered for long enough to be believed.
func (r *reach) cut(now time.Time) bool {
	return !r.opened.IsZero() && now.Sub(r.opened) >= cutAfter && r.rounds >= cutRounds
}

// state is what is known now, for somebody to whom it is no news that nobody has
// answered for less than a time.
func (r *reach) state(now time.Time, patience time.Duration) Reach {
	switch cut := r.cut(now) && now.Sub(r.opened) >= patience; {
	case cut && !r.judges || !r.answers:
		return ReachUnknown
	case cut && now.Sub(r.heard) >= cutAfter:
		return ReachDeaf
	case cut:
		return ReachMute
	default:
		return ReachBoth
	}
}

// next is when somebody is to be asked.
func (r *reach) next(now time.Time) time.Time {
	again := r.asked.Add(againEvery)
	switch told := r.opened.Add(cutAfter); {
	case !r.doubt(now) || r.cut(now):
		return r.asked.Add(witnessEvery)
	case r.rounds >= cutRounds && told.Before(again):
		return told // which is all that is to be done then
	default:
		return again
	}
}

// ask returns whom to ask now. nodes tells that another node was heard a moment ago.
func (r *reach) ask(now time.Time, nodes bool) (whom []witness) {
	r.asked = now
	if r.doubt(now) {
		r.rounds++
		return r.put(func(*witness) bool { return true })
	}
	if now.Sub(r.slow) >= every {
		r.slow = now
		whom = r.put(func(w *witness) bool { return !w.good() })
	}
	var good []int
	for n := range r.witnesses {
		if r.witnesses[n].good() {
			good = append(good, n)
		}
	}
	if len(good) == 0 {
		return whom
	}
	r.opened, r.judges = now, r.hasJudges(nodes)
	r.turn = (r.turn + 1) % len(good)
	turn := &r.witnesses[good[r.turn]]
	return append(whom, r.put(func(w *witness) bool { return w == turn })...)
}

// put notes that those are asked.
func (r *reach) put(which func(*witness) bool) (whom []witness) {
	for n := range r.witnesses {
		w := &r.witnesses[n]
		if !which(w) {
			continue
		}
		if w.pending {
			w.missed++
		}
		w.pending = true
		whom = append(whom, *w)
	}
	return whom
}

// hasJudges tells whether both another node and a host that is none are there.
func (r *reach) hasJudges(nodes bool) bool {
	others := false
	for n := range r.witnesses {
		w := &r.witnesses[n]
		nodes = nodes || w.kind == nodeWitness && w.good()
		others = others || w.kind != nodeWitness && w.good() && !r.isNode(w.at)
	}
	return nodes && others
}

// isNode tells whether a link-layer address is another node's.
func (r *reach) isNode(at link.MAC) bool {
	return slices.ContainsFunc(r.witnesses, func(w witness) bool { return w.kind == nodeWitness && w.at == at })
}

// absent are the other nodes' addresses that were asked for again and again and have not
// answered. One answer may be lost.
func (r *reach) absent() (all []netip.Addr) {
	for n := range r.witnesses {
		if w := &r.witnesses[n]; w.kind == nodeWitness && w.missed >= absentAfter {
			all = append(all, w.address)
		}
	}
	return all
}

// neighbors renews the neighbours that are asked from those that the kernel knows: one
// that answers stays.
func (r *reach) neighbors(known []netip.Addr) {
	var chosen []netip.Addr
	taken := make(map[netip.Addr]bool)
	for n := range r.witnesses {
		w := &r.witnesses[n]
		taken[w.address] = true
		if w.kind == neighborWitness && w.good() && !r.isNode(w.at) {
			chosen = append(chosen, w.address)
		}
	}
	for _, a := range known {
		if len(chosen) < maxNeighbors && !taken[a] {
			chosen = append(chosen, a)
		}
	}
	r.set(neighborWitness, chosen)
}
