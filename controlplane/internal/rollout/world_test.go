package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
)

// world is a controller that steps an order, with nodes that do as they are told
// when they come to it.
type world struct {
	order    Order
	disk     []byte // what is durable of order
	now      time.Time
	revision uint64
	wanted   compile.Terms
	nodes    []*machine
	holder   int // of nodes
	waits    string
}

// machine is a node: what it has, and what it was told last.
type machine struct {
	id               string
	connected        bool
	known            bool // the controller knows what it has
	has              bool
	terms            compile.Terms
	told, heard, did target // last: by the controller, by the agent, in effect
	failed           bool
	stubborn         bool   // it can change nothing
	full             bool   // its disk cannot be written
	kept             target // last that is on its disk
	lost             bool   // what is in effect is not on its disk
	mute             bool   // it has no instance of unicast terms
}

type target struct {
	revision uint64
	has      bool
	terms    compile.Terms
}

func terms(vrid uint32) compile.Terms {
	return compile.Terms{Version: 3, Network: "front", Vrid: vrid}
}

func newWorld(nodes int) *world {
	w := &world{order: Order{Agreed: terms(1)}, now: time.Unix(1700000000, 0), revision: 1, wanted: terms(1)}
	for i := range nodes {
		w.nodes = append(w.nodes, &machine{id: fmt.Sprint("lb-", i), connected: true, known: true, has: true, terms: terms(1)})
	}
	w.step()
	for _, m := range w.nodes {
		m.heard = m.told
		m.act()
	}
	return w
}

// step is the controller's: what it decides is durable before the nodes hear it.
func (w *world) step() (next time.Duration) {
	var all []Standing
	for i, m := range w.nodes {
		all = append(all, Standing{
			Node: m.id, Connected: m.connected, Known: m.known, Failed: m.failed, Volatile: m.lost,
			Current:  m.known && m.told == m.did && m.heard == m.did,
			Mute:     m.mute && w.wanted.Unicast,
			Holds:    i == w.holder && m.has && m.connected,
			Priority: uint32(230 - i),
		})
		if m.known {
			all[i].Has, all[i].Terms = m.has, m.terms
		}
	}
	parts, waits, next := w.order.Step(w.now, w.revision, w.wanted, all)
	w.waits = waits
	w.disk, _ = json.Marshal(w.order)
	for _, m := range w.nodes {
		m.told = target{w.revision, true, w.wanted}
		if p, ok := parts[m.id]; ok {
			m.told.has, m.told.terms = !p.Out, p.Terms
		}
		if m.mute && m.told.terms.Unicast {
			m.told.has = false
		}
		if !m.told.has {
			m.told.terms = compile.Terms{}
		}
	}
	return next
}

// act has a node do what it has heard last, and then hear what it was told since.
func (m *machine) act() {
	if !m.connected {
		return
	}
	if same := m.has == m.heard.has && m.terms == m.heard.terms; m.stubborn && !same {
		m.failed = true
	} else {
		m.has, m.terms, m.did, m.failed = m.heard.has, m.heard.terms, m.heard, false
		if m.lost = m.full; !m.full {
			m.kept = m.did
		}
	}
	m.heard = m.told
}

// reboot has a node start with what is on its disk, without its agent.
func (m *machine) reboot() {
	m.connected, m.known = false, false
	m.has, m.terms, m.heard, m.did = m.kept.has, m.kept.terms, m.kept, m.kept
}

// restart is a controller that knows what is on disk, and no node yet.
func (w *world) restart() {
	w.order = Order{}
	if err := json.Unmarshal(w.disk, &w.order); err != nil {
		panic(err)
	}
	for _, m := range w.nodes {
		m.connected, m.known = false, false
	}
}

// mixed returns the different terms that nodes have at this moment.
func (w *world) mixed() (all []compile.Terms) {
	for _, m := range w.nodes {
		if m.has && !slices.Contains(all, m.terms) {
			all = append(all, m.terms)
		}
	}
	return all
}

// settle lets all nodes answer until nothing more happens.
func (w *world) settle() {
	for range 20 {
		w.step()
		for _, m := range w.nodes {
			m.known = m.known || m.connected
			m.act()
		}
	}
}
