package keepalived

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/advertfilter"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// peer is another node's addresses, by the interface of this node that is on their
// network; none when they are not known.
type peer map[string][]netip.Addr

// resolvePeers gives the networks of the peers their interfaces. Networks that
// this node is not on are left out.
func resolvePeers(all []*keepalivedv1.Peer, networks map[string]string) (map[string]peer, error) {
	peers := make(map[string]peer)
	for n, p := range all {
		if peers[p.GetNode()] == nil {
			peers[p.GetNode()] = make(peer)
		}
		name, ok := networks[p.GetNetwork()]
		if !ok {
			continue
		}
		for _, text := range p.GetAddresses() {
			a, err := netip.ParseAddr(text)
			if err != nil || a.Zone() != "" || a.Is4In6() {
				return nil, fmt.Errorf("global.peers[%d] has the address %q: must be an IP address without zone", n, text)
			}
			peers[p.GetNode()][name] = append(peers[p.GetNode()][name], a)
		}
	}
	return peers, nil
}

// speaks tells whether an address of the node is known from which its
// advertisements may come (RFC 9568, sections 5.1.1.1 and 5.1.2.1).
func (p peer) speaks(iface string, v6 bool) bool {
	return slices.ContainsFunc(p[iface], func(a netip.Addr) bool {
		return !v6 && a.Is4() || v6 && a.IsLinkLocalUnicast() && a.Is6()
	})
}

// filter says whose advertisements are let through. An interface is left open
// while it is not known for every other node where its advertisements come from:
// one that is dropped by mistake makes two holders.
func (in *intent) filter() advertfilter.Filter {
	var f advertfilter.Filter
	sources := make(map[netip.Addr]bool)
	for n := range in.instances {
		i := &in.instances[n]
		v6 := i.anchor.Addr().Is6()
		closed := len(in.peers) > 0
		for _, p := range in.peers {
			closed = closed && p.speaks(i.over, v6)
			for _, a := range p[i.over] {
				sources[a] = true
			}
		}
		// A holder that has lost its own address speaks from the VIP's.
		for _, a := range i.addresses() {
			sources[a.Addr()] = true
		}
		switch {
		case closed && v6:
			f.Interfaces6 = append(f.Interfaces6, i.over)
		case closed:
			f.Interfaces4 = append(f.Interfaces4, i.over)
		}
	}
	for _, names := range []*[]string{&f.Interfaces4, &f.Interfaces6} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	f.Sources = slices.SortedFunc(maps.Keys(sources), netip.Addr.Compare)
	return f
}

// guard keeps advertisements of strangers away while this node is to hold VIPs. A
// node that has withdrawn hears everybody: it is nobody's peer. What the kernel
// cannot do is told.
func (d *Driver) guard(ctx context.Context, in *intent) error {
	f := in.filter()
	withdrawn, err := marked(d.paths.withdrawn)
	if withdrawn {
		f = advertfilter.Filter{}
	}
	err = errors.Join(err, advertfilter.Set(f))
	return d.do(ctx, func(o *observer) { o.unguard(err) })
}

// unguard notes why advertisements of strangers are let through; nil: they are
// not, as far as anyone can tell who a stranger is.
func (o *observer) unguard(err error) {
	text := ""
	switch {
	case errors.Is(err, advertfilter.ErrStale):
		text = fmt.Sprintf("VRRP advertisements are let through as an earlier configuration said, and a peer's newer address is a stranger's: %v: "+
			"\"nft delete table inet %s\", or see what keeps the agent from it", err, advertfilter.TableName)
	case err != nil:
		text = fmt.Sprintf("VRRP advertisements of strangers are not dropped, so that any machine on the network may take the VIPs: %v: "+
			"see that the kernel has nf_tables (modprobe nf_tables), and the agent CAP_NET_ADMIN", err)
	}
	if text != "" && text != o.unguarded {
		o.log.Warn("cannot drop VRRP advertisements of strangers", "error", err)
	}
	o.unguarded = text
}
