package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// vip judges who holds a VIP, what its nodes hear of each other, and what they serve.
func (j *judgement) vip(v *tandemv1.Vip) {
	vip := id(v.GetName())
	h := j.holder(vip)
	j.heldOnce(v)
	if h != nil {
		j.sends(v, h)
	}
	for n := range j.Nodes {
		x := &j.Nodes[n]
		j.lost(v, h, x)
		if x == h || !x.Connected {
			continue
		}
		j.standsBy(v, x)
		if h != nil && h.Connected {
			j.hears(v, h, x)
		}
		j.serves(v, h, x)
	}
	j.wire(v)
}

// heldOnce tells of a VIP that not one node holds, or one that does not tell itself.
func (j *judgement) heldOnce(v *tandemv1.Vip) {
	vip := id(v.GetName())
	var names, away []string
	for _, n := range j.holders(vip) {
		names = append(names, n.ID)
	}
	for n := range j.Nodes {
		if !j.Nodes[n].Connected {
			away = append(away, j.Nodes[n].ID)
		}
	}
	heard, by := j.heard(vip)
	told := strings.Join(heard, " and ") + " not connected, and heard to advertise it by " + strings.Join(by, " and ")
	f := &tandemv1.DiagnosisFinding{Area: holding}
	switch {
	case len(j.Nodes) == 0 || len(names) == 1 && len(heard) == 0:
		return
	case len(names)+len(heard) > 1:
		f.Reason, f.Message = "TWO_HOLDERS", fmt.Sprintf("VIP %s is held by %s", vip, strings.Join(append(names, heard...), " and "))
		f.Evidence = "the kernels of these nodes have its address"
		if len(heard) > 0 {
			f.Evidence += "; " + told
		}
		f.Cure = "let the nodes hear each other: see what else is found about firewalls and advertisements"
	case len(heard) > 0:
		f.Reason, f.Message = "HOLDER_AWAY", fmt.Sprintf("VIP %s is held by %s, which cannot be told to give it up", vip, heard[0])
		f.Evidence = told
		f.Cure = fmt.Sprintf("bring the agent of %s back; the VIP is served meanwhile", heard[0])
		j.add(f).about(v).hides = j.standbys(v)
		return
	case len(away) > 0:
		f.Reason, f.Message = "HOLDER_UNKNOWN", fmt.Sprintf("who holds VIP %s is not known", vip)
		f.Evidence = fmt.Sprintf("no node that tells has its address; %s does not tell", strings.Join(away, ", "))
		f.Cure = "bring the agent of the silent node back; ip address show on it tells whether it holds the VIP"
	default:
		f.Reason, f.Message = "NO_HOLDER", fmt.Sprintf("no node holds VIP %s", vip)
		f.Evidence = "no node's kernel has its address"
		f.Cure = "cure what else is found on the nodes; keepalived's own words: lb-agent status, journalctl -u keepalived"
	}
	j.add(f).stops(v, j.standbys(v)...)
}

// heard are the ids of the nodes that do not tell, and that others hear advertise a VIP,
// and of those by whom.
func (j *judgement) heard(vip string) (nodes, by []string) {
	for n := range j.Nodes {
		if j.Nodes[n].Connected {
			continue
		}
		advertises := func(a *agentv1.Advertiser) bool { return a.GetNode() == j.Nodes[n].ID }
		var who []string
		for m := range j.Nodes {
			if slices.ContainsFunc(j.Nodes[m].Instances[vip], func(i *agentv1.InstanceObservation) bool {
				return i.GetListens() && slices.ContainsFunc(i.GetAdvertisers(), advertises)
			}) {
				who = append(who, j.Nodes[m].ID)
			}
		}
		if len(who) > 0 {
			nodes, by = append(nodes, j.Nodes[n].ID), append(by, who...)
		}
	}
	slices.Sort(by)
	return nodes, slices.Compact(by)
}

// standsBy judges what a standby's keepalived says of itself.
func (j *judgement) standsBy(v *tandemv1.Vip, n *Node) {
	vip := id(v.GetName())
	for _, i := range n.Instances[vip] {
		switch {
		case i.GetFenced():
			j.on(n, holding, "FENCED", fmt.Sprintf("%s is kept off VIP %s by a fence, since it and the holder do not hear each other", n.ID, vip),
				"its agent says so: a fence of the controller, or its own while it is cut off", "cure what keeps them from hearing each other; the fence falls by itself within seconds").stops(v, n.ID)
			return
		case i.GetState() == agentv1.VrrpState_VRRP_STATE_FAULT:
			j.on(n, holding, "IN_FAULT", fmt.Sprintf("keepalived on %s is in state FAULT for VIP %s", n.ID, vip), "keepalived's own word",
				fmt.Sprintf("cure what else is found on %s; on it: journalctl -u keepalived", n.ID)).stops(v, n.ID)
			return
		}
	}
}

// lost judges whether a node has what the VIP needs beside it.
func (j *judgement) lost(v *tandemv1.Vip, h, n *Node) {
	vip := id(v.GetName())
	all := n.lost(vip)
	if len(all) == 0 {
		return
	}
	f := j.on(n, holding, "TRACK_LOST", fmt.Sprintf("%s has lost what VIP %s needs: %s", n.ID, vip, strings.Join(all, ", ")),
		fmt.Sprintf("its agent asks for it; its priority is %d", n.priority(vip)),
		fmt.Sprintf("see the way from %s to it: cables, VLANs, routes, firewalls; or lbctl vip set %s --track", n.ID, vip)).about(v)
	if h != nil && h != n && Lacks(v, n.Instances[vip], h.Instances[vip]) {
		f.stops(v, n.ID)
	}
}

// Lacks tells whether a standby does not take a VIP that its holder is to give up by
// hand, since the standby has lost what the VIP needs: by the priorities in effect, as
// keepalived decides that. Each instance is a VIP's part of one family.
func Lacks(v *tandemv1.Vip, standby, holder []*agentv1.InstanceObservation) bool {
	return slices.ContainsFunc(standby, func(s *agentv1.InstanceObservation) bool {
		return slices.ContainsFunc(s.GetTracks(), (*agentv1.TrackObservation).GetLost) &&
			slices.ContainsFunc(holder, func(h *agentv1.InstanceObservation) bool {
				return h.GetName() == s.GetName() && int(s.GetPriority()) <= int(h.GetPriority())+state.FailoverScore(v)
			})
	})
}

// lost are the tracks of a VIP that a node has lost, with the reason.
func (n *Node) lost(vip string) []string {
	var all []string
	for _, i := range n.Instances[vip] {
		for _, t := range i.GetTracks() {
			if text := fmt.Sprintf("%s (%s)", t.GetTrack(), t.GetReason()); t.GetLost() && !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
	}
	return all
}
