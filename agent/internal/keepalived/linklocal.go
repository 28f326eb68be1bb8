package keepalived

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkLocalTimeout is how long the kernel gets to find out that nobody else has
// the link-local address of an interface that has come up. As it is set up by
// default this takes it two seconds at most (RFC 4862, 5.4.2).
const linkLocalTimeout = 5 * time.Second

// awaitLinkLocal waits until keepalived can advertise the instances of IPv6: an
// interface that has just come up may not send from its link-local address yet.
// keepalived does not wait. It would hold the VIP in silence, beside a peer that
// does the same.
func (in *intent) awaitLinkLocal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, linkLocalTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for n := range in.instances {
		i := &in.instances[n]
		for i.anchor.Addr().Is6() {
			address, err := tentative(i.iface)
			if err != nil {
				return err
			}
			if address == nil {
				break
			}
			select {
			case <-poll.C:
			case <-ctx.Done():
				return fmt.Errorf("VIP %s: the kernel still looks for another machine with %s's address %s, which "+
					"advertisements are sent from: %w", i.vip, i.iface, address, ctx.Err())
			}
		}
	}
	return nil
}

// tentative is the link-local address of an interface that the kernel looks for
// a duplicate of; nil when there is none, also on an interface without a carrier.
func tentative(name string) (net.IP, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return nil, nil
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		list, err = netlink.AddrList(link, netlink.FAMILY_V6)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	for _, a := range list {
		if a.Scope == unix.RT_SCOPE_LINK && a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_DADFAILED == 0 {
			return a.IP, nil
		}
	}
	return nil, nil
}
