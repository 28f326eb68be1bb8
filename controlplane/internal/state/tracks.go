package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// trackWeight moves a VIP whatever its priorities and its fail-back policy are: what it
// takes is more than the widest gap between priorities and stickyScore together.
const trackWeight = -44

// lowestTracks is what all tracks add at most. The agents see to that but for networks,
// whose weights keepalived adds.
const lowestTracks = -56

// stickyScore is what the agents add to a standby that is to leave the VIP where it is
// (docs/decisions/0006-scores.md).
const stickyScore = -22

// failoverScore is what the agents add to a holder that is to give a VIP up by hand;
// to one of a sticky VIP stickyScore, too, which its standbys have.
const failoverScore = -22

// FailoverScore is what the agents add to the priority of a VIP's holder that is to give
// it up by hand (docs/decisions/0006-scores.md): a standby with a higher one takes it.
func FailoverScore(v *tandemv1.Vip) int {
	if sticky(v) {
		return failoverScore + stickyScore
	}
	return failoverScore
}

// sticky tells whether a VIP's standbys leave it where it is, for a while at least.
func sticky(v *tandemv1.Vip) bool { return EffectiveFailBack(v) != "automatic" }

// EffectiveTrack returns a track with every field filled in.
func EffectiveTrack(t *tandemv1.Track) *tandemv1.Track {
	if t.GetKind() == "network" {
		return &tandemv1.Track{Kind: t.GetKind(), Target: t.GetTarget(), Weight: or(t.Weight, proto.Int32(trackWeight))}
	}
	interval := or(t.GetInterval(), durationpb.New(time.Second))
	e := &tandemv1.Track{
		Kind: t.GetKind(), Target: t.GetTarget(),
		Interval: interval,
		Timeout:  or(t.GetTimeout(), durationpb.New(interval.AsDuration()/2)),
		Rise:     or(t.Rise, proto.Uint32(2)),
		Fall:     or(t.Fall, proto.Uint32(3)),
		Weight:   or(t.Weight, proto.Int32(trackWeight)),
	}
	if t.GetKind() == "url" {
		e.ExpectedStatus = orText(t.GetExpectedStatus(), "200-399")
	}
	return e
}

// trackName is what people call a track: the agents call it so, too. A URL goes without
// its query, which may hold a secret.
func trackName(t *tandemv1.Track) string {
	target := t.GetTarget()
	if before, _, found := strings.Cut(target, "?"); found && t.GetKind() == "url" {
		target = before + "?..."
	}
	return strings.TrimSuffix(t.GetKind()+" "+target, " ")
}

// tracks holds the rules within a VIP's tracks.
func (r *rules) tracks(id string, v *tandemv1.Vip) {
	seen := make(map[string]bool)
	networks := 0 // what their weights add up to
	for n, t := range v.GetTracks() {
		at := func(field string) []place { return []place{r.vip(id, fmt.Sprintf("tracks[%d].%s", n, field))} }
		if seen[t.GetKind()+" "+t.GetTarget()] {
			r.refuse(ReasonTrackTwice, at("target"), "%q is a track of VIP %q already: one is enough", trackName(t), id)
		}
		seen[t.GetKind()+" "+t.GetTarget()] = true
		e := EffectiveTrack(t)
		if t.GetKind() == "network" {
			if t.GetTarget() == EffectiveNetwork(v) || t.GetTarget() == EffectiveVrrpNetwork(v) {
				r.refuse(ReasonTrackNetwork, at("target"), "network %q is the VIP's own, without which no node ever holds it: name another one", t.GetTarget())
			}
			if networks += int(e.GetWeight()); networks < lowestTracks {
				r.refuse(ReasonTrackNetwork, at("weight"), "the weights of the networks of VIP %q add up to %d: must be %d at least, so that a node without them goes before one without HAProxy",
					id, networks, lowestTracks)
			}
			continue
		}
		if owner := r.owner(t, id); owner != "" {
			r.refuse(ReasonTrackOwnAddress, []place{r.vip(id, fmt.Sprintf("tracks[%d].target", n)), r.vip(owner, "addresses")},
				"%s is an address of VIP %q, which moves between the nodes, so it tells nothing of a node's network: name a machine that is no node of the cluster", t.GetTarget(), owner)
		}
		if e.GetTimeout().AsDuration() > e.GetInterval().AsDuration() {
			r.refuse(ReasonTrackTimeout, at("timeout"), "%v is longer than the interval between two questions: must be 10ms to %v",
				e.GetTimeout().AsDuration(), e.GetInterval().AsDuration())
		}
		if lo, hi, ok := strings.Cut(t.GetExpectedStatus(), "-"); ok && lo > hi { // both have three digits
			r.refuse(ReasonStatusRange, at("expected_status"), "%s-%s is no range: must be lowest-highest, such as 200-399", lo, hi)
		}
	}
}

// owner is the VIP of the cluster at whose address a track asks; empty if there is none,
// and when neither was touched: a configuration of before stays one that can be changed.
// Of a gateway the holder itself gets no answer, so the VIP would move for ever.
func (r *rules) owner(t *tandemv1.Track, id string) string {
	if t.GetKind() != "gateway" && t.GetKind() != "ping" || t.GetTarget() == "" {
		return ""
	}
	target := addr(t.GetTarget())
	for i, v := range r.next.vips.values {
		other := r.next.vips.keys[i]
		if !r.draft.touched[VipName(r.next.id, id)] && !r.draft.touched[VipName(r.next.id, other)] {
			continue
		}
		for _, a := range v.GetAddresses() {
			if prefix(a).Addr() == target {
				return other
			}
		}
	}
	return ""
}

// Notes tell what of a VIP is odd though it is legal, each with what would be right.
func Notes(c *Config, v *tandemv1.Vip) []string {
	gap, holder := priorityGap(c, v)
	if holder == "" {
		return nil // nobody is there to take it over
	}
	needed := -gap - 1
	if sticky(v) {
		needed += stickyScore
	}
	var notes []string
	for _, t := range v.GetTracks() {
		weight := int(EffectiveTrack(t).GetWeight())
		if weight <= needed {
			continue
		}
		policy := ""
		if sticky(v) {
			policy = fmt.Sprintf(", and fail-back %s takes %d off that", EffectiveFailBack(v), -stickyScore)
		}
		notes = append(notes, fmt.Sprintf("track %+q is too light to move the VIP from %s by itself: its weight is %d, and the priority of %s is %d above the next one's%s: use %d to -56",
			trackName(t), holder, weight, holder, gap, policy, needed))
	}
	return notes
}

// priorityGap is by how much the priority of a VIP's first node is above the next one's;
// no node where there is only one.
func priorityGap(c *Config, v *tandemv1.Vip) (gap int, first string) {
	type ranked struct {
		node     string
		priority int
	}
	var all []ranked
	for i, n := range c.nodes.values {
		all = append(all, ranked{c.nodes.keys[i], int(EffectivePriority(c, v, n))})
	}
	if len(all) < 2 {
		return 0, ""
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return cmp.Compare(b.priority, a.priority) })
	return all[0].priority - all[1].priority, all[0].node
}
