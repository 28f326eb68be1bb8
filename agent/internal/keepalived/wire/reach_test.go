package wire

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

var (
	gatewayAt  = netip.MustParseAddr("192.168.1.1")
	nodeAt     = netip.MustParseAddr("192.168.1.11")
	neighborAt = netip.MustParseAddr("192.168.1.51")
)

// network is who answers, and whether anybody is heard beside that.
type network struct {
	silent []netip.Addr // do not answer
	cut    bool         // nobody does
	heard  bool         // somebody is
	nodes  bool         // another node advertises
}

// play has the network be like that for a while, and returns what is known in the end
// and for how long it has been.
func (r *reach) play(now *time.Time, length time.Duration, n network) (state Reach, since time.Duration) {
	macs := map[netip.Addr]link.MAC{gatewayAt: {2, 1}, nodeAt: {2, 2}, neighborAt: {2, 3}, netip.MustParseAddr("192.168.1.12"): {2, 2}}
	changed := *now
	for end := now.Add(length); now.Before(end); *now = now.Add(10 * time.Millisecond) {
		if n.heard && !n.cut {
			r.hear(*now)
		}
		if !now.Before(r.next(*now)) {
			for _, w := range r.ask(*now, n.nodes) {
				if !n.cut && !n.heard && !slices.Contains(n.silent, w.address) {
					r.answer(w.address, macs[w.address], *now)
				}
			}
		}
		if is := r.state(*now, 0); is != state {
			state, changed = is, *now
		}
	}
	return state, now.Sub(changed)
}

