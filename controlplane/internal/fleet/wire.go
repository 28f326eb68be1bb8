package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// wireAlarms are the alarms that the nodes' findings raise.
var wireAlarms = map[agentv1.FindingKind]struct{ reason, cure string }{
	agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH: {"ADVERT_MISMATCH",
		"nodes that do not agree both hold the VIP: put the same configuration in effect on both (lbctl status tells what failed), and stop a keepalived there that is not Tandem's"},
	agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER: {"FOREIGN_VRRP_SPEAKER",
		"find the machine by its MAC address in the switch's table and stop VRRP there, or give the VIP a VRID that nobody else uses (lbctl vip set VIP --vrid N)"},
	agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED: {"NOTHING_RECEIVED",
		"the node keeps itself off the VIP until something reaches it: look at its cable, its VLAN and the switch's port"},
	agentv1.FindingKind_FINDING_KIND_NOTHING_SENT: {"NOTHING_SENT",
		"the node keeps itself off the VIP while another one is heard to hold it: look at its cable, its VLAN and the switch's port"},
	agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS: {"DUPLICATE_ADDRESS",
		"clients reach one of the two by chance: find the machine by its MAC address in the switch's table and take the address from it, or give the VIP another one"},
}

// suspectWire tells what the nodes find on the wire of a VIP. The lock is held.
func (c *cluster) suspectWire(v *tandemv1.Vip, add addSuspect) {
	id := lastID(v.GetName())
	found := make(map[agentv1.FindingKind]map[string][]string) // by text, who says so
	macs := c.macs(id)
	for _, n := range c.reporting(id) {
		for _, i := range n.observed.instances[id] {
			for _, f := range i.GetFindings() {
				// A node that others cannot hear is no stranger: it is a holder too many,
				// which the nodes' own words tell.
				if f.GetKind() == agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS && macs[f.GetWho()] {
					continue
				}
				if found[f.GetKind()] == nil {
					found[f.GetKind()] = make(map[string][]string)
				}
				found[f.GetKind()][f.GetText()] = append(found[f.GetKind()][f.GetText()], n.id)
			}
		}
	}
	for kind, alarm := range wireAlarms {
		if found[kind] == nil {
			continue
		}
		var said []string
		for _, text := range slices.Sorted(maps.Keys(found[kind])) {
			said = append(said, fmt.Sprintf("%s (seen by %s)", text, strings.Join(found[kind][text], " and ")))
		}
		var delay time.Duration
		if kind == agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH {
			delay = moving // while both nodes change
		}
		add(alarm.reason, v.GetName(), delay, fmt.Sprintf("VIP %s: %s", id, strings.Join(said, "; ")), alarm.cure)
	}
	c.suspectSilence(v, add)
}

// reporting are the nodes that tell of a VIP, in order of their numbers.
func (c *cluster) reporting(vip string) (all []*node) {
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; n != nil && n.session != nil && len(n.observed.instances[vip]) > 0 {
			all = append(all, n)
		}
	}
	return all
}

// heard are the ids of the nodes without a session that one which tells of a VIP hears
// advertise it, in order of their numbers: they hold it, by what the wire says.
func (c *cluster) heard(vip string) (all []string) {
	speaks := make(map[string]bool)
	for _, n := range c.reporting(vip) {
		for _, i := range n.observed.instances[vip] {
			if !i.GetListens() {
				continue
			}
			for _, a := range i.GetAdvertisers() {
				speaks[a.GetNode()] = true
			}
		}
	}
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; n != nil && n.session == nil && speaks[n.id] {
			all = append(all, n.id)
		}
	}
	return all
}

// macs are the link-layer addresses that nodes have on a VIP's network.
func (c *cluster) macs(vip string) map[string]bool {
	macs := make(map[string]bool)
	for _, n := range c.reporting(vip) {
		for _, i := range n.observed.instances[vip] {
			macs[i.GetMac()] = true
		}
	}
	return macs
}

// suspectSilence tells of nodes that do not hear a holder which advertises.
func (c *cluster) suspectSilence(v *tandemv1.Vip, add addSuspect) {
	id := lastID(v.GetName())
	var deaf []string
	nodes := c.reporting(id)
	for _, n := range nodes {
		for _, peer := range nodes {
			if n == peer {
				continue
			}
			for _, i := range n.observed.instances[id] {
				if advertises(peer, id, i.GetName()) && isDeaf(i) {
					deaf = append(deaf, fmt.Sprintf("%s does not hear %s", n.id, peer.id))
				}
			}
		}
	}
	if len(deaf) == 0 {
		return
	}
	add("PEER_SILENT", v.GetName(), moving,
		fmt.Sprintf("VIP %s: %s, which advertises it: a failover cannot work, and both may come to hold it", id, strings.Join(slices.Compact(deaf), ", ")),
		"let VRRP (protocol 112, to 224.0.0.18 or ff02::12, with unicast to the nodes' own addresses) through between the nodes: look at cables, VLANs, the switch's multicast snooping and the firewalls on the way")
}

// advertises tells whether a node's own word is that it advertises an instance.
func advertises(n *node, vip, instance string) bool {
	return slices.ContainsFunc(n.observed.instances[vip], func(i *agentv1.InstanceObservation) bool {
		return i.GetName() == instance && i.GetState() == agentv1.VrrpState_VRRP_STATE_MASTER && i.GetHolds()
	})
}

// isDeaf tells whether a node that listens hears nobody but strangers.
func isDeaf(i *agentv1.InstanceObservation) bool {
	active := i.GetState() == agentv1.VrrpState_VRRP_STATE_MASTER || i.GetState() == agentv1.VrrpState_VRRP_STATE_BACKUP || i.GetFenced()
	return i.GetListens() && active && !hears(i)
}

// hears tells whether a node hears anybody but strangers advertise.
func hears(i *agentv1.InstanceObservation) bool {
	return i.GetListens() && slices.ContainsFunc(i.GetAdvertisers(), func(a *agentv1.Advertiser) bool {
		return !slices.ContainsFunc(i.GetFindings(), func(f *agentv1.Finding) bool {
			return f.GetKind() == agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER && f.GetWho() == a.GetAddress()
		})
	})
}
