package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// drops judges the rules by which a node's firewall loses advertisements. Those that
// the agent does not understand for certain are only told of as evidence, where
// advertisements are lost.
func (j *judgement) drops(n *Node) {
	for _, d := range n.Diagnosis.GetDrops() {
		if !d.GetCertain() {
			continue
		}
		what := "drops the advertisements of the other nodes"
		if d.GetOutgoing() {
			what = "drops its own advertisements"
		}
		family := "IPv4"
		if d.GetIpv6() {
			family = "IPv6"
		}
		var f *finding
		for _, v := range j.vips {
			if state.EffectiveVrrpNetwork(v) != d.GetNetwork() || !slices.ContainsFunc(prefixes(v.GetAddresses()), isFamily(d.GetIpv6())) {
				continue
			}
			if f == nil {
				f = j.on(n, firewall, "VRRP_DROPPED", fmt.Sprintf("the firewall of %s %s (VRRP, protocol 112, %s, network %s)", n.ID, what, family, d.GetNetwork()),
					place(d), fmt.Sprintf("on %s: %s", n.ID, allow(d)))
			}
			j.stopsPair(f, v, n)
		}
	}
}

// place says which rule it is.
func place(d *agentv1.FirewallDrop) string {
	at := fmt.Sprintf("policy of chain %s", word(d.GetChain()))
	if d.GetHandle() != 0 {
		at = fmt.Sprintf("rule with handle %d of chain %s", d.GetHandle(), word(d.GetChain()))
	}
	at += fmt.Sprintf(" in table %s %s", word(d.GetFamily()), word(d.GetTable()))
	if d.Packets != nil {
		at += fmt.Sprintf(", which has dropped %d packets", d.GetPackets())
	}
	return at + fmt.Sprintf(" (%s)", command("nft -a list table %s %s", d.GetFamily(), d.GetTable()))
}

// allow is the command that lets VRRP through, in the words of whoever keeps the
// table.
func allow(d *agentv1.FirewallDrop) string {
	direction, chain := "input", "INPUT"
	if d.GetOutgoing() {
		direction, chain = "output", "OUTPUT"
	}
	six := ""
	if d.GetIpv6() {
		six = "6"
	}
	switch d.GetOwner() {
	case "firewalld":
		return "firewall-cmd --permanent --add-protocol=vrrp && firewall-cmd --reload"
	case "ufw":
		return fmt.Sprintf("add the line \"-A ufw%s-before-%s -p 112 -j ACCEPT\" above COMMIT in /etc/ufw/before%s.rules, then ufw reload", six, direction, six)
	case "iptables":
		return fmt.Sprintf("ip%stables -I %s -p 112 -j ACCEPT, and the same in the file that restores the rules at boot", six, chain)
	default:
		return command("nft insert rule %s %s %s meta l4proto vrrp accept", d.GetFamily(), d.GetTable(), d.GetBase()) +
			", and the same in the file that makes the table (/etc/nftables.conf)"
	}
}

// sends judges whether the holder advertises.
func (j *judgement) sends(v *tandemv1.Vip, h *Node) {
	for _, i := range h.Instances[id(v.GetName())] {
		f := h.facts(i.GetName())
		if counted(f) && f.GetSent() == 0 && i.GetHolds() {
			j.on(h, adverts, "ADVERTS_NOT_SENT", fmt.Sprintf("%s holds VIP %s and does not advertise it: a standby takes it too", h.ID, id(v.GetName())),
				fmt.Sprintf("keepalived's count of what it sent did not grow in %s, at an interval of %s", round(f), f.GetInterval().AsDuration()),
				fmt.Sprintf("on %s: journalctl -u keepalived; systemctl restart keepalived moves the VIP away meanwhile", h.ID)).stops(v, j.standbys(v)...)
		}
	}
}

// onTheirWay is how long advertisements may be on their way, and counts behind them.
const onTheirWay = 100 * time.Millisecond

// counted tells whether keepalived's counts of an instance were seen for so long that
// none means something: at least one advertisement falls into two intervals. An agent
// looks for 5 s at most, and an interval is up to 40 s (RFC 9568, section 5.2.7: 12
// bits of centiseconds).
func counted(f *agentv1.InstanceFacts) bool {
	return f.GetWindow() != nil && f.GetWindow().AsDuration() >= 2*f.GetInterval().AsDuration()+onTheirWay
}

func round(f *agentv1.InstanceFacts) time.Duration {
	return f.GetWindow().AsDuration().Round(10 * time.Millisecond)
}

