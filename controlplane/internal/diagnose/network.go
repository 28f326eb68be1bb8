package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// networks judges a node's interfaces: those that the VIPs are on, and those that they
// are advertised over.
func (j *judgement) networks(n *Node) {
	ill := make(map[string]*finding) // by network; nil: it is well
	lacks := func(network string, v *tandemv1.Vip) bool {
		f, known := ill[network]
		if !known {
			f = j.network(n, network)
			ill[network] = f
		}
		if f != nil {
			j.stopsPair(f, v, n)
		}
		return f != nil
	}
	for _, v := range j.vips {
		if !lacks(state.EffectiveNetwork(v), v) {
			j.clients(n, v)
		}
		if !lacks(state.EffectiveVrrpNetwork(v), v) {
			j.speaks(n, v)
		}
	}
}

// network judges whether a node can speak on a network at all; nil: it can.
func (j *judgement) network(n *Node, network string) *finding {
	facts := n.network(network)
	name := facts.GetInterface()
	switch {
	case facts == nil:
		return j.on(n, interfaces, "NETWORK_UNMAPPED", fmt.Sprintf("%s has no interface for network %q", n.ID, network),
			"networks of its agent.yaml: "+strings.Join(n.known(), ", "),
			fmt.Sprintf("on %s: add \"networks: {%s: INTERFACE}\" to /etc/tandem/agent.yaml and systemctl restart lb-agent", n.ID, network))
	case !facts.GetExists():
		return j.on(n, interfaces, "INTERFACE_MISSING", fmt.Sprintf("%s has no interface %s, which network %q is mapped to", n.ID, name, network),
			"the kernel knows none of that name",
			fmt.Sprintf("on %s: create it (ip link lists those that there are) and systemctl restart keepalived, or map the network to another one in /etc/tandem/agent.yaml", n.ID))
	case !facts.GetUp():
		return j.on(n, interfaces, "INTERFACE_DOWN", fmt.Sprintf("interface %s of %s is down", name, n.ID), "the kernel's flags: no UP",
			fmt.Sprintf("on %s: %s", n.ID, command("ip link set %s up", name)))
	case !facts.GetCarrier():
		return j.on(n, interfaces, "NO_CARRIER", fmt.Sprintf("interface %s of %s has no carrier", name, n.ID), "the kernel's flags: no LOWER_UP",
			fmt.Sprintf("see the cable and the switch's port; on %s: %s", n.ID, command("ethtool %s", name)))
	}
	return nil
}

// network is what an agent has found of one; nil: it has none such.
func (n *Node) network(name string) *agentv1.NetworkFacts {
	for _, f := range n.Diagnosis.GetNetworks() {
		if f.GetNetwork() == name {
			return f
		}
	}
	return nil
}

// known are the networks that a node has.
func (n *Node) known() []string {
	all := []string{}
	for _, f := range n.Diagnosis.GetNetworks() {
		all = append(all, f.GetNetwork()+": "+f.GetInterface())
	}
	if len(all) == 0 {
		all = append(all, "none")
	}
	return all
}

// clients judges whether clients on a VIP's network would find it on a node.
func (j *judgement) clients(n *Node, v *tandemv1.Vip) {
	facts := n.network(state.EffectiveNetwork(v))
	name, vip := facts.GetInterface(), id(v.GetName())
	virtual := prefixes(v.GetAddresses())
	if slices.ContainsFunc(virtual, isFamily(true)) && facts.GetIpv6Disabled() {
		j.stopsPair(j.on(n, interfaces, "IPV6_DISABLED", fmt.Sprintf("interface %s of %s takes no IPv6, which VIP %s needs", name, n.ID, vip),
			fmt.Sprintf("net.ipv6.conf.%s.disable_ipv6 is 1", name), fmt.Sprintf("on %s: %s", n.ID, command("sysctl -w net.ipv6.conf.%s.disable_ipv6=0", name))), v, n)
	}
	if p := strange(virtual, j.own(facts)); p.IsValid() {
		j.on(n, interfaces, "VIP_OUTSIDE_SUBNET", fmt.Sprintf("%s of VIP %s is in no subnet that interface %s of %s has: only hosts that are told the way to it reach it there", p, vip, name, n.ID),
			"its addresses: "+list(facts.GetAddresses()), fmt.Sprintf("map the network to the right interface in agent.yaml of %s, or give the VIP an address of the subnet; nothing to do if it is routed there", n.ID)).about(v)
	}
	if facts.GetArpIgnore() == 8 {
		j.stopsPair(j.on(n, interfaces, "ARP_IGNORED", fmt.Sprintf("%s answers nobody who asks for an address of interface %s: clients could not find VIP %s there", n.ID, name, vip),
			"net.ipv4.conf: arp_ignore is 8", fmt.Sprintf("on %s: %s", n.ID, command("sysctl -w net.ipv4.conf.%s.arp_ignore=0 net.ipv4.conf.all.arp_ignore=0", name))), v, n)
	}
}

