package target

import (
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Change is what leads from one target to another one.
type Change struct {
	*agentv1.Update
	// Structure tells that more than servers, the node's drain and its peers change.
	Structure bool
}

// To returns the change that leads from t to another target, which Apply would
// make.
func (t *Target) To(next *Target) Change {
	c := Change{Update: &agentv1.Update{BaseHash: t.Hash(), Version: next.version}}
	for key, r := range next.resources {
		old := t.resources[key]
		if old == r || old != nil && proto.Equal(old, r) {
			continue
		}
		c.Upserts = append(c.Upserts, r)
		c.Structure = c.Structure || r.GetServer() == nil && !sameStructure(old, r)
	}
	for key, r := range t.resources {
		if next.resources[key] == nil {
			c.Removals = append(c.Removals, key)
			c.Structure = c.Structure || r.GetServer() == nil
		}
	}
	return c
}

// sameStructure tells whether two resources differ in the node's drain and its peers
// alone, and so in their versions. Peers come by themselves, whenever another node's
// addresses change: with a full disk they must not hold back what an operator wants.
func sameStructure(a, b *agentv1.Resource) bool {
	was, is := a.GetKeepalivedGlobal(), b.GetKeepalivedGlobal()
	if was == nil || is == nil {
		return false
	}
	was = proto.CloneOf(was)
	was.Drain, was.Peers = is.GetDrain(), is.GetPeers()
	return proto.Equal(was, is)
}
