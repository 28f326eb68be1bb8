// Package vmacfilter keeps from the devices that carry virtual MAC addresses what they would
// act upon or say, and must not. They have the same link-layer address on every node, and
// what one sends has a switch look for it there.
//
//   - The announcements of a new holder are questions of ARP, which the previous one would
//     answer from that very address for as long as it has the VIP's.
//   - On one of IPv6 the kernel answers questions of ARP for each address of IPv4 that the
//     machine has on whatever interface (ip-sysctl.rst, arp_ignore).
//   - An advertisement of a router gives one of IPv6 an address and a route.
//   - A kernel that forwards sends what is for a VIP on to the holder, where a switch that
//     does not know where the virtual address is sends it to all nodes; with three of them
//     each packet goes round until it has no hops left.
//   - One of IPv6 reports the groups that it is in (MLD): that it has left that of the
//     VIP's address, just when another node has taken it, and with forwarding, at each
//     question of a switch, that it is a router. Only who has an address reports its group,
//     which switches that look for members (RFC 4541) need for their questions to get there.
//
// It has tables of nftables of its own. They know the devices by name, before they are
// there, work without this program, and touch no other table.
package vmacfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// TableName is that of the tables, of the families arp, ip and ip6.
const TableName = "tandem_vmac"

// Device is one with a virtual MAC address.
type Device struct {
	Name string
	MAC  link.MAC
	IPv6 bool
	// Addresses that are on it where the VIP is held.
	Addresses []netip.Addr
}

// filter is one table.
type filter struct {
	family nftables.TableFamily
	name   string // of the family
	chains []chain
}

// chain drops what comes in, or goes out, by a device.
type chain struct {
	name  string
	hook  nftables.ChainHook
	by    expr.MetaKey // what tells the device
	rules func(Device) []rule
}

// rule drops what it matches.
type rule struct {
	why   string // its comment, by which it is known again
	match []expr.Any
}

const (
	arpIn               = 0   // NF_ARP_IN (include/uapi/linux/netfilter_arp.h)
	arpSender           = 8   // offset of the sender's link-layer address (RFC 826)
	destination4        = 16  // offset of the destination (RFC 791, section 3.1)
	destination6        = 24  // and by IPv6 (RFC 8200, section 3)
	routerAdvertisement = 134 // the type of ICMPv6 (RFC 4861, section 4.2)

	report1   = 131 // the types of MLD's reports (RFC 2710, section 3.1; RFC 3810, section 5.2)
	done1     = 132
	report2   = 143
	group1    = 8  // offset of the group
	record2   = 8  // offset of the type of the first record
	group2    = 12 // and of its group
	toInclude = 3  // the types of records that leave a group (RFC 3810, section 5.2.12)
	block     = 6
)

// solicited begins all groups in which an address is asked for (RFC 4291, section 2.7.1).
var solicited = []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}

var filters = []filter{
	{nftables.TableFamilyARP, "arp", []chain{{"input", arpIn, expr.MetaKeyIIFNAME, questions}}},
	{nftables.TableFamilyIPv4, "ip", []chain{{"forward", unix.NF_INET_FORWARD, expr.MetaKeyIIFNAME, func(d Device) []rule {
		return forwarded(d, false, destination4)
	}}}},
	{nftables.TableFamilyIPv6, "ip6", []chain{
		{"input", unix.NF_INET_LOCAL_IN, expr.MetaKeyIIFNAME, advertisements},
		{"forward", unix.NF_INET_FORWARD, expr.MetaKeyIIFNAME, func(d Device) []rule { return forwarded(d, true, destination6) }},
		{"output", unix.NF_INET_LOCAL_OUT, expr.MetaKeyOIFNAME, reports},
	}},
}

func questions(d Device) []rule {
	if d.IPv6 {
		return []rule{{why: "ARP"}}
	}
	return []rule{{"ARP of its own address", payload(expr.PayloadBaseNetworkHeader, arpSender, expr.CmpOpEq, d.MAC[:]...)}}
}