// speaks judges whether a node has addresses to advertise a VIP from, and takes the
// other nodes' advertisements. Those of IPv6 come from link-local addresses, but for
// unicast (RFC 9568, section 5.1.2.1).
func (j *judgement) speaks(n *Node, v *tandemv1.Vip) {
	facts := n.network(state.EffectiveVrrpNetwork(v))
	own := j.own(facts)
	for _, six := range []bool{false, true} {
		speaks := func(p netip.Prefix) bool {
			return p.Addr().Is6() == six && (!six || p.Addr().IsLinkLocalUnicast() || state.EffectiveUnicast(j.Config, v))
		}
		if facts.GetIpv6Disabled() && six || !slices.ContainsFunc(prefixes(v.GetAddresses()), isFamily(six)) || slices.ContainsFunc(own, speaks) {
			continue
		}
		family, cure := "IPv4", command("ip address add ADDRESS/LENGTH dev %s", facts.GetInterface())
		if six {
			family, cure = "link-local IPv6", command("ip link set %s addrgenmode eui64", facts.GetInterface())+", down and up again"
		}
		j.stopsPair(j.on(n, interfaces, "NO_ADDRESS", fmt.Sprintf("interface %s of %s has no %s address of its own to advertise VIP %s from", facts.GetInterface(), n.ID, family, id(v.GetName())),
			"its addresses: "+list(facts.GetAddresses()), fmt.Sprintf("on %s: %s", n.ID, cure)), v, n)
	}
	j.reverse(n, v)
}

// own are the addresses of an interface that are no VIP's.
func (j *judgement) own(facts *agentv1.NetworkFacts) []netip.Prefix {
	return slices.DeleteFunc(prefixes(facts.GetAddresses()), func(p netip.Prefix) bool { return j.isVirtual(p.Addr()) })
}

// reverse judges whether strict reverse path filtering drops the advertisements of
// another node.
func (j *judgement) reverse(n *Node, v *tandemv1.Vip) {
	facts := n.network(state.EffectiveVrrpNetwork(v))
	for _, i := range n.Instances[id(v.GetName())] {
		a := j.filtered(n, v, i)
		if a == nil {
			continue
		}
		j.stopsPair(j.on(n, interfaces, "REVERSE_PATH_FILTERED",
			fmt.Sprintf("%s drops the advertisements of %s: they come from %s, to which no route leads by interface %s", n.ID, cmp.Or(a.GetNode(), "another machine"), a.GetAddress(), facts.GetInterface()),
			fmt.Sprintf("net.ipv4.conf.%s.rp_filter is 1 (strict), its addresses: %s, and keepalived on it counts none received", facts.GetInterface(), list(facts.GetAddresses())),
			fmt.Sprintf("on %s: give %s an address of the other node's subnet, or %s", n.ID, facts.GetInterface(), command("sysctl -w net.ipv4.conf.%s.rp_filter=2", facts.GetInterface()))), v, n)
	}
}

// filtered is a node whose advertisements strict reverse path filtering drops, nil if
// there is none: its address is no neighbour of this one, and keepalived has received
// nothing. It may well be one by a route. Strangers are dropped or not, nobody cares.
func (j *judgement) filtered(n *Node, v *tandemv1.Vip, i *agentv1.InstanceObservation) *agentv1.Advertiser {
	facts := n.network(state.EffectiveVrrpNetwork(v))
	if facts.GetReversePathFilter() != 1 || n.facts(i.GetName()).GetReceived() > 0 {
		return nil
	}
	own := j.own(facts)
	for _, a := range i.GetAdvertisers() {
		address, err := netip.ParseAddr(a.GetAddress())
		if err == nil && address.Is4() && !isStranger(i, a) && !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Masked().Contains(address) }) {
			return a
		}
	}
	return nil
}

// isVirtual tells whether an address is a VIP's.
func (j *judgement) isVirtual(a netip.Addr) bool {
	return slices.ContainsFunc(j.Config.Vips(), func(v *tandemv1.Vip) bool {
		return slices.ContainsFunc(prefixes(v.GetAddresses()), func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// strange is an address of a VIP that has a subnet, which the node does not have; of one
// host alone it is meant so.
func strange(virtual, own []netip.Prefix) netip.Prefix {
	for _, p := range virtual {
		if !slices.ContainsFunc(own, isFamily(p.Addr().Is6())) {
			continue // which is worse, and told
		}
		if !p.IsSingleIP() && !slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Masked().Contains(p.Addr()) }) {
			return p
		}
	}
	return netip.Prefix{}
}

func prefixes(texts []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func list(texts []string) string { return cmp.Or(strings.Join(texts, ", "), "none") }
