package compile

import (
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Terms are what all nodes of a VIP must have alike at every moment: one that has
// others does not hear the holder, and holds the VIP too. (The anchor is such a
// thing as well, and never changes.)
type Terms struct {
	Version  uint32 `json:"version"`
	Password string `json:"password,omitempty"`
	Network  string `json:"network"`
	// VrrpNetwork is what advertisements go over; "" if that is Network.
	VrrpNetwork string `json:"vrrp_network,omitempty"`
	Vrid        uint32 `json:"vrid"`
	// VirtualMac tells that the addresses have the virtual router's own link-layer
	// address.
	VirtualMac bool `json:"virtual_mac,omitempty"`
	// Unicast tells that Speakers advertise to each other alone; a node that is none
	// of them has no instance.
	Unicast  bool     `json:"unicast,omitempty"`
	Speakers Speakers `json:"speakers,omitempty"`
	// Advert is the interval between advertisements; 0 with VRRPv3, whose nodes
	// take it from what they hear (RFC 9568, section 6.1, Active_Adver_Interval).
	Advert time.Duration `json:"advert,omitempty"`
}

// TermsOf returns the terms that a VIP is to have; speakers count with unicast only.
func TermsOf(c *state.Config, v *tandemv1.Vip, speakers Speakers) Terms {
	t := Terms{Version: state.EffectiveVrrpVersion(c), Network: state.EffectiveNetwork(v), Vrid: v.GetVrid(), VirtualMac: v.GetVirtualMac()}
	if over := state.EffectiveVrrpNetwork(v); over != t.Network {
		t.VrrpNetwork = over
	}
	if t.Unicast = state.EffectiveUnicast(c, v); t.Unicast {
		t.Speakers = speakers
	}
	if t.Version == 2 {
		t.Password, t.Advert = c.Secret("vrrp/auth"), state.EffectiveAdvertInterval(c, v)
	}
	return t
}

// DifferInSpeakers tells whether nothing but the addresses of speakers differs.
func (t Terms) DifferInSpeakers(other Terms) bool {
	same := t
	same.Speakers = other.Speakers
	return t != other && same == other
}

// Part is how a node takes part in a VIP, where that is not what the structure
// says.
type Part struct {
	// Out: the node has no instance of the VIP.
	Out bool
	// Terms that it has, if it is not out.
	Terms Terms
	// Since is the revision that wants other terms.
	Since uint64
}

// Terms returns those of a VIP in this configuration; false: it has no instance.
func (c *Config) Terms(vip string) (Terms, bool) {
	for _, p := range c.parts() {
		for _, key := range InstanceKeys(vip) {
			if r := p.get(key); r != nil {
				return termsIn(r.GetInstance()), true
			}
		}
	}
	return Terms{}, false
}

func termsIn(i *keepalivedv1.Instance) Terms {
	t := Terms{Version: i.GetVersion(), Password: i.GetAuthPassword(), Network: i.GetNetwork(), VrrpNetwork: i.GetVrrpNetwork(), Vrid: i.GetVrid(), VirtualMac: i.GetVirtualMac(),
		Unicast: len(i.GetSpeakers()) > 0, Speakers: speakers(i.GetSpeakers())}
	if t.Version == 2 {
		t.Advert = i.GetAdvertInterval().AsDuration()
	}
	return t
}
