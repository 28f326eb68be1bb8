package wire

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// find looks at the interface.
func (e *ear) find() error {
	on, err := net.InterfaceByName(e.name)
	if err != nil {
		return err
	}
	const needed = net.FlagUp | net.FlagRunning | net.FlagBroadcast
	if on.Flags&needed != needed || len(on.HardwareAddr) != len(link.MAC{}) {
		return errDown
	}
	if e.sockets != nil && on.Index != e.on.Index {
		return errors.New("it is another interface by the same name")
	}
	e.on = on
	e.table.mac = link.MAC(on.HardwareAddr)
	return nil
}

// look learns what no packet tells. What cannot be found, for whatever reason, is
// looked for again.
func (e *ear) look() (err error) {
	if err := errors.Join(e.changes.Drain(), e.find()); err != nil {
		return err
	}
	e.stale = errors.Join(e.findGateway(), e.findOwn()) != nil
	e.table.own, err = link.Own()
	return err
}

// findGateway finds the interface's gateway.
func (e *ear) findGateway() error {
	var found netip.Addr
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: e.on.Index, Dst: nil},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return err
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
	e.reach.set(gatewayWitness, []netip.Addr{found})
	return nil
}

// findOwn finds the interface's own addresses by IPv4, those of VIPs left out.
func (e *ear) findOwn() error {
	e.own = nil
	addresses, err := e.on.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !slices.Contains(e.addresses(false), p.Addr()) {
			e.own = append(e.own, p)
		}
	}
	return nil
}

// beside is the own address in the subnet of a host; invalid: there is none.
func (e *ear) beside(host netip.Addr) netip.Addr {
	for _, p := range e.own {
		if p.Contains(host) && p.Addr() != host {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
