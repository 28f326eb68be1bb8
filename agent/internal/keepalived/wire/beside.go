package wire

import (
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// Where a virtual router is advertised over another network than its addresses are on, and
// that network is broken, each node holds the addresses by the rules of VRRP. They hear each
// other where the addresses are, though: whoever holds them announces them, and answers for
// them. So a node that holds them looks for another one that does.

const (
	// besideAfter is for how long another node has the addresses until that is told. A
	// node that hands them over has them for some milliseconds after the next one.
	besideAfter = 400 * time.Millisecond
	// besideMissed is how many questions in a row it leaves unanswered before it counts
	// as one that has them no more.
	besideMissed = 3
	// besideOrder is by how much later than the other one of two nodes yields that would
	// do so at the same moment: that with the higher link-layer address.
	besideOrder = 150 * time.Millisecond
)

// Beside is another node that has the addresses of a router that this one has.
type Beside struct {
	// Node is its own address on the interface; invalid: there is none.
	Node netip.Addr
	// Yield tells that it has had them for as long as Router.Yields, and a moment ago.
	Yield bool
}

// beside is what is known of that node. The zero one is that there is none.
type beside struct {
	mac         link.MAC
	since       time.Time // of the first of its answers of which none is missing since
	asked       time.Time // when it, or everybody, was asked last; zero: not yet
	pending     bool      // that is not answered
	missed      int       // questions in a row before it that are not
	told, yield bool
}

// nextBeside is when it is to be asked who has the addresses; zero: it is not. That is
// when this node begins to hold them, and then for as long as another node has them.
func (r *router) nextBeside(now time.Time) time.Time {
	switch b := &r.beside; {
	case r.Yields == 0:
		return time.Time{}
	case b.asked.IsZero():
		return now
	case b.since.IsZero():
		return time.Time{}
	default:
		return b.asked.Add(min(max(r.Interval/besideMissed, 20*time.Millisecond), 300*time.Millisecond))
	}
}

// askBeside notes that it is asked now, and tells whom to ask: nobody when that one has not
// answered for too long.
func (r *router) askBeside(now time.Time) (who []byte) {
	b := &r.beside
	if !b.since.IsZero() && b.pending {
		b.missed++
	}
	if b.missed >= besideMissed {
		*b = beside{asked: now}
		return nil
	}
	b.asked, b.pending = now, true
	if b.since.IsZero() {
		return link.Everyone
	}
	return b.mac[:]
}

// besideAnswers takes it that a node has said that it has an address of the router.
// mac is this machine's. By such an answer alone this node has to yield: another one that
// has yielded meanwhile gives none.
func (r *router) besideAnswers(from, mac link.MAC, now time.Time) {
	b := &r.beside
	if r.Yields == 0 || !b.since.IsZero() && b.mac != from {
		return
	}
	if b.since.IsZero() {
		b.mac, b.since = from, now
	}
	b.pending, b.missed = false, 0
	limit := r.Yields
	if string(mac[:]) > string(from[:]) {
		limit += besideOrder
	}
	b.told = now.Sub(b.since) >= besideAfter
	b.yield = now.Sub(b.since) >= limit
}

// answers takes it that a node has said that it has an address. A gateway may say so for
// everybody (local proxy ARP), those who are gone as well: it is nobody to yield to.
func (t *table) answers(address netip.Addr, from link.MAC, now time.Time) {
	if from == t.gateway {
		return
	}
	for _, r := range t.routers {
		for _, a := range r.Addresses {
			if r.Apart && a == address {
				r.besideAnswers(from, t.mac, now)
			}
		}
	}
}

// besideOf is what is to be told of a router.
func (t *table) besideOf(r *router) (told Beside) {
	if !r.beside.told {
		return told
	}
	told.Yield = r.beside.yield
	for a, mac := range t.nodes {
		if mac == r.beside.mac && (!told.Node.IsValid() || a.Less(told.Node)) {
			told.Node = a
		}
	}
	return told
}

// nextBeside is when one of the routers is to be asked for next; zero: none.
func (t *table) nextBeside(now time.Time) (next time.Time) {
	for _, r := range t.routers {
		if due := r.nextBeside(now); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// askBeside asks who else has the addresses of routers that this node has.
func (e *ear) askBeside(now time.Time) error {
	for _, r := range e.table.routers {
		if due := r.nextBeside(now); due.IsZero() || now.Before(due) {
			continue
		}
		to := r.askBeside(now)
		if to == nil {
			continue
		}
		e.news = true // the answer is to wake this ear
		var err error
		switch a := r.Addresses[0]; {
		case r.six():
			_, group := link.SolicitedNode(a)
			err = e.nd.Send(link.Solicitation(a), group)
		case e.beside(a).IsValid(): // as the kernel asks: a network may let no probe through
			err = e.arp.Send(link.ARPRequest(e.on.HardwareAddr, e.beside(a), a), to)
		default:
			err = e.arp.Send(link.ARPProbe(e.on.HardwareAddr, a), to)
		}
		if err != nil && !link.Lost(err) {
			return err
		}
	}
	return nil
}
