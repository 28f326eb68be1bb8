package keepalived

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// Announcements are repeated: one may get lost, and a switch learns from them, too.
const (
	announcements = 3
	announceEvery = 50 * time.Millisecond
)

// Announce has everybody on the network know that this node has a VIP's addresses,
// those that it has. It takes 0.1 s. It fails with ErrNotHeld when this node has none, or
// has lost them meanwhile, and when nothing could be sent.
func (d *Driver) Announce(ctx context.Context, vip string) error {
	var all []netip.Addr
	if err := d.do(ctx, func(o *observer) {
		for n := range o.watched {
			if w := &o.watched[n]; w.vip == vip {
				for _, p := range w.addresses() {
					all = append(all, p.Addr())
				}
			}
		}
	}); err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("VIP %s: %w", vip, ErrNoVIP)
	}
	var lost error // of all that were sent until now
	sent := false
	for n := range announcements {
		if n > 0 {
			select {
			case <-time.After(announceEvery):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		// It may have lost them since the last one, and would draw clients from who has
		// them now.
		held, err := interfacesOf(all)
		if err != nil {
			return err
		}
		if len(held) == 0 {
			return fmt.Errorf("VIP %s: %w", vip, ErrNotHeld)
		}
		switch err := announce(held); {
		case err == nil:
			lost, sent = nil, true
		case !link.Lost(err):
			return fmt.Errorf("VIP %s: %w", vip, err)
		case !sent:
			lost = fmt.Errorf("VIP %s: %w", vip, err)
		}
	}
	return lost
}

// announce announces addresses on their interfaces.
func announce(held map[int][]netip.Addr) error {
	for index, addresses := range held {
		on, err := net.InterfaceByIndex(index)
		if err == nil {
			err = link.Announce(on, addresses)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// interfacesOf finds the addresses in the kernel, by the index of their interface.
func interfacesOf(all []netip.Addr) (map[int][]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		list, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of the kernel: %w", err)
	}
	held := make(map[int][]netip.Addr)
	for _, have := range list {
		for _, a := range all {
			if have.LinkIndex != loopback && have.IP.Equal(a.AsSlice()) {
				held[have.LinkIndex] = append(held[have.LinkIndex], a)
			}
		}
	}
	return held, nil
}
