package drift

import (
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Over returns a target with the local changes on top of it, t itself when there
// are none.
func (s *Set) Over(t *target.Target) *target.Target {
	var changed []*agentv1.Resource
	for _, c := range s.All() {
		if r := resource(t, c); r != nil {
			changed = append(changed, r)
		}
	}
	return t.With(changed)
}

// resource is what a change makes of one of t's, nil when t has nothing that it
// is about.
func resource(t *target.Target, c *agentv1.LocalChange) *agentv1.Resource {
	b := c.GetBackend()
	if b == nil {
		return t.DrainResource(c.GetDrain())
	}
	s := t.Server(b.GetPool(), b.GetBackend())
	if s == nil {
		return nil
	}
	return target.ServerResource(server(s, b))
}

// differs tells whether a change makes a difference to what t wants.
func differs(t *target.Target, c *agentv1.LocalChange) bool {
	b := c.GetBackend()
	if b == nil {
		return c.GetDrain() != t.Drained()
	}
	s := t.Server(b.GetPool(), b.GetBackend())
	return s != nil && !proto.Equal(s, server(s, b))
}

// stateOf is a server's administrative state.
func stateOf(s *haproxyv1.Server) agentv1.AdminState {
	switch {
	case s.GetMaintenance():
		return agentv1.AdminState_ADMIN_STATE_MAINTENANCE
	case s.ReadyWeight != nil:
		return agentv1.AdminState_ADMIN_STATE_DRAIN
	default:
		return agentv1.AdminState_ADMIN_STATE_READY
	}
}

// server is a server after a change of its state or weight, as the controller
// would have it in that state.
func server(s *haproxyv1.Server, b *agentv1.LocalBackend) *haproxyv1.Server {
	next := proto.CloneOf(s)
	if s.ReadyWeight != nil {
		next.Weight = s.GetReadyWeight()
	}
	if b.Weight != nil {
		next.Weight = b.GetWeight()
	}
	next.ReadyWeight = nil
	next.Maintenance = b.GetState() == agentv1.AdminState_ADMIN_STATE_MAINTENANCE
	if b.GetState() == agentv1.AdminState_ADMIN_STATE_DRAIN {
		next.ReadyWeight, next.Weight = proto.Uint32(next.GetWeight()), 0
	}
	return next
}