// hears judges whether a standby hears the holder, at its interface and behind its
// firewall.
func (j *judgement) hears(v *tandemv1.Vip, h, n *Node) {
	for _, i := range n.Instances[id(v.GetName())] {
		if !advertises(h, id(v.GetName()), i.GetName()) {
			continue
		}
		sent, got := h.facts(i.GetName()), n.facts(i.GetName())
		evidence := fmt.Sprintf("%s says that it is master and has the address", h.ID)
		if sent.GetWindow() != nil {
			evidence = fmt.Sprintf("%s sent %d in %s by its keepalived's count", h.ID, sent.GetSent(), round(sent))
		}
		iface := n.Interfaces[state.EffectiveVrrpNetwork(v)]
		switch arrives := heardFrom(i, h.ID); {
		case !i.GetListens() && !arrives:
			j.unheard(v, h, n, sent, got)
		case !arrives:
			j.on(n, adverts, "ADVERTS_NOT_SEEN", fmt.Sprintf("%s does not hear %s advertise VIP %s", n.ID, h.ID, id(v.GetName())),
				fmt.Sprintf("%s; none of them reaches interface %s of %s%s", evidence, iface, n.ID, n.doubts(v)),
				fmt.Sprintf("let protocol 112%s through: cables, VLANs, firewalls on the way; on %s: %s", j.means(v), n.ID, command("tcpdump -ni %s proto 112", iface))).stops(v, n.ID)
		case counted(got) && got.GetReceived() == 0 && !j.dropsIn(n, v) && j.filtered(n, v, i) == nil:
			j.on(n, adverts, "ADVERTS_LOST", fmt.Sprintf("the advertisements of %s for VIP %s reach %s, and keepalived there gets none of them", h.ID, id(v.GetName()), n.ID),
				fmt.Sprintf("%s; they are seen at interface %s, and keepalived on %s counted 0%s", evidence, iface, n.ID, n.doubts(v)),
				fmt.Sprintf("on %s: systemctl restart keepalived, which is deaf when the interface was made anew under it; else something drops protocol 112 behind the interface: nft list ruleset, iptables-legacy -S, eBPF programs", n.ID)).stops(v, n.ID)
		}
	}
}

// unheard judges whether a standby's keepalived hears the holder where its agent does
// not listen at the interface: by the counts alone. Of an agent that told of nothing that
// is said once, for all VIPs.
func (j *judgement) unheard(v *tandemv1.Vip, h, n *Node, sent, got *agentv1.InstanceFacts) {
	vip := id(v.GetName())
	switch {
	case n.Diagnosis == nil || got.GetReceived() > 0:
	case counted(got) && counted(sent) && sent.GetSent() >= 2:
		if !j.dropsIn(n, v) {
			j.on(n, adverts, "ADVERTS_LOST", fmt.Sprintf("keepalived on %s gets none of the advertisements of %s for VIP %s; where they are lost is not known", n.ID, h.ID, vip),
				fmt.Sprintf("%s sent %d in %s by its keepalived's count, and keepalived on %s counted 0 in %s; its agent does not listen at the interface%s",
					h.ID, sent.GetSent(), round(sent), n.ID, round(got), n.doubts(v)),
				fmt.Sprintf("on %s: %s tells whether they reach it; if so systemctl restart keepalived, else let protocol 112%s through", n.ID, command("tcpdump -ni %s proto 112", n.Interfaces[state.EffectiveVrrpNetwork(v)]), j.means(v))).stops(v, n.ID)
		}
	default:
		j.on(n, adverts, "NOT_LISTENED", fmt.Sprintf("whether %s hears %s advertise VIP %s is not known", n.ID, h.ID, vip),
			"its agent does not listen at the interface, and keepalived counted none there, or was not watched for long enough",
			fmt.Sprintf("ask again in some seconds: an agent that was just started listens soon; else on %s: journalctl -u lb-agent", n.ID)).about(v).hides = []string{n.ID}
	}
}

// means says where advertisements of a VIP are sent to.
func (j *judgement) means(v *tandemv1.Vip) string {
	if state.EffectiveUnicast(j.Config, v) {
		return ", between the nodes' own addresses,"
	}
	return " to 224.0.0.18 or ff02::12 (see the switch's multicast snooping, or lbctl vip set " + id(v.GetName()) + " --unicast)"
}

