package keepalived

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetworkStatus is what the node has on one network.
type NetworkStatus struct {
	Network string
	// Addresses of the network's interface that are the node's own, in the
	// kernel's order, so that keepalived's source comes first; no VIPs.
	Addresses []netip.Addr
}

func (s NetworkStatus) equal(t NetworkStatus) bool {
	return s.Network == t.Network && slices.Equal(s.Addresses, t.Addresses)
}

// maxOwn bounds the addresses that are told of one network.
const maxOwn = 16

// lookAround asks the kernel for the node's own addresses.
func (o *observer) lookAround() {
	var all []NetworkStatus
	for _, network := range slices.Sorted(maps.Keys(o.interfaces)) {
		own, err := o.own(o.interfaces[network])
		if err != nil {
			o.log.Warn("cannot tell the node's own addresses", "network", network, "error", err)
			return
		}
		all = append(all, NetworkStatus{network, own})
	}
	o.networks = all
}

// own returns the addresses of an interface that are no VIP's.
func (o *observer) own(name string) ([]netip.Addr, error) {
	list, err := addressesOf(name)
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range list {
		address, ok := netip.AddrFromSlice(a.IP)
		if address = address.Unmap(); !ok || passing(address, a.Flags) || o.virtual(address) {
			continue
		}
		if own = append(own, address); len(own) == maxOwn {
			break
		}
	}
	return own, nil
}

// passing tells whether an address of IPv6 is not proven unique or changes every
// day, so that it is nobody's source of advertisements. With IPv4 the bit of
// IFA_F_TEMPORARY says that there is another address of the same subnet
// (linux/if_addr.h).
func passing(address netip.Addr, flags int) bool {
	return address.Is6() && flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0
}

// virtual tells whether an address is a VIP's, as far as the driver has heard.
func (o *observer) virtual(address netip.Addr) bool {
	is := func(p netip.Prefix) bool { return p.Addr() == address }
	has := func(w watched) bool { return slices.ContainsFunc(w.addresses(), is) }
	return slices.ContainsFunc(o.watched, has) || slices.ContainsFunc(o.wanted, has) ||
		slices.ContainsFunc(o.left, func(p place) bool { return is(p.Address) })
}

// addressesOf returns the addresses of an interface; none when there is no such
// interface.
func addressesOf(name string) ([]netlink.Addr, error) {
	link, err := linkOf(name)
	if link == nil {
		return nil, err
	}
	return listAddresses(link)
}