func advertisements(d Device) []rule {
	if !d.IPv6 {
		return nil
	}
	return []rule{{"routers", icmp(routerAdvertisement)}}
}

func forwarded(d Device, v6 bool, offset uint32) (all []rule) {
	for _, a := range d.Addresses {
		if a.Is6() == v6 {
			all = append(all, rule{"forwarded to " + a.String(), payload(expr.PayloadBaseNetworkHeader, offset, expr.CmpOpEq, a.AsSlice()...)})
		}
	}
	return all
}

func reports(d Device) []rule {
	if !d.IPv6 {
		return nil
	}
	of := func(kind byte, offset uint32, op expr.CmpOp, value ...byte) []expr.Any {
		return slices.Concat(icmp(kind), payload(expr.PayloadBaseTransportHeader, offset, op, value...))
	}
	return []rule{
		{"MLD of what no address needs", of(report1, group1, expr.CmpOpNeq, solicited...)},
		{"MLD done", icmp(done1)},
		{"MLDv2 of what no address needs", of(report2, group2, expr.CmpOpNeq, solicited...)},
		{"MLDv2 to include", of(report2, record2, expr.CmpOpEq, toInclude)},
		{"MLDv2 block", of(report2, record2, expr.CmpOpEq, block)},
	}
}

func icmp(kind byte) []expr.Any {
	return append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
	}, payload(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, kind)...)
}

func payload(base expr.PayloadBase, offset uint32, op expr.CmpOp, value ...byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: base, Offset: offset, Len: uint32(len(value)), DestRegister: 1},
		&expr.Cmp{Op: op, Register: 1, Data: value},
	}
}

// Set is for these devices, and for no other ones; without any it leaves nothing. Nothing is
// done when nothing changes.
func Set(devices []Device) error {
	devices = slices.SortedFunc(slices.Values(devices), func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	var failed []error
	for _, f := range filters {
		if err := f.set(devices); err != nil {
			failed = append(failed, fmt.Errorf("nftables: table %s %s: %w", f.name, TableName, err))
		}
	}
	return errors.Join(failed...)
}

func (f *filter) set(devices []Device) error {
	want := f.comments(devices)
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table, err := c.ListTableOfFamily(TableName, f.family)
	if errors.Is(err, unix.ENOENT) || len(want) == 0 && unsupported(err) {
		table, err = nil, nil
	}
	switch {
	case err != nil:
		return err
	case table == nil && len(want) == 0:
		return nil
	case len(want) == 0:
		c.DelTable(table)
	case table != nil && slices.Equal(want, f.read(c, table)):
		return nil
	default:
		f.write(c, devices)
	}
	return c.Flush()
}

// comments are those of all rules, in order.
func (f *filter) comments(devices []Device) (all []string) {
	for _, chain := range f.chains {
		for _, d := range devices {
			for _, r := range chain.rules(d) {
				all = append(all, r.comment(d))
			}
		}
	}
	return all
}

func (r *rule) comment(d Device) string { return d.Name + ": " + r.why }

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
	for _, chain := range f.chains {
		to := c.AddChain(&nftables.Chain{
			Name: chain.name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookRef(chain.hook), Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		for _, d := range devices {
			name := make([]byte, nftables.TypeIFName.Bytes) // as the kernel compares it
			copy(name, d.Name)
			for _, r := range chain.rules(d) {
				c.AddRule(&nftables.Rule{
					Table: table, Chain: to, UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment(d)),
					Exprs: slices.Concat([]expr.Any{
						&expr.Meta{Key: chain.by, Register: 1},
						&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
					}, r.match, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}),
				})
			}
		}
	}
}

// read returns the comments of a table's rules, in its order; none where somebody has taken
// it apart.
func (f *filter) read(c *nftables.Conn, table *nftables.Table) (comments []string) {
	for _, chain := range f.chains {
		drops, err := c.GetRules(table, &nftables.Chain{Name: chain.name, Table: table})
		if err != nil {
			return nil
		}
		for _, r := range drops {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			comments = append(comments, comment)
		}
	}
	return comments
}
