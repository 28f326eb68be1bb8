package node

import (
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/handover"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
)

// carried is what the keeper of handovers must know of the VIPs.
func (n *node) carried() handover.View {
	s := n.vrrp.Snapshot()
	return carriedBy(&s)
}

// carriedBy is carried by what keepalived is known to do. A HAProxy on trial serves the
// connections that it has.
func carriedBy(s *keepalived.Snapshot) handover.View {
	view := handover.View{Known: s.Handovers != nil, Serving: s.Health == 0 || s.Trial}
	for _, i := range s.Instances {
		h, ok := s.Handovers[i.Name]
		if !ok {
			continue
		}
		view.VIPs = append(view.VIPs, handover.VIP{
			Name: i.Name, Interface: h.Interface, Device: h.Device, Addresses: h.Addresses, Timeout: h.Timeout, Peers: h.Peers,
			Role: roles[i.State], Holder: advertiser(&i),
		})
	}
	slices.SortFunc(view.VIPs, func(a, b handover.VIP) int { return strings.Compare(a.Name, b.Name) })
	return view
}

// advertiser is the one other node that advertises an instance; empty: it is not
// known.
func advertiser(i *keepalived.InstanceStatus) string {
	if len(i.Wire.Advertisers) != 1 {
		return ""
	}
	return i.Wire.Advertisers[0].Node
}

// roles by keepalived's word; a state that is not here is neither.
var roles = map[keepalived.InstanceState]handover.Role{
	keepalived.InstanceUnknown: handover.Unknown,
	keepalived.InstanceBackup:  handover.Standby,
	keepalived.InstanceMaster:  handover.Holder,
	keepalived.InstanceInit:    handover.Neither,
	keepalived.InstanceFault:   handover.Neither,
}
