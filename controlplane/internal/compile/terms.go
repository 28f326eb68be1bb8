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
	Vrid     uint32 `json:"vrid"`
	// Advert is the interval between advertisements; 0 with VRRPv3, whose nodes
	// take it from what they hear (RFC 9568, section 6.1, Active_Adver_Interval).
	Advert time.Duration `json:"advert,omitempty"`
}

// TermsOf returns the terms that a VIP is to have.
func TermsOf(c *state.Config, v *tandemv1.Vip) Terms {
	t := Terms{Version: state.EffectiveVrrpVersion(c), Network: state.EffectiveNetwork(v), Vrid: v.GetVrid()}
	if t.Version == 2 {
		t.Password, t.Advert = c.Secret("vrrp/auth"), state.EffectiveAdvertInterval(c, v)
	}
	return t
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
	t := Terms{Version: i.GetVersion(), Password: i.GetAuthPassword(), Network: i.GetNetwork(), Vrid: i.GetVrid()}
	if t.Version == 2 {
		t.Advert = i.GetAdvertInterval().AsDuration()
	}
	return t
}
