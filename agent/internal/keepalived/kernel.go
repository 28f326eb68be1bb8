package keepalived

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// place is an address on an interface.
type place struct {
	Interface string       `json:"interface"`
	Address   netip.Prefix `json:"address"`
}

// places are all that the instances may bring up.
func (in *intent) places() []place {
	var all []place
	for i := range in.instances {
		all = append(all, in.instances[i].places()...)
	}
	return all
}

func (i *instance) places() []place {
	var all []place
	for _, a := range i.addresses() {
		all = append(all, place{i.device(), a})
	}
	return all
}

// onInterface returns the addresses that the kernel has on an interface; none
// when there is no such interface. Without a name it returns those of all
// interfaces but the loopback.
func onInterface(name string) (map[netip.Addr]bool, error) {
	var link netlink.Link // nil: all
	if name != "" {
		var err error
		if link, err = linkOf(name); link == nil {
			return nil, err
		}
	}
	list, err := listAddresses(link)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", cmp.Or(name, "all interfaces"), err)
	}
	have := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if name == "" && a.LinkIndex == loopback {
			continue
		}
		if address, ok := netip.AddrFromSlice(a.IP); ok {
			have[address.Unmap()] = true
		}
	}
	return have, nil
}

// linkOf returns an interface, nil when there is none of that name.
func linkOf(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return link, nil
}

// listAddresses returns those of a link, or of all links without one.
func listAddresses(link netlink.Link) ([]netlink.Addr, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		list, err = netlink.AddrList(link, netlink.FAMILY_ALL)
	}
	return list, err
}

// loopback is the index of that interface in every network namespace
// (LOOPBACK_IFINDEX, include/net/flow.h). An address there answers nobody else's
// question for it.
const loopback = 1

// present returns those places that the kernel has.
func present(all []place) ([]place, error) {
	interfaces := make(map[string]map[netip.Addr]bool)
	var found []place
	for _, p := range all {
		have, known := interfaces[p.Interface]
		if !known {
			var err error
			if have, err = onInterface(p.Interface); err != nil {
				return nil, err
			}
			interfaces[p.Interface] = have
		}
		if have[p.Address.Addr()] {
			found = append(found, p)
		}
	}
	return found, nil
}

// remove deletes the places from the kernel, those that are there, and returns
// them.
func remove(all []place) ([]place, error) {
	found, err := present(all)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, p := range found {
		if err := removeOne(p); err != nil {
			failed = append(failed, fmt.Errorf("remove %s from %s: %w", p.Address, p.Interface, err))
		}
	}
	return found, errors.Join(failed...)
}

func removeOne(p place) error {
	link, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return err
	}
	err = netlink.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Address.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Address.Bits(), p.Address.Addr().BitLen()),
	}})
	// Somebody else was faster.
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

// checkInterfaces finds an interface that does not exist.
func (in *intent) checkInterfaces() error {
	for n := range in.instances {
		i := &in.instances[n]
		names := []string{i.iface, i.over}
		for _, l := range i.links() {
			names = append(names, l.spec.Interface)
		}
		for _, name := range names {
			_, err := netlink.LinkByName(name)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				return fmt.Errorf("VIP %s: interface %s does not exist on this node: create it, or map the VIP's "+
					"network to another one in the agent's configuration file (`ip link` lists them)", i.vip, name)
			}
			if err != nil {
				return fmt.Errorf("interface %s: %w", name, err)
			}
		}
		if err := i.checkDevice(); err != nil {
			return err
		}
	}
	return nil
}

// subscription tells of every address that comes or goes, and of every change of an
// interface.
type subscription struct {
	addresses chan netlink.AddrUpdate
	links     chan netlink.LinkUpdate
	done      chan struct{}
}

// subscribe begins to listen. A channel closes when listening failed, such as for a full
// socket buffer; then what it tells of is to be looked at again.
func subscribe() (*subscription, error) {
	s := &subscription{
		addresses: make(chan netlink.AddrUpdate, 64), links: make(chan netlink.LinkUpdate, 64), done: make(chan struct{}),
	}
	if err := netlink.AddrSubscribe(s.addresses, s.done); err != nil {
		return nil, fmt.Errorf("subscribe to the kernel's addresses: %w", err)
	}
	if err := netlink.LinkSubscribe(s.links, s.done); err != nil {
		close(s.links)
		s.end()
		return nil, fmt.Errorf("subscribe to the kernel's interfaces: %w", err)
	}
	return s, nil
}

// end returns when nothing of the subscription is left running.
func (s *subscription) end() {
	close(s.done)
	for range s.addresses {
		continue
	}
	for range s.links {
		continue
	}
}
