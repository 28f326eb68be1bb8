package fleet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/diagnose"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// addTracks adds an instance's tracks to those of its VIP on a node. Where the instances
// of two families do not agree, what is lost is told.
func addTracks(s *tandemv1.VipNodeStatus, i *agentv1.InstanceObservation) {
	for _, t := range i.GetTracks() {
		now := &tandemv1.TrackStatus{Track: t.GetTrack(), Lost: t.GetLost(), Reason: t.GetReason(), Since: t.GetSince()}
		at := slices.IndexFunc(s.GetTracks(), func(other *tandemv1.TrackStatus) bool { return other.GetTrack() == now.GetTrack() })
		switch {
		case at < 0:
			s.Tracks = append(s.Tracks, now)
		case now.GetLost() && !s.GetTracks()[at].GetLost():
			s.Tracks[at] = now
		}
	}
}

// suspectTracks tells of what nodes have lost that a VIP needs. The lock is held.
func (c *cluster) suspectTracks(v *tandemv1.Vip, add addSuspect) {
	id := lastID(v.GetName())
	var said []string
	nodes := c.reporting(id)
	losers := 0
	for _, n := range nodes {
		if lost := n.lost(id); len(lost) > 0 {
			losers++
			said = append(said, fmt.Sprintf("%s has lost %s", n.id, strings.Join(lost, " and ")))
		}
	}
	if losers == 0 {
		return
	}
	then := "another node goes before"
	if losers == len(nodes) {
		then = "so has every node that tells, and one of them holds the VIP"
	}
	add("TRACK_LOST", v.GetName(), 0, fmt.Sprintf("VIP %s: %s: %s", id, strings.Join(said, ", "), then),
		"see the way from the node to what it has lost: cables, VLANs, routes, firewalls; or change the VIP's tracks (lbctl vip set --track)")
}

// lost are the tracks of a VIP that a node has lost, in words.
func (n *node) lost(vip string) (lost []string) {
	for _, t := range vipNodeStatus(n.id, n.observed.instances[vip]).GetTracks() {
		if t.GetLost() {
			lost = append(lost, fmt.Sprintf("%s (%s)", t.GetTrack(), t.GetReason()))
		}
	}
	return lost
}

// lacks tells what a node has lost that a VIP needs, when that keeps it from taking the
// VIP from its holder.
func lacks(v *tandemv1.Vip, n, holder *node) string {
	vip := lastID(v.GetName())
	if diagnose.Lacks(v, n.observed.instances[vip], holder.observed.instances[vip]) {
		return strings.Join(n.lost(vip), " and ")
	}
	return ""
}
