package keepalived

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
			address, err := tentative(i.over)
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
					"advertisements are sent from: %w", i.vip, i.over, address, ctx.Err())
			}
		}
	}
	return nil
}

// untilUsable waits until keepalived can advertise its instances of IPv6, from the
// interfaces that config, a file of this driver, names: at boot the kernel has
// just begun to look for a duplicate of a link-local address, or has yet to make
// one. The error says what is not usable; an interface for which waiting does not
// help holds back no other.
func untilUsable(ctx context.Context, config []byte) error {
	ctx, cancel := context.WithTimeout(ctx, linkLocalTimeout)
	defer cancel()
	var silent []error
	for _, name := range advertising6(config) {
		silent = append(silent, untilOneIsUsable(ctx, name))
	}
	return errors.Join(silent...)
}

func untilOneIsUsable(ctx context.Context, name string) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		usable, err := usable(name)
		if err != nil || usable {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("interface %s has no usable link-local address, which advertisements are sent from, after %v", name, linkLocalTimeout)
		}
	}
}

// usable tells whether adverts can be sent over an interface, or waiting does not
// help: it has no carrier, or another machine has its address. The error says why
// waiting does not help either.
func usable(name string) (bool, error) {
	running, list, err := linkLocal(name)
	if err != nil || !running {
		return true, err
	}
	if len(list) == 0 && !hasIPv6(name) {
		return false, fmt.Errorf("interface %s has no link-local address, which advertisements are sent from: "+
			"IPv6 is off there (sysctl net.ipv6.conf.%s.disable_ipv6)", name, name)
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool {
		return a.Flags&unix.IFA_F_TENTATIVE == 0 || a.Flags&unix.IFA_F_DADFAILED != 0
	}), nil
}

// hasIPv6 tells whether an interface can have addresses of IPv6 (ip-sysctl.rst,
// disable_ipv6). A kernel without IPv6 has no such file.
func hasIPv6(name string) bool {
	off, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"))
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

// tentative is the link-local address of an interface that the kernel looks for
// a duplicate of; nil when there is none, also on an interface without a carrier.
func tentative(name string) (net.IP, error) {
	_, list, err := linkLocal(name)
	for _, a := range list {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_DADFAILED == 0 {
			return a.IP, nil
		}
	}
	return nil, err
}

// linkLocal returns the link-local addresses of an interface, none when it has no
// carrier.
func linkLocal(name string) (running bool, list []netlink.Addr, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return false, nil, nil
	}
	list, err = netlink.AddrList(link, netlink.FAMILY_V6)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		list, err = netlink.AddrList(link, netlink.FAMILY_V6)
	}
	if err != nil {
		return false, nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	return true, slices.DeleteFunc(list, func(a netlink.Addr) bool { return a.Scope != unix.RT_SCOPE_LINK }), nil
}
