package fleet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// suspectVip judges who holds a VIP, once the nodes that are to hold it have
// said what they do.
func (c *cluster) suspectVip(v *tandemv1.Vip, add addSuspect) {
	id := lastID(v.GetName())
	var holding []string
	if h := c.vips[id]; h != nil {
		holding = slices.Clone(h.nodes)
	}
	for _, node := range c.heard(id) {
		holding = append(holding, node+" (not connected, and heard to advertise it)")
	}
	if len(holding) > 1 {
		add("TWO_HOLDERS", v.GetName(), moving,
			fmt.Sprintf("VIP %s is held by %s at once: clients reach one of them by chance", id, strings.Join(holding, " and ")),
			"check that the nodes receive each other's VRRP advertisements (protocol 112) on the VIP's network and that no firewall drops them")
		return
	}
	switch g := c.grip(id); {
	case g.unknown != "":
		add("HOLDER_UNKNOWN", v.GetName(), reconnecting,
			fmt.Sprintf("it is not known which node holds VIP %s: %s", id, g.unknown),
			"see what the nodes say that they failed at, bring the agent of a node back that is not connected, and upgrade an lb-agent that is older than the controller")
	case g.none:
		add("NO_HOLDER", v.GetName(), moving,
			fmt.Sprintf("no node holds VIP %s: clients cannot reach it", id),
			"see the state of keepalived and the interface of the VIP's network on each node, and start what is stopped")
	}
}

// grip is what is known of whether a VIP is held. The zero one is held, as far as anyone
// can expect: a VIP that is new, or whose holder may be a node that is silent, counts so.
type grip struct {
	none    bool   // an instance of it is held by no node
	unknown string // why nobody knows; empty: somebody does
}

// grip judges by what the nodes say. While one is silent it may be the holder,
// unless all others say that they hear nobody. The lock is held.
func (c *cluster) grip(vip string) grip {
	var silent, mute, deaf []string
	reported, hearing := 0, false
	holds := make(map[string]bool)
	for _, x := range c.head.Nodes() {
		n := c.nodes[lastID(x.GetName())]
		switch {
		case n == nil || n.session == nil || !n.observed.reported:
			silent = append(silent, lastID(x.GetName()))
			continue
		case !n.expects(vip):
			return grip{}
		case len(n.observed.instances[vip]) == 0:
			mute = append(mute, n.id)
			continue
		}
		reported++
		listens := false
		for _, i := range n.observed.instances[vip] {
			holds[i.GetName()] = holds[i.GetName()] || i.GetHolds()
			hearing = hearing || n.hears(i.GetState()) || hears(i)
			listens = listens || i.GetListens()
		}
		if !listens {
			deaf = append(deaf, n.id)
		}
	}
	none := false
	for _, h := range holds {
		none = none || !h
	}
	switch {
	case reported > 0 && !none || reported == 0 && len(mute) == 0:
		return grip{}
	case hearing && len(silent)+len(mute) > 0:
		return grip{}
	case len(mute) > 0:
		return grip{unknown: fmt.Sprintf("%s is connected and does not tell", strings.Join(mute, ", "))}
	case len(silent) > 0 && len(deaf) == reported:
		return grip{unknown: fmt.Sprintf("%s is not connected, and %s does not listen on the VIP's network",
			strings.Join(silent, ", "), strings.Join(deaf, ", "))}
	default:
		return grip{none: true}
	}
}

// hears tells whether the node, with an instance in that state, may hear a holder
// that says nothing to the controller. The word of a keepalived that the agent does
// not manage is not known; one that is dead hears nobody.
func (n *node) hears(s agentv1.VrrpState) bool {
	return s == agentv1.VrrpState_VRRP_STATE_BACKUP ||
		s == agentv1.VrrpState_VRRP_STATE_UNSPECIFIED && !dead(n.observed.keepalived)
}

// expects tells whether the node has had the chance to bring a VIP up.
func (n *node) expects(vip string) bool {
	if n.failed != 0 {
		return true
	}
	return n.base != nil && slices.ContainsFunc(compile.InstanceKeys(vip), n.base.Has)
}
