// Package vmacfilter keeps from the devices that carry virtual MAC addresses of IPv6 what
// they are not there for, and would act upon: questions of ARP, which the kernel answers
// for each address of IPv4 that the machine has on whatever interface hears them
// (ip-sysctl.rst, arp_ignore), and advertisements of routers, by
// which the device gets an address and a route. It has tables of nftables of its own. They
// know the devices by name, before they are there, work without this program, and touch no
// other table.
package vmacfilter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is that of the tables, of the families arp and ip6.
const TableName = "tandem_vmac"

// filter is one table.
type filter struct {
	family nftables.TableFamily
	name   string // of the family
	hook   nftables.ChainHook
	what   []expr.Any // is dropped; none: all
}

const (
	arpIn               = 0   // NF_ARP_IN (include/uapi/linux/netfilter_arp.h)
	routerAdvertisement = 134 // the type of ICMPv6 (RFC 4861, section 4.2)

	chainName, setName = "input", "devices"
)

var filters = []filter{
	{family: nftables.TableFamilyARP, name: "arp", hook: arpIn},
	{family: nftables.TableFamilyIPv6, name: "ip6", hook: unix.NF_INET_LOCAL_IN, what: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Len: 1, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{routerAdvertisement}},
	}},
}

// Set is for these devices, and for no other ones; without any it leaves nothing. Nothing is
// done when nothing changes.
func Set(devices []string) error {
	devices = slices.Compact(slices.Sorted(slices.Values(devices)))
	var failed []error
	for _, f := range filters {
		if err := f.set(devices); err != nil {
			failed = append(failed, fmt.Errorf("nftables: table %s %s: %w", f.name, TableName, err))
		}
	}
	return errors.Join(failed...)
}

func (f *filter) set(devices []string) error {
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
	case table != nil && slices.Equal(read(c, table), devices):
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
func (f *filter) write(c *nftables.Conn, devices []string) {
	table := &nftables.Table{Name: TableName, Family: f.family}
	c.AddTable(table) // what is not there cannot be removed
	c.DelTable(table)
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: chainName, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookRef(f.hook), Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	names := &nftables.Set{Table: table, Name: setName, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var elements []nftables.SetElement
	for _, name := range devices {
		key := make([]byte, nftables.TypeIFName.Bytes)
		copy(key, name)
		elements = append(elements, nftables.SetElement{Key: key})
	}
	_ = c.AddSet(names, elements) // the errors are of sets with intervals or timeouts
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: names.Name, SetID: names.ID},
	}, f.what, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})})
}

// read returns the devices of a table, sorted; none where somebody has taken it apart.
func read(c *nftables.Conn, table *nftables.Table) (devices []string) {
	drops, err := c.GetRules(table, &nftables.Chain{Name: chainName, Table: table})
	if err != nil || len(drops) != 1 {
		return nil
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: table, Name: setName})
	if err != nil {
		return nil
	}
	for _, e := range elements {
		name, _, _ := bytes.Cut(e.Key, []byte{0})
		devices = append(devices, string(name))
	}
	slices.Sort(devices)
	return devices
}
