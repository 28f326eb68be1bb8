package wire

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// tick does what is to be done each second.
func (e *ear) tick(now time.Time) error {
	if err := e.look(); err != nil {
		return err
	}
	if e.gateway.IsValid() && e.arp != nil {
		to := link.Everyone
		if e.answers {
			to = e.at[:]
		}
		if err := e.arp.Send(link.ARPProbe(e.on.HardwareAddr, e.gateway), to); err != nil && !link.Lost(err) {
			return err
		}
	}
	claimed := slices.ContainsFunc(e.table.routers, func(r *router) bool { return len(r.claims) > 0 })
	if !claimed && now.Sub(e.asked) < askEvery {
		return nil
	}
	e.asked = now
	return e.askForOwn()
}

// askForOwn asks for the addresses that this node holds: nobody else has them.
func (e *ear) askForOwn() error {
	for _, r := range e.table.routers {
		if !r.Holds {
			continue
		}
		for _, a := range r.Addresses {
			var err error
			if a.Is4() {
				err = e.arp.Send(link.ARPProbe(e.on.HardwareAddr, a), link.Everyone)
			} else {
				_, group := link.SolicitedNode(a)
				err = e.nd.Send(link.Solicitation(a), group)
			}
			if err != nil && !link.Lost(err) {
				return err
			}
		}
	}
	return nil
}

// findGateway finds the interface's gateway. An error is as good as none: the
// next tick asks again.
func (e *ear) findGateway() {
	var found netip.Addr
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: e.on.Index, Dst: nil},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return
	}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Gw); ok {
			found = a.Unmap()
			break
		}
	}
	if found != e.gateway {
		e.gateway, e.answers, e.answered = found, false, time.Now()
	}
}