// Only a node that has lost everybody at once, among them a host that is no node, is
// cut off.
func TestReach(t *testing.T) {
	well := network{}
	for name, test := range map[string]struct {
		gateway, node, neighbor bool
		then                    []network // five seconds each, after five in which all is well
		want                    Reach
	}{
		"all is well":                     {true, true, true, []network{well}, ReachBoth},
		"nothing comes in":                {true, true, false, []network{{cut: true}}, ReachDeaf},
		"nothing, beside a neighbour":     {false, true, true, []network{{cut: true}}, ReachDeaf},
		"nothing goes out":                {true, true, false, []network{{heard: true}}, ReachMute},
		"the node is gone":                {true, true, false, []network{{silent: []netip.Addr{nodeAt}}}, ReachBoth},
		"the gateway is gone":             {true, true, false, []network{{silent: []netip.Addr{gatewayAt}}}, ReachBoth},
		"the only node is gone":           {false, true, false, []network{{cut: true}}, ReachUnknown},
		"the gateway and then the node":   {true, true, false, []network{{silent: []netip.Addr{gatewayAt}}, {cut: true}}, ReachUnknown},
		"the node and then the gateway":   {true, true, false, []network{{silent: []netip.Addr{nodeAt}}, {cut: true}}, ReachUnknown},
		"there is no node":                {true, false, true, []network{{cut: true}}, ReachUnknown},
		"a node that only advertises":     {true, false, false, []network{{nodes: true}, {nodes: true, cut: true}}, ReachDeaf},
		"there is nobody":                 {false, false, false, []network{{heard: true}}, ReachUnknown},
		"it comes in again":               {true, true, false, []network{{cut: true}, well}, ReachBoth},
		"it goes out again":               {true, true, false, []network{{heard: true}, well}, ReachBoth},
		"a node in the place of the host": {true, true, false, []network{{cut: true}, {silent: []netip.Addr{gatewayAt}}}, ReachBoth},
	} {
		var r reach
		if test.gateway {
			r.set(gatewayWitness, []netip.Addr{gatewayAt})
		}
		if test.node {
			r.set(nodeWitness, []netip.Addr{nodeAt})
		}
		if test.neighbor {
			r.neighbors([]netip.Addr{neighborAt})
		}
		now := start
		r.play(&now, 5*time.Second, well)
		var got Reach
		for _, n := range test.then {
			var since time.Duration
			if got, since = r.play(&now, 5*time.Second, n); (got == ReachDeaf || got == ReachMute) && since < 4*time.Second {
				t.Errorf("%s: told for %v of 5s", name, since)
			}
		}
		if got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// Another address of a node is no third party.
func TestANodesOtherAddressIsNoJudge(t *testing.T) {
	var r reach
	r.set(nodeWitness, []netip.Addr{nodeAt})
	r.neighbors([]netip.Addr{netip.MustParseAddr("192.168.1.12")})
	now := start
	r.play(&now, 5*time.Second, network{})
	if got, _ := r.play(&now, 5*time.Second, network{cut: true}); got != ReachUnknown {
		t.Errorf("%v, want %v", got, ReachUnknown)
	}
}

// What another node does not take over for is no news; what it does is.
func TestReachIsPatient(t *testing.T) {
	const patience = 4 * time.Second
	for name, lost := range map[string]network{"deaf": {cut: true}, "mute": {heard: true}} {
		var r reach
		r.set(gatewayWitness, []netip.Addr{gatewayAt})
		r.set(nodeWitness, []netip.Addr{nodeAt})
		now := start
		r.play(&now, 5*time.Second, network{})
		r.play(&now, patience-100*time.Millisecond, lost)
		if got := r.state(now, patience); got != ReachBoth {
			t.Errorf("%s: told %v before", name, got)
		}
		r.play(&now, witnessEvery+200*time.Millisecond, lost)
		if got := r.state(now, patience); got != ReachDeaf && got != ReachMute {
			t.Errorf("%s: told %v after", name, got)
		}
	}
}

// A cut is told when it is old enough, whenever something else woke the ear before, and by
// then all have been asked often enough.
func TestACutIsToldInTime(t *testing.T) {
	for first := openFor; first <= beat.Every; first += time.Millisecond {
		var r reach
		r.set(gatewayWitness, []netip.Addr{gatewayAt})
		r.set(nodeWitness, []netip.Addr{nodeAt})
		now := start
		r.play(&now, 5*time.Second, network{})
		now = r.next(now)
		r.ask(now, false)
		opened := now
		for now = opened.Add(first); !r.cut(now); now = r.next(now) {
			r.ask(now, false)
		}
		if took := now.Sub(opened); took != cutAfter {
			t.Errorf("all are asked from %v on: told after %v, want %v", first, took, cutAfter)
		}
	}
}

// An agent that had no turn for a while has not missed an answer that waits.
func TestReachIsNotJudgedByAPause(t *testing.T) {
	var r reach
	r.set(gatewayWitness, []netip.Addr{gatewayAt})
	r.set(nodeWitness, []netip.Addr{nodeAt})
	now := start
	r.play(&now, 5*time.Second, network{})
	for range 20 {
		asked := r.ask(now, false)
		now = now.Add(2 * time.Second) // with the answers in the socket
		if got := r.state(now, 0); got == ReachDeaf || got == ReachMute {
			t.Fatalf("told %v by a pause", got)
		}
		for _, w := range asked {
			r.answer(w.address, link.MAC{2, 1}, now)
		}
	}
}

// A host that asks while nobody answers is asked, too, so that a node that is alone with
// it is not taken for one that is cut off.
func TestAHostThatAsksIsAsked(t *testing.T) {
	var r reach
	r.set(gatewayWitness, []netip.Addr{gatewayAt})
	r.set(nodeWitness, []netip.Addr{nodeAt})
	now := start
	r.play(&now, 5*time.Second, network{})
	if got, _ := r.play(&now, 5*time.Second, network{cut: true}); got != ReachDeaf {
		t.Fatalf("%v, want %v", got, ReachDeaf)
	}
	r.hear(now)
	r.meet(neighborAt, now)
	if got, _ := r.play(&now, time.Second, network{silent: []netip.Addr{gatewayAt, nodeAt}}); got != ReachBoth {
		t.Errorf("%v, want %v", got, ReachBoth)
	}
}

// In calm one host is asked at a time.
func TestReachAsksSparingly(t *testing.T) {
	var r reach
	r.set(gatewayWitness, []netip.Addr{gatewayAt})
	r.set(nodeWitness, []netip.Addr{nodeAt})
	r.neighbors([]netip.Addr{neighborAt})
	now := start
	r.play(&now, 5*time.Second, network{})
	asked := map[netip.Addr]int{}
	for range 12 {
		now = r.next(now)
		for _, w := range r.ask(now, false) {
			asked[w.address]++
			r.answer(w.address, w.at, now)
		}
	}
	for _, a := range []netip.Addr{gatewayAt, nodeAt, neighborAt} {
		if asked[a] != 4 {
			t.Errorf("%s is asked %d times of 12", a, asked[a])
		}
	}
}

// A node whose answer is lost now and then is there; one that answers no more is absent
// within a second.
func TestWhoIsAbsent(t *testing.T) {
	r := new(reach)
	r.set(nodeWitness, []netip.Addr{nodeAt})
	now := start
	r.play(&now, 5*time.Second, network{})
	for range 10 {
		r.play(&now, 450*time.Millisecond, network{silent: []netip.Addr{nodeAt}})
		if got := r.absent(); len(got) > 0 {
			t.Fatalf("%v is absent after some questions", got)
		}
		r.play(&now, 500*time.Millisecond, network{})
	}
	r.play(&now, time.Second, network{silent: []netip.Addr{nodeAt}})
	if got := r.absent(); !slices.Equal(got, []netip.Addr{nodeAt}) {
		t.Errorf("%v is absent, want %v", got, nodeAt)
	}
}
