package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const instancePrefix = "keepalived/instance/"

// InstanceKeys are the keys of the instances that a VIP may have.
func InstanceKeys(vip string) []string {
	return []string{instancePrefix + instanceName(vip, false), instancePrefix + instanceName(vip, true)}
}

// maxName is how long a name keepalived's driver takes.
const maxName = 32

// instanceName names a VIP's instance, or, when it has both families, its
// second one: by its id, with "-v6" then. Where that is too long, or is what
// another VIP's second instance may be called, a hash takes its place, behind
// an underscore, with which no id begins. It depends on nothing but the id: an
// instance that changes its name drops its addresses.
func instanceName(vip string, second bool) string {
	name := vip
	if second {
		name += "-v6"
	}
	if len(name) <= maxName && (second || !strings.HasSuffix(vip, "-v6")) {
		return name
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %t", vip, second))
	return "_" + vip[:min(len(vip), 20)] + "-" + hex.EncodeToString(sum[:5])
}

// vrrpMemo remembers keepalived's part of one node's configuration and what it
// was made of.
type vrrpMemo struct {
	node     *tandemv1.Node
	cluster  *tandemv1.Cluster
	vips     []*tandemv1.Vip
	peers    []*keepalivedv1.Peer
	taking   map[string]Part
	speakers map[string]Speakers
	password string
	parts    []*part
}

func (m *vrrpMemo) compile(t Target, node string, n *tandemv1.Node) ([]*part, error) {
	c := t.Structure
	password := ""
	if state.EffectiveVrrpVersion(c) == 2 {
		password = c.Secret("vrrp/auth")
	}
	if m.parts != nil && m.node == n && m.cluster == c.Cluster() && sameSlice(m.vips, c.Vips()) && sameSlice(m.peers, t.Peers) && maps.Equal(m.taking, t.Parts) && maps.Equal(m.speakers, t.Speakers) && m.password == password {
		return m.parts, nil
	}
	global := seal(&agentv1.Resource{Key: "keepalived/global", Body: &agentv1.Resource_KeepalivedGlobal{
		KeepalivedGlobal: &keepalivedv1.Global{RouterId: node, Drain: n.GetDrain(), Peers: others(t.Peers, node)},
	}})
	var instances []*agentv1.Resource
	for _, v := range c.Vips() {
		p, special := t.Parts[id(v)]
		switch {
		case p.Out:
			continue
		case !special:
			p.Terms = TermsOf(c, v, t.Speakers[id(v)])
		}
		of, err := vipInstances(c, v, n, p.Terms)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.GetName(), err)
		}
		for _, i := range of {
			instances = append(instances, seal(&agentv1.Resource{
				Key: instancePrefix + i.GetName(), Body: &agentv1.Resource_Instance{Instance: i},
			}))
		}
	}
	slices.SortFunc(instances, func(a, b *agentv1.Resource) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	m.node, m.cluster, m.vips, m.peers, m.taking, m.speakers, m.password = n, c.Cluster(), c.Vips(), t.Peers, t.Parts, t.Speakers, password
	m.parts = []*part{
		newPart("keepalived/global", []*agentv1.Resource{global}),
		newPart(instancePrefix, instances),
	}
	return m.parts, nil
}

// others returns the peers of a node: none if it has told nothing itself.
func others(all []*keepalivedv1.Peer, node string) []*keepalivedv1.Peer {
	own := func(p *keepalivedv1.Peer) bool { return p.GetNode() == node }
	if !slices.ContainsFunc(all, func(p *keepalivedv1.Peer) bool { return own(p) && p.GetNetwork() != "" }) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(all), own)
}

// vipInstances returns one instance for each address family of a VIP.
func vipInstances(c *state.Config, v *tandemv1.Vip, n *tandemv1.Node, terms Terms) ([]*keepalivedv1.Instance, error) {
	all, err := prefixes(v)
	if err != nil {
		return nil, err
	}
	failBack, ok := failBacks[state.EffectiveFailBack(v)]
	if !ok {
		return nil, fmt.Errorf("fail_back %q is unknown", v.GetFailBack())
	}
	needs, err := tracks(v)
	if err != nil {
		return nil, err
	}
	var out []*keepalivedv1.Instance
	families := make(map[bool]*keepalivedv1.Instance, 2)
	for _, p := range all {
		v6 := p.Addr().Is6()
		if v6 && terms.Version == 2 {
			continue // it comes with the terms that can carry it
		}
		source := terms.Speakers.source(n.GetUid(), v6)
		if terms.Unicast && source == "" {
			continue // it could neither be heard nor hear, and would hold the VIP beside the others
		}
		if i := families[v6]; i != nil {
			i.Addresses = append(i.Addresses, p.String())
			continue
		}
		i := &keepalivedv1.Instance{
			Name:           instanceName(id(v), false),
			Vip:            id(v),
			Version:        terms.Version,
			Network:        terms.Network,
			VrrpNetwork:    terms.VrrpNetwork,
			Vrid:           terms.Vrid,
			Priority:       state.EffectivePriority(c, v, n),
			AdvertInterval: durationpb.New(cmp.Or(terms.Advert, state.EffectiveAdvertInterval(c, v))),
			AuthPassword:   terms.Password,
			Anchor:         p.String(),
			FailBack:       failBack,
			Speakers:       terms.Speakers.list(),
			UnicastSource:  source,
			VirtualMac:     terms.VirtualMac,

			AnnounceRepeat:  state.EffectiveAnnounceRepeat(v),
			AnnounceRefresh: durationpb.New(state.EffectiveAnnounceRefresh(v)),
			HandoverTimeout: durationpb.New(state.EffectiveHandoverTimeout(v)),
			Tracks:          needs,
		}
		if failBack == keepalivedv1.FailBack_FAIL_BACK_DELAYED {
			i.FailBackDelay = cmp.Or(v.GetFailBackDelay(), durationpb.New(0))
		}
		families[v6] = i
		out = append(out, i)
	}
	if len(out) == 2 {
		families[true].Name = instanceName(id(v), true)
	}
	return out, nil
}

var failBacks = map[string]keepalivedv1.FailBack{
	"automatic": keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC,
	"delayed":   keepalivedv1.FailBack_FAIL_BACK_DELAYED,
	"never":     keepalivedv1.FailBack_FAIL_BACK_NEVER,
}

// prefixes returns a VIP's addresses in the order given, printed anew.
func prefixes(v *tandemv1.Vip) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(v.GetAddresses()))
	for _, s := range v.GetAddresses() {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func sortParts(parts []*part) {
	slices.SortFunc(parts, func(a, b *part) int { return strings.Compare(a.prefix, b.prefix) })
}