// heardFrom tells whether a node's advertisements reach the interface of an instance. Of
// a speaker that nobody knows it is assumed that it is the node.
func heardFrom(i *agentv1.InstanceObservation, node string) bool {
	return slices.ContainsFunc(i.GetAdvertisers(), func(a *agentv1.Advertiser) bool { return a.GetNode() == node || a.GetNode() == "" && !isStranger(i, a) })
}

func isStranger(i *agentv1.InstanceObservation, a *agentv1.Advertiser) bool {
	return slices.ContainsFunc(i.GetFindings(), func(f *agentv1.Finding) bool {
		return f.GetKind() == agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER && f.GetWho() == a.GetAddress()
	})
}

// advertises tells whether a node's own word is that it advertises an instance.
func advertises(n *Node, vip, instance string) bool {
	return slices.ContainsFunc(n.Instances[vip], func(i *agentv1.InstanceObservation) bool {
		return i.GetName() == instance && i.GetState() == agentv1.VrrpState_VRRP_STATE_MASTER && i.GetHolds()
	})
}

// dropsIn tells whether it is known which rule drops what comes in for a VIP.
func (j *judgement) dropsIn(n *Node, v *tandemv1.Vip) bool {
	return slices.ContainsFunc(n.Diagnosis.GetDrops(), func(d *agentv1.FirewallDrop) bool {
		return d.GetCertain() && !d.GetOutgoing() && d.GetNetwork() == state.EffectiveVrrpNetwork(v)
	})
}

// doubts are the rules of a node that may drop advertisements, for evidence.
func (n *Node) doubts(v *tandemv1.Vip) string {
	text := ""
	for _, d := range n.Diagnosis.GetDrops() {
		if !d.GetCertain() && !d.GetOutgoing() && d.GetNetwork() == state.EffectiveVrrpNetwork(v) {
			text += "; it may be the " + place(d)
		}
	}
	return text
}

// isFamily tells whether an address is of one family.
func isFamily(six bool) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool { return p.Addr().Is6() == six }
}

// faults are what the nodes find on the wire. Strangers keep nobody from taking a VIP.
var faults = map[agentv1.FindingKind]struct{ reason, cure string }{
	agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH: {"ADVERT_MISMATCH",
		"put the same configuration in effect on both nodes (lbctl status), and stop a keepalived there that is not Tandem's"},
	agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER: {"FOREIGN_VRRP_SPEAKER",
		"find the machine by its MAC address in the switch's table and stop VRRP there, or lbctl vip set %s --vrid N"},
	agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS: {"DUPLICATE_ADDRESS",
		"find the machine by its MAC address in the switch's table and take the address from it"},
	agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED: {"NOTHING_RECEIVED",
		"see its cable, its VLAN and the switch's port; the node keeps itself off the VIP until something reaches it"},
	agentv1.FindingKind_FINDING_KIND_NOTHING_SENT: {"NOTHING_SENT",
		"see its cable, its VLAN and the switch's port; the node keeps itself off the VIP while another one is heard to hold it"},
}

// wire tells what the nodes find on the wire of a VIP.
func (j *judgement) wire(v *tandemv1.Vip) {
	macs := make(map[string]bool) // of nodes: one that others cannot hear is no stranger
	for n := range j.Nodes {
		for _, i := range j.Nodes[n].Instances[id(v.GetName())] {
			macs[i.GetMac()] = true
		}
	}
	told := make(map[string]*finding) // what is heard once, and what a node says of itself of each
	for n := range j.Nodes {
		x := &j.Nodes[n]
		for _, i := range x.Instances[id(v.GetName())] {
			for _, f := range i.GetFindings() {
				fault, known := faults[f.GetKind()]
				if !known || f.GetKind() == agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS && macs[f.GetWho()] {
					continue
				}
				key := f.GetText()
				if isOfItself(f) {
					key = x.ID + " " + key
				}
				if told[key] == nil {
					cure := strings.ReplaceAll(fault.cure, "%s", id(v.GetName()))
					told[key] = j.on(x, adverts, fault.reason, f.GetText(), "heard by "+x.ID, cure).about(v)
				}
				if isOfItself(f) || f.GetKind() == agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH {
					j.stopsPair(told[key], v, x)
				}
			}
		}
	}
}

// isOfItself tells whether a finding is about the node that tells it.
func isOfItself(f *agentv1.Finding) bool {
	return f.GetKind() == agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED || f.GetKind() == agentv1.FindingKind_FINDING_KIND_NOTHING_SENT
}
