package examine

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/firewall"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxAddresses are told of one interface.
const maxAddresses = 64

// interfaces looks at those of all networks.
func (e *examination) interfaces() {
	for _, network := range slices.Sorted(maps.Keys(e.Networks)) {
		name := e.Networks[network]
		facts := &agentv1.NetworkFacts{Network: network, Interface: name}
		e.found.Networks = append(e.found.Networks, facts)
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			e.fail("interface "+name, err)
			continue
		}
		flags := link.Attrs().RawFlags
		facts.Exists, facts.Up, facts.Carrier = true, flags&unix.IFF_UP != 0, flags&unix.IFF_LOWER_UP != 0
		e.addresses(link, facts)
		facts.ReversePathFilter = max(e.setting("ipv4/conf/all/rp_filter"), e.setting("ipv4/conf/"+name+"/rp_filter"))
		facts.ArpIgnore = max(e.setting("ipv4/conf/all/arp_ignore"), e.setting("ipv4/conf/"+name+"/arp_ignore"))
		facts.Ipv6Disabled = e.setting("ipv6/conf/"+name+"/disable_ipv6") != 0
	}
}

func (e *examination) addresses(link netlink.Link, facts *agentv1.NetworkFacts) {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		list, err = netlink.AddrList(link, netlink.FAMILY_ALL)
	}
	e.fail("addresses of "+facts.GetInterface(), err)
	for _, a := range list[:min(len(list), maxAddresses)] {
		facts.Addresses = append(facts.Addresses, a.IPNet.String())
	}
}

// sysctls is where the kernel tells its settings.
var sysctls = "/proc/sys/net"

// setting reads a number; one that is not there is 0.
func (e *examination) setting(path string) uint32 {
	text, err := os.ReadFile(filepath.Join(sysctls, path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	var value uint64
	if err == nil {
		value, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	}
	e.fail("sysctl net."+strings.ReplaceAll(path, "/", "."), err)
	return uint32(value)
}

// guard is the agent's own table, which lets the nodes through (package
// advertfilter).
const guard = "tandem_vrrp"

// Where advertisements are sent to (RFC 9568, sections 5.1.1.2 and 5.1.2.2).
var (
	routers4 = netip.MustParseAddr("224.0.0.18")
	routers6 = netip.MustParseAddr("ff02::12")
)

// firewalls takes the advertisements of each network through the rules.
func (e *examination) firewalls() {
	rules, err := firewall.Read(guard)
	e.fail("the rules of nftables", err)
	if err != nil {
		return
	}
	legacy, err := firewall.Legacy()
	e.fail("the tables of iptables-legacy", err)
	if len(legacy) > 0 && len(e.vrrp.GetInstances()) > 0 {
		e.fail("the rules of iptables-legacy (tables "+strings.Join(legacy, ", ")+")",
			errors.New("lb-agent cannot read them: see that iptables-legacy -S lets protocol 112 through"))
	}
	for _, i := range e.vrrp.GetInstances() {
		for _, a := range e.advertsOf(i) {
			for _, d := range rules.Drops(a) {
				e.drop(&agentv1.FirewallDrop{
					Network: vrrpNetworkOf(i), Outgoing: a.Outgoing, Ipv6: a.Destination.Is6(), Certain: d.Certain,
					Family: d.Family, Table: d.Table, Base: d.Base, Chain: d.Chain, Handle: d.Handle, Packets: d.Packets, Owner: d.Owner,
				})
			}
		}
	}
}

// drop adds a rule once. Names of tables and chains are any bytes.
func (e *examination) drop(d *agentv1.FirewallDrop) {
	for _, name := range []*string{&d.Table, &d.Base, &d.Chain} {
		*name = strings.ToValidUTF8(*name, "?")
	}
	if !slices.ContainsFunc(e.found.GetDrops(), func(has *agentv1.FirewallDrop) bool { return proto.Equal(has, d) }) {
		e.found.Drops = append(e.found.Drops, d)
	}
}

// advertsOf are the advertisements that there are of an instance: the node's own, and
// those of each other node.
func (e *examination) advertsOf(i *keepalivedv1.Instance) []firewall.Advert {
	anchor, err := netip.ParsePrefix(i.GetAnchor())
	if err != nil {
		return nil // refused before it came here
	}
	network, v6 := vrrpNetworkOf(i), anchor.Addr().Is6()
	a := firewall.Advert{Interface: e.Networks[network]}
	if link, err := netlink.LinkByName(a.Interface); err == nil {
		a.Index = link.Attrs().Index
	}
	if own, err := netip.ParseAddr(i.GetUnicastSource()); err == nil {
		return between(a, own, i.GetSpeakers())
	}
	a.Destination = routers4
	if v6 {
		a.Destination = routers6
	}
	out := a
	out.Outgoing, out.Source = true, e.ownOf(network, v6)
	all := []firewall.Advert{out}
	for _, p := range e.vrrp.GetGlobal().GetPeers() {
		in := a
		in.Source = source(p.GetAddresses(), v6)
		if p.GetNetwork() == network {
			all = append(all, in)
		}
	}
	if len(all) == 1 {
		all = append(all, a) // of whoever may come
	}
	return all
}

// between are those of an instance that is advertised by unicast, to each other node and
// from it.
func between(a firewall.Advert, own netip.Addr, speakers []*keepalivedv1.Speaker) []firewall.Advert {
	var all []firewall.Advert
	for _, s := range speakers {
		for _, text := range s.GetAddresses() {
			peer, err := netip.ParseAddr(text)
			if err != nil || peer == own || peer.Is6() != own.Is6() {
				continue
			}
			out, in := a, a
			out.Outgoing, out.Source, out.Destination = true, own, peer
			in.Source, in.Destination = peer, own
			all = append(all, out, in)
		}
	}
	return all
}

// ownOf is the address that the node's own advertisements come from; zero: not known.
func (e *examination) ownOf(network string, v6 bool) netip.Addr {
	virtual := make(map[netip.Addr]bool)
	for _, i := range e.vrrp.GetInstances() {
		for _, text := range append([]string{i.GetAnchor()}, i.GetAddresses()...) {
			if p, err := netip.ParsePrefix(text); err == nil {
				virtual[p.Addr()] = true
			}
		}
	}
	var own []string
	for _, facts := range e.found.GetNetworks() {
		for _, text := range facts.GetAddresses() {
			if p, err := netip.ParsePrefix(text); err == nil && facts.GetNetwork() == network && !virtual[p.Addr()] {
				own = append(own, p.Addr().String())
			}
		}
	}
	return source(own, v6)
}

// source is the first address that advertisements of a family may come from (RFC
// 9568, sections 5.1.1.1 and 5.1.2.1).
func source(addresses []string, v6 bool) netip.Addr {
	for _, text := range addresses {
		if a, err := netip.ParseAddr(text); err == nil && a.Is6() == v6 && (!v6 || a.IsLinkLocalUnicast()) {
			return a
		}
	}
	return netip.Addr{}
}
