package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxAuthorities bounds the CAs that an agent says it trusts; a rotation has two.
const maxAuthorities = 8

// Trust is what a node's agent has said of its identity.
type Trust struct {
	// Name is the node's full name.
	Name string
	// Connected tells whether it has a session now.
	Connected bool
	// Identity is the newest that it has told; nil: none since the start.
	Identity *agentv1.IdentityState
}

// Trusts returns the trust of all nodes of all clusters, in order of their names.
func (f *Fleet) Trusts() []Trust {
	f.mu.Lock()
	clusters := slices.Collect(maps.Values(f.clusters))
	f.mu.Unlock()
	var all []Trust
	for _, c := range clusters {
		all = append(all, c.trusts()...)
	}
	slices.SortFunc(all, func(a, b Trust) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (c *cluster) trusts() (all []Trust) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.head.Nodes() {
		t := Trust{Name: state.NodeName(c.id, lastID(x.GetName())).String()}
		if n := c.nodes[lastID(x.GetName())]; n != nil && n.uid == x.GetUid() {
			t.Connected, t.Identity = n.session != nil, n.identity
		}
		all = append(all, t)
	}
	return all
}

// Renew asks every agent whose identity is outdated to renew it: now if it has a
// session, else when it begins one.
func (f *Fleet) Renew() {
	f.mu.Lock()
	clusters := slices.Collect(maps.Values(f.clusters))
	f.mu.Unlock()
	for _, c := range clusters {
		c.mu.Lock()
		for _, n := range c.nodes {
			if n.session != nil {
				n.session.outdated.put(struct{}{})
			}
		}
		c.mu.Unlock()
	}
}

// Recovered logs that a node has got a new certificate though its own was out of
// its time, and why that one was. A node can bring it about as often as it likes:
// what its budget does not allow is counted only.
func (f *Fleet) Recovered(id Identity, why error) {
	c, err := f.cluster(id.Cluster)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id.Node]; n != nil && n.uid == id.UID {
		c.nodeEvent(n, reasonRecovered, fmt.Sprintf("node %s got a new certificate though its time was over: %v", n.id, why), 0)
	}
}

// askRenewal asks the agent to renew its certificate if that changes anything.
func (s *session) askRenewal() error {
	var now *agentv1.IdentityState
	s.cluster.with(s, func(n *node) { now = n.identity })
	// An older agent tells nothing, and does not know the question.
	if now == nil || !s.cluster.options.Outdated(now) {
		return nil
	}
	return s.send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Renew{Renew: &agentv1.RenewNow{}}})
}

// boundedIdentity copies what an agent says of its identity.
func boundedIdentity(s *agentv1.IdentityState) *agentv1.IdentityState {
	if s == nil {
		return nil
	}
	out := &agentv1.IdentityState{Issuer: boundedHash(s.GetIssuer()), ExpireTime: validTime(s.GetExpireTime())}
	for _, hash := range s.GetAuthorities()[:min(len(s.GetAuthorities()), maxAuthorities)] {
		out.Authorities = append(out.Authorities, boundedHash(hash))
	}
	return out
}

func boundedHash(hash []byte) []byte { return slices.Clone(hash[:min(len(hash), maxWord)]) }
