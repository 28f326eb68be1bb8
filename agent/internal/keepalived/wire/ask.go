package wire

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// tick does what is to be done each second.
func (e *ear) tick(now time.Time) error {
	if err := e.settle(now); err != nil {
		return err
	}
	if e.stale {
		if err := errors.Join(e.look(), e.poller.again(e.changes.FD())); err != nil {
			return err
		}
	}
	if e.gateway.IsValid() && e.arp != nil {
		to := link.Everyone // another machine may have the address by now
		if e.answers && now.Sub(e.answered) < every+every/2 {
			to = e.at[:]
		}
		if err := e.arp.Send(link.ARPProbe(e.on.HardwareAddr, e.gateway), to); err != nil && !link.Lost(err) {
			return err
		}
	}
	if now.Sub(e.reviewed) >= reviewEvery && !e.reach.doubt(now) {
		e.reviewed = now
		e.review()
	}
	claimed := slices.ContainsFunc(e.table.routers, func(r *router) bool { return len(r.claims) > 0 })
	if !claimed && now.Sub(e.asked) < askEvery {
		return nil
	}
	e.asked = now
	if err := e.askForOwn(); err != nil {
		return err
	}
	return e.askForNodes()
}

// askForNodes asks for the nodes' own addresses, by which those are known that
// advertise elsewhere.
func (e *ear) askForNodes() error {
	for _, r := range e.table.routers {
		if !r.Apart {
			continue
		}
		if err := e.askFor(r.Peers, r.six()); err != nil {
			return err
		}
	}
	return nil
}

// reviewEvery is how often it is looked for whom to ask.
const reviewEvery = 5 * time.Second

// review makes the kernel's neighbours witnesses. An error is as good as none.
func (e *ear) review() {
	list, err := netlink.NeighList(e.on.Index, netlink.FAMILY_V4)
	if err != nil {
		return
	}
	var known []netip.Addr
	for _, n := range list {
		const there = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE
		a, ok := netip.AddrFromSlice(n.IP)
		if a = a.Unmap(); ok && n.State&there != 0 && !slices.Contains(e.addresses(false), a) {
			known = append(known, a)
		}
	}
	slices.SortFunc(known, netip.Addr.Compare)
	e.reach.neighbors(known)
}

// asks is when somebody is to be asked: at a beat, unless nobody answers.
func (e *ear) asks(now time.Time) time.Time {
	next := e.reach.next(now)
	if e.reach.doubt(now) {
		return next
	}
	return beat.From(next)
}

// question asks those whose turn it is whether they are there, and listens to
// everything for as long as nobody answers: whatever comes in tells that something
// does.
func (e *ear) question(now time.Time) (err error) {
	if !now.Before(e.asks(now)) {
		nodes := slices.ContainsFunc(e.table.routers, func(r *router) bool {
			return slices.ContainsFunc(r.speakers, func(s speaker) bool { return s.present(now) && slices.Contains(r.Peers, s.Source) })
		})
		for _, w := range e.reach.ask(now, nodes) {
			if err := e.questionOne(&w, e.reach.doubt(now)); err != nil {
				return err
			}
		}
	}
	switch doubt := e.reach.doubt(now); {
	case doubt && e.broad == nil:
		e.news = true
		for _, ethertype := range []uint16{unix.ETH_P_ARP, unix.ETH_P_IP, unix.ETH_P_IPV6} {
			s, err := link.Open(e.on.Index, ethertype, nil)
			if err != nil {
				return err
			}
			e.broad = append(e.broad, s)
			if err := e.poller.add(s.FD()); err != nil {
				return err
			}
		}
	case !doubt && e.broad != nil:
		for _, s := range e.broad {
			_ = s.Close()
		}
		e.broad = nil
	}
	return nil
}

// questionOne asks a witness. In doubt everybody is asked for it, as its address may be on
// another machine by now, such as that of a router that has failed over; and it is asked as
// the kernel asks, too: a network may let through no question of somebody who has no
// address yet, to none of its nodes.
func (e *ear) questionOne(w *witness, doubt bool) error {
	to := link.Everyone
	if w.good() && !doubt {
		to = w.at[:]
	}
	questions := [][]byte{link.ARPProbe(e.on.HardwareAddr, w.address)}
	if own := e.beside(w.address); doubt && own.IsValid() {
		questions = append(questions, link.ARPRequest(e.on.HardwareAddr, own, w.address))
	}
	for _, q := range questions {
		if err := e.arp.Send(q, to); err != nil && !link.Lost(err) {
			return err
		}
	}
	return nil
}

// askForOwn asks for the addresses that this node holds: nobody else has them.
func (e *ear) askForOwn() error {
	for _, r := range e.table.routers {
		if !r.Holds {
			continue
		}
		if err := e.askFor(r.Addresses, r.six()); err != nil {
			return err
		}
	}
	return nil
}

// askFor asks for those of the addresses that are of a family.
func (e *ear) askFor(addresses []netip.Addr, six bool) error {
	for _, a := range addresses {
		var err error
		switch {
		case a.Is6() != six:
		case six:
			_, group := link.SolicitedNode(a)
			err = e.nd.Send(link.Solicitation(a), group)
		default:
			err = e.arp.Send(link.ARPProbe(e.on.HardwareAddr, a), link.Everyone)
		}
		if err != nil && !link.Lost(err) {
			return err
		}
	}
	return nil
}
