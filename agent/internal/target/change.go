package target

import (
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Change is what leads from one target to another one.
type Change struct {
	*agentv1.Update
	// Structure tells that more than servers and the node's drain change.
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
		c.Structure = c.Structure || r.GetServer() == nil && !sameButDrain(old, r)
	}
	for key, r := range t.resources {
		if next.resources[key] == nil {
			c.Removals = append(c.Removals, key)
			c.Structure = c.Structure || r.GetServer() == nil
		}
	}
	return c
}

// sameButDrain tells whether two resources differ in the node's drain alone, and
// so in their versions.
func sameButDrain(a, b *agentv1.Resource) bool {
	was, is := a.GetKeepalivedGlobal(), b.GetKeepalivedGlobal()
	if was == nil || is == nil {
		return false
	}
	was = proto.CloneOf(was)
	was.Drain = is.GetDrain()
	return proto.Equal(was, is)
}
