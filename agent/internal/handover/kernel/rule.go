package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// families of addresses.
var families = []int{unix.AF_INET, unix.AF_INET6}

// AddRules has this node take the packets that the program marks, as
// "ip rule add fwmark 0x74646d lookup 7627885" with
// "ip route add local default dev lo table 7627885" for both families. No other
// packet is routed otherwise than before, and the addresses answer no ARP.
func AddRules() error {
	var failed []error
	for _, family := range families {
		if err := netlink.RouteReplace(route(family)); err != nil && !disabled(family, err) {
			failed = append(failed, fmt.Errorf("route of marked packets: %w", err))
			continue
		}
		if err := netlink.RuleAdd(rule(family)); err != nil && !errors.Is(err, unix.EEXIST) && !disabled(family, err) {
			failed = append(failed, fmt.Errorf("rule of marked packets: %w", err))
		}
	}
	return errors.Join(failed...)
}

// RemoveRules undoes AddRules.
func RemoveRules() error {
	gone := func(err error) bool {
		return err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	var failed []error
	for _, family := range families {
		if err := netlink.RuleDel(rule(family)); !gone(err) && !disabled(family, err) {
			failed = append(failed, fmt.Errorf("rule of marked packets: %w", err))
		}
		if err := netlink.RouteDel(route(family)); !gone(err) && !disabled(family, err) {
			failed = append(failed, fmt.Errorf("route of marked packets: %w", err))
		}
	}
	return errors.Join(failed...)
}

// disabled tells whether an error is one of a machine without IPv6.
func disabled(family int, err error) bool {
	return family == unix.AF_INET6 &&
		(errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL))
}

func route(family int) *netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		Family: family, Dst: all, LinkIndex: loopback, Table: table,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	}
}

// loopback is the index of that interface in every network namespace.
const loopback = 1

func rule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Mark = family, priority, table, Mark
	return r
}
