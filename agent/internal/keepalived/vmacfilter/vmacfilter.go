// Package vmacfilter keeps from the devices that carry virtual MAC addresses what they would
// act upon, and must not. They have the same link-layer address on every node, and what one
// sends has a switch look for it there.
//
//   - The announcements of a new holder are questions of ARP, which the previous one would
//     answer from that very address for as long as it has the VIP's.
//   - On one of IPv6 the kernel answers questions of ARP for each address of IPv4 that the
//     machine has on whatever interface (ip-sysctl.rst, arp_ignore).
//   - An advertisement of a router gives one of IPv6 an address and a route.
//
// It has tables of nftables of its own. They know the devices by name, before they are
// there, work without this program, and touch no other table.
package vmacfilter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// TableName is that of the tables, of the families arp and ip6.
const TableName = "tandem_vmac"

// Device is one with a virtual MAC address.
type Device struct {
	Name string
	MAC  link.MAC
	IPv6 bool
}

// filter is one table.
type filter struct {
	family nftables.TableFamily
	name   string // of the family
	hook   nftables.ChainHook
	// what is dropped of what comes in by a device; false: nothing.
	what func(Device) ([]expr.Any, bool)
}

const (
	chainName = "input"

	arpIn               = 0   // NF_ARP_IN (include/uapi/linux/netfilter_arp.h)
	arpSender           = 8   // offset of the sender's link-layer address (RFC 826)
	routerAdvertisement = 134 // the type of ICMPv6 (RFC 4861, section 4.2)
)

var filters = []filter{
	{family: nftables.TableFamilyARP, name: "arp", hook: arpIn, what: func(d Device) ([]expr.Any, bool) {
		if d.IPv6 {
			return nil, true
		}
		return []expr.Any{
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: arpSender, Len: uint32(len(d.MAC)), DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: d.MAC[:]},
		}, true
	}},
	{family: nftables.TableFamilyIPv6, name: "ip6", hook: unix.NF_INET_LOCAL_IN, what: func(d Device) ([]expr.Any, bool) {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
			&expr.Payload{Base: expr.PayloadBaseTransportHeader, Len: 1, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{routerAdvertisement}},
		}, d.IPv6
	}},
}

// Set is for these devices, and for no other ones; without any it leaves nothing. Nothing is
// done when nothing changes.
func Set(devices []Device) error {
	devices = slices.SortedFunc(slices.Values(devices), func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	devices = slices.Compact(devices)
	var failed []error
	for _, f := range filters {
		if err := f.set(devices); err != nil {
			failed = append(failed, fmt.Errorf("nftables: table %s %s: %w", f.name, TableName, err))
		}
	}
	return errors.Join(failed...)
}

func (f *filter) set(devices []Device) error {
	devices = slices.DeleteFunc(slices.Clone(devices), func(d Device) bool {
		_, drops := f.what(d)
		return !drops
	})
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table, err := c.ListTableOfFamily(TableName, f.family)
	if errors.Is(err, unix.ENOENT) || len(devices) == 0 && unsupported(err) {
		table, err = nil, nil
	}
	switch {
	case err != nil:
		return err
	case table == nil && len(devices) == 0:
		return nil
	case len(devices) == 0:
		c.DelTable(table)
	case table != nil && slices.EqualFunc(devices, read(c, table), func(d Device, name string) bool { return d.Name == name }):
		return nil
	default:
		f.write(c, devices)
	}
	return c.Flush()
}

// unsupported tells of a kernel without nftables, which has no table.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// write queues what makes the table anew.
func (f *filter) write(c *nftables.Conn, devices []Device) {
	table := &nftables.Table{Name: TableName, Family: f.family}
	c.AddTable(table) // what is not there cannot be removed
	c.DelTable(table)
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: chainName, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookRef(f.hook), Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	for _, d := range devices {
		name := make([]byte, nftables.TypeIFName.Bytes) // as the kernel compares it
		copy(name, d.Name)
		what, _ := f.what(d)
		c.AddRule(&nftables.Rule{
			Table: table, Chain: chain, UserData: userdata.AppendString(nil, userdata.TypeComment, d.Name),
			Exprs: slices.Concat([]expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
			}, what, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}),
		})
	}
}

// read returns the devices of a table, in its order; none where somebody has taken it apart.
func read(c *nftables.Conn, table *nftables.Table) (devices []string) {
	drops, err := c.GetRules(table, &nftables.Chain{Name: chainName, Table: table})
	if err != nil {
		return nil
	}
	for _, r := range drops {
		name, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		devices = append(devices, name)
	}
	return devices
}
