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

// SetRules has this node take the packets that the program marks on these interfaces,
// and on no other ones, as "ip rule add iif NAME fwmark 0x74646d lookup 7627885" with
// "ip route add local default dev lo table 7627885" for both families. No other
// packet is routed otherwise than before, and the addresses answer no ARP. Without
// interfaces it leaves nothing.
//
// A rule without an interface would also match what is not a packet that comes in:
// the way back to its sender, looked up with its mark (src_valid_mark), and the
// answers of its connection (tcp_fwmark_accept).
func SetRules(interfaces []string) error {
	var failed []error
	for _, family := range families {
		if err := setRules(family, interfaces); err != nil && !disabled(family, err) {
			failed = append(failed, fmt.Errorf("rules of marked packets: %w", err))
		}
	}
	return errors.Join(failed...)
}

func setRules(family int, interfaces []string) error {
	if len(interfaces) > 0 {
		if err := netlink.RouteReplace(route(family)); err != nil {
			return err
		}
	}
	there, err := netlink.RuleListFiltered(family, rule(family, ""),
		netlink.RT_FILTER_PRIORITY|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_MARK)
	if err != nil {
		return err
	}
	missing := make(map[string]bool)
	for _, name := range interfaces {
		missing[name] = true
	}
	for _, r := range there {
		if missing[r.IifName] {
			delete(missing, r.IifName)
			continue
		}
		if err := netlink.RuleDel(&r); err != nil && !gone(err) {
			return err
		}
	}
	for name := range missing {
		if err := netlink.RuleAdd(rule(family, name)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if len(interfaces) > 0 {
		return nil
	}
	if err := netlink.RouteDel(route(family)); err != nil && !gone(err) {
		return err
	}
	return nil
}

// gone tells whether an error is one of what is not there.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

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

func rule(family int, name string) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Mark, r.IifName = family, priority, table, Mark, name
	return r
}
