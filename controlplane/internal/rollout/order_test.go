package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
)

// A pair goes to new terms in three steps; the holder has the VIP in all of them.
func TestStandbyLeavesHolderSwitchesStandbyComesBack(t *testing.T) {
	w := newWorld(2)
	w.revision, w.wanted = 2, terms(2)
	var story []string
	for range 5 {
		w.step()
		for _, m := range w.nodes {
			m.heard = m.told
			m.act()
		}
		story = append(story, fmt.Sprint(w.nodes[0].has, w.nodes[0].terms.Vrid, " ", w.nodes[1].has, w.nodes[1].terms.Vrid))
	}
	want := "true 1 false 0, true 2 false 0, true 2 true 2, true 2 true 2, true 2 true 2"
	if got := strings.Join(story, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// While a node is away nobody changes and nobody leaves; then all do.
func TestChangeWaitsForANodeThatIsAway(t *testing.T) {
	w := newWorld(3)
	w.nodes[2].connected = false
	w.revision, w.wanted = 2, terms(2)
	w.settle()
	for _, m := range w.nodes {
		if !m.has || m.terms != terms(1) {
			t.Errorf("%s: has %v %v", m.id, m.has, m.terms)
		}
	}
	if !strings.Contains(w.waits, "lb-2") {
		t.Errorf("waits: %q", w.waits)
	}
	w.nodes[2].connected = true
	w.settle()
	for _, m := range w.nodes {
		if !m.has || m.terms != terms(2) || w.waits != "" {
			t.Errorf("%s: has %v %v, waits %q", m.id, m.has, m.terms, w.waits)
		}
	}
}

// A node that would have the old terms again after a reboot is waited for.
func TestChangeWaitsForADisk(t *testing.T) {
	w := newWorld(2)
	w.nodes[1].full = true
	w.revision = 2 // of something else
	w.settle()
	w.revision, w.wanted = 3, terms(2)
	w.settle()
	if w.nodes[0].terms != terms(1) || !strings.Contains(w.waits, "lb-1") || !strings.Contains(w.waits, "disk") {
		t.Errorf("lb-0 has %v, waits %q", w.nodes[0].terms, w.waits)
	}
	w.nodes[1].full = false
	w.settle()
	for _, m := range w.nodes {
		if !m.has || m.terms != terms(2) || w.waits != "" {
			t.Errorf("%s: has %v %v, waits %q", m.id, m.has, m.terms, w.waits)
		}
	}
	// The disk is full when the node leaves.
	w.revision, w.wanted, w.nodes[1].full = 4, terms(3), true
	w.settle()
	w.nodes[1].reboot()
	w.settle()
	if mixed := w.mixed(); len(mixed) != 1 {
		t.Errorf("terms after a reboot: %v", mixed)
	}
}

// A node that cannot take the change leaves everybody with what they had, until
// another revision comes.
func TestRefusedChangeLeavesWhatWas(t *testing.T) {
	for _, stubborn := range []int{0, 1} {
		w := newWorld(2)
		w.nodes[stubborn].stubborn = true
		w.revision, w.wanted = 2, terms(2)
		w.settle()
		w.nodes[stubborn].stubborn = false
		w.settle()
		for _, m := range w.nodes {
			if !m.has || m.terms != terms(1) {
				t.Errorf("stubborn %d: %s has %v %v", stubborn, m.id, m.has, m.terms)
			}
		}
		w.revision++
		w.settle()
		for _, m := range w.nodes {
			if !m.has || m.terms != terms(2) {
				t.Errorf("stubborn %d, then not: %s has %v %v", stubborn, m.id, m.has, m.terms)
			}
		}
	}
}

// A node without an address to advertise from keeps its VIP as it is; one that has no
// instance anyway holds up nobody.
func TestUnicastWaitsForAnAddress(t *testing.T) {
	unicast := terms(1)
	unicast.Unicast, unicast.Speakers = true, "lb-0=192.0.2.1 lb-1=192.0.2.2"
	for mute := range 2 {
		w := newWorld(2)
		w.nodes[mute].mute = true
		w.revision, w.wanted = 2, unicast
		w.settle()
		for _, m := range w.nodes {
			if !m.has || m.terms != terms(1) || !strings.Contains(w.waits, w.nodes[mute].id) {
				t.Errorf("lb-%d is mute: %s has %v %v, waits %q", mute, m.id, m.has, m.terms, w.waits)
			}
		}
		w.nodes[mute].has, w.nodes[mute].terms = false, compile.Terms{}
		w.holder = 1 - mute
		w.settle()
		if m := w.nodes[1-mute]; !m.has || m.terms != unicast || w.waits != "" {
			t.Errorf("lb-%d is mute and out: the other one has %v %v, waits %q", mute, m.has, m.terms, w.waits)
		}
		w.nodes[0].mute, w.nodes[1].mute = true, true
		w.wanted.Vrid = 2
		if w.settle(); w.order.Agreed != unicast || w.waits == "" {
			t.Errorf("nobody can advertise: %v are agreed, waits %q", w.order.Agreed, w.waits)
		}
	}
}

// A keeper that switches is not sent where it cannot advertise: nobody would hold the
// VIP.
func TestAKeeperIsNotSentWhereItCannotAdvertise(t *testing.T) {
	w := newWorld(2)
	w.revision, w.wanted = 2, terms(2)
	w.step()
	w.nodes[1].heard = w.nodes[1].told
	w.nodes[1].act()
	w.step()
	w.revision, w.wanted.Unicast, w.nodes[0].mute = 3, true, true
	for range 20 {
		w.step()
		if !w.nodes[0].told.has {
			t.Fatalf("the keeper is told %+v", w.nodes[0].told)
		}
		for _, m := range w.nodes {
			m.act()
		}
	}
	if w.order.Agreed != terms(2) || w.waits == "" || !w.nodes[1].has {
		t.Errorf("agreed are %v, waits %q", w.order.Agreed, w.waits)
	}
}

// A keeper that dies while it switches does not leave the VIP to nobody.
func TestKeeperDiesWhileItSwitches(t *testing.T) {
	w := newWorld(2)
	w.revision, w.wanted = 2, terms(2)
	w.step()
	w.nodes[1].heard = w.nodes[1].told
	w.nodes[1].act()
	w.step()
	w.nodes[0].connected = false
	next := w.step()
	if next <= 0 || next > Patience {
		t.Errorf("next = %v, want a moment in the next %v", next, Patience)
	}
	if w.settle(); w.nodes[1].has {
		t.Error("the standby came back at once")
	}
	w.now = w.now.Add(next)
	if w.settle(); !w.nodes[1].has || w.nodes[1].terms != terms(2) {
		t.Errorf("the standby has %v %v", w.nodes[1].has, w.nodes[1].terms)
	}
}

// A controller that starts while a node switches does not know yet who holds the
// VIP, nor whether anybody lives: it remembers who switches, and is in no hurry.
func TestRestartWhileAStandbyByPrioritySwitches(t *testing.T) {
	w := newWorld(2)
	w.holder = 1
	w.revision, w.wanted = 2, terms(2)
	w.step()
	w.nodes[0].heard = w.nodes[0].told
	w.nodes[0].act()
	w.step() // the holder may switch, and does not
	w.restart()
	w.nodes[0].connected, w.nodes[0].known = true, true
	for _, since := range []time.Duration{0, Patience, Settling - 1} {
		now := w.now
		w.now = now.Add(since)
		w.settle()
		w.now = now
		if w.nodes[0].has || w.order.Agreed != terms(1) {
			t.Fatalf("after %v lb-0 has %v, and %v count as agreed, while lb-1 has %v", since, w.nodes[0].terms, w.order.Agreed, w.nodes[1].terms)
		}
	}
	w.nodes[1].connected = true
	w.settle()
	for _, m := range w.nodes {
		if !m.has || m.terms != terms(2) {
			t.Errorf("%s has %v %v", m.id, m.has, m.terms)
		}
	}

	w.revision, w.wanted = 3, terms(3)
	w.step()
	w.nodes[0].heard = w.nodes[0].told
	w.nodes[0].act()
	w.step()
	w.restart()
	w.nodes[0].connected, w.nodes[0].known = true, true
	w.settle()
	w.now = w.now.Add(Settling)
	if w.settle(); !w.nodes[0].has {
		t.Error("the VIP waits for a holder that does not come back")
	}
}

// Whatever comes in between, no two nodes ever have different terms, and in the
// end all have what is wanted.
func TestNodesAgreeAtEveryMoment(t *testing.T) {
	for range 10 {
		rapid.Check(t, nodesAgree)
	}
}

func nodesAgree(t *rapid.T) {
	w := newWorld(rapid.IntRange(1, 3).Draw(t, "nodes"))
	w.holder = rapid.IntRange(0, len(w.nodes)-1).Draw(t, "holder")
	node := rapid.SampledFrom(w.nodes)
	actions := map[string]func(*rapid.T){
		"change": func(t *rapid.T) {
			w.revision, w.wanted = w.revision+1, terms(rapid.Uint32Range(1, 3).Draw(t, "vrid"))
		},
		"unicast": func(t *rapid.T) {
			w.revision++
			w.wanted.Unicast = rapid.Bool().Draw(t, "unicast")
		},
		"virtual MAC": func(t *rapid.T) {
			w.revision++
			w.wanted.VirtualMac = rapid.Bool().Draw(t, "virtual MAC")
		},
		"mute": func(t *rapid.T) {
			m := node.Draw(t, "node")
			m.mute = !m.mute
		},
		"step": func(*rapid.T) { w.step() },
		"act":  func(t *rapid.T) { node.Draw(t, "node").act() },
		"cut":  func(t *rapid.T) { node.Draw(t, "node").connected = false },
		"connect": func(t *rapid.T) {
			m := node.Draw(t, "node")
			m.connected, m.known = true, true
		},
		"restart": func(*rapid.T) { w.restart() },
		"stubborn": func(t *rapid.T) {
			m := node.Draw(t, "node")
			m.stubborn = !m.stubborn
		},
		"": func(t *rapid.T) {
			if mixed := w.mixed(); len(mixed) > 1 {
				t.Fatalf("nodes with different terms: %v", mixed)
			}
		},
	}
	t.Repeat(actions)
	for _, m := range w.nodes {
		m.connected, m.stubborn, m.mute = true, false, false
	}
	w.settle()
	w.revision++
	w.settle()
	for _, m := range w.nodes {
		if !m.has || m.terms != w.wanted {
			t.Fatalf("%s has %v %v in the end, want %v", m.id, m.has, m.terms, w.wanted)
		}
	}
}
