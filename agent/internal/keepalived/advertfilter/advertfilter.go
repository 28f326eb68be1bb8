// Package advertfilter keeps VRRP advertisements of strangers away from
// keepalived: VRRPv3 has no authentication (RFC 9568, section 9), so that any
// machine on the network takes a VIP with one packet. It is a table of nftables
// of its own, which works without this program, and touches no other table.
package advertfilter

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is that of the table, of the family inet.
const TableName = "tandem_vrrp"

// Filter is what is let through on which interfaces; the zero value filters
// nothing.
type Filter struct {
	// Interfaces4 and Interfaces6 take advertisements of that family from Sources
	// alone. They are sorted.
	Interfaces4, Interfaces6 []string
	// Sources without zone, sorted.
	Sources []netip.Addr
}

// maxSources bounds what is left of former peers.
const maxSources = 512

// Set puts the filter in place of the one that is there, in one step. Sources
// that are let through already stay so until the table goes: an advertisement
// that is dropped by mistake makes two holders, and a peer may use an address for
// a while after it has told of another one. Nothing is done when nothing changes.
// After an error there is no filter: an older one would take a peer's newer address for
// a stranger's. Where that could not be removed either the error is ErrStale.
func Set(f Filter) error {
	err := renew(f)
	if err == nil {
		return nil
	}
	if failed := Remove(); failed != nil {
		return fmt.Errorf("%w: %w", ErrStale, errors.Join(err, failed))
	}
	return err
}

// ErrStale means that an older filter is there.
var ErrStale = errors.New("an older filter stays")

func renew(f Filter) error {
	if len(f.Interfaces4)+len(f.Interfaces6) == 0 {
		return Remove()
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	have, whole, err := read(c)
	if err != nil {
		return fmt.Errorf("nftables: read table inet %s: %w", TableName, err)
	}
	if all := union(have.Sources, f.Sources); len(all) <= maxSources {
		f.Sources = all
	}
	if whole && have.equal(f) {
		return nil
	}
	write(c, f)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table inet %s: %w", TableName, err)
	}
	return nil
}

// Remove removes the table, if it is there.
func Remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if missing(err) {
		return nil
	}
	if err == nil {
		c.DelTable(table)
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("nftables: remove table inet %s: %w", TableName, err)
	}
	return nil
}

// missing tells of no such table. A kernel without nftables has none.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

func (f Filter) equal(g Filter) bool {
	return slices.Equal(f.Interfaces4, g.Interfaces4) && slices.Equal(f.Interfaces6, g.Interfaces6) && slices.Equal(f.Sources, g.Sources)
}

func union(a, b []netip.Addr) []netip.Addr {
	all := slices.Concat(a, b)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// sets of one family.
type sets struct {
	protocol   byte // as nfproto
	offset     uint32
	key        nftables.SetDatatype
	interfaces string
	sources    string
}

// The source's place is in RFC 791, section 3.1, and RFC 8200, section 3.
var families = []sets{
	{unix.NFPROTO_IPV4, 12, nftables.TypeIPAddr, "interfaces4", "sources4"},
	{unix.NFPROTO_IPV6, 8, nftables.TypeIP6Addr, "interfaces6", "sources6"},
}

// of returns what the filter says of a family.
func (f Filter) of(s sets) (interfaces []string, sources []netip.Addr) {
	interfaces = f.Interfaces4
	if s.protocol == unix.NFPROTO_IPV6 {
		interfaces = f.Interfaces6
	}
	for _, a := range f.Sources {
		if a.Is6() == (s.protocol == unix.NFPROTO_IPV6) {
			sources = append(sources, a)
		}
	}
	return interfaces, sources
}

const (
	protocolVRRP = 112
	protocolAH   = 51
)

// write queues what makes the table anew.
func write(c *nftables.Conn, f Filter) {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	c.AddTable(table) // what is not there cannot be removed
	c.DelTable(table)
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	for _, family := range families {
		interfaces, sources := f.of(family)
		names := &nftables.Set{Table: table, Name: family.interfaces, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
		let := &nftables.Set{Table: table, Name: family.sources, KeyType: family.key}
		var elements []nftables.SetElement
		for _, name := range interfaces {
			elements = append(elements, nftables.SetElement{Key: ifname(name)})
		}
		// The errors are of sets with intervals or timeouts.
		_ = c.AddSet(names, elements)
		elements = nil
		for _, a := range sources {
			elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
		}
		_ = c.AddSet(let, elements)
		// VRRPv2 may be inside an authentication header (RFC 2338, section 5.3.6.3);
		// other users of that are left alone.
		for _, carried := range [][]expr.Any{
			equals(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, protocolVRRP),
			append(equals(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, protocolAH),
				equals(&expr.Payload{Base: expr.PayloadBaseTransportHeader, Len: 1, DestRegister: 1}, protocolVRRP)...),
		} {
			drop := append(equals(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, family.protocol), carried...)
			drop = append(drop,
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: names.Name, SetID: names.ID},
				&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: family.offset, Len: family.key.Bytes, DestRegister: 1},
				&expr.Lookup{SourceRegister: 1, SetName: let.Name, SetID: let.ID, Invert: true},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictDrop},
			)
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: drop})
		}
	}
}

// rules of a whole table: two for each family.
const rules = 4

// equals matches one byte.
func equals(load expr.Any, value byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}}}
}

// ifname is a name as the kernel compares it: 16 bytes.
func ifname(name string) []byte {
	key := make([]byte, nftables.TypeIFName.Bytes)
	copy(key, name)
	return key
}

// read returns what the table says; whole: all of it is there.
func read(c *nftables.Conn) (f Filter, whole bool, err error) {
	table, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return f, false, nil
	}
	if err != nil {
		return f, false, err
	}
	drops, err := c.GetRules(table, &nftables.Chain{Name: "input", Table: table})
	if err != nil || len(drops) != rules {
		return f, false, nil //nolint:nilerr // somebody has taken it apart
	}
	for _, family := range families {
		names, err := c.GetSetElements(&nftables.Set{Table: table, Name: family.interfaces})
		if err != nil {
			return Filter{}, false, nil //nolint:nilerr // likewise
		}
		let, err := c.GetSetElements(&nftables.Set{Table: table, Name: family.sources})
		if err != nil {
			return Filter{}, false, nil //nolint:nilerr // likewise
		}
		to := &f.Interfaces4
		if family.protocol == unix.NFPROTO_IPV6 {
			to = &f.Interfaces6
		}
		for _, e := range names {
			name, _, _ := bytes.Cut(e.Key, []byte{0})
			*to = append(*to, string(name))
		}
		slices.Sort(*to)
		for _, e := range let {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				f.Sources = append(f.Sources, a)
			}
		}
	}
	f.Sources = union(f.Sources, nil)
	return f, true, nil
}
