package fleet

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// holders is who holds a VIP, and since when.
type holders struct {
	nodes []string
	since time.Time
}

// keys returns the name of everything that has a status now, in the order in
// which a watch begins. The lock is held.
func (c *cluster) keys() []key {
	all := make([]key, 0, c.live+8)
	all = append(all, key{kind: kindDesired})
	for _, n := range c.head.Nodes() {
		all = append(all, key{kindNode, lastID(n.GetName())})
	}
	for _, v := range c.head.Vips() {
		all = append(all, key{kindVip, lastID(v.GetName())})
	}
	for _, p := range c.head.Pools() {
		pool := lastID(p.GetName())
		for _, b := range c.head.Backends(pool) {
			all = append(all, key{kindBackend, pool + "/" + lastID(b.GetName())})
		}
	}
	for _, a := range c.alarms() {
		all = append(all, key{kindAlarm, a.GetKey()})
	}
	return all
}

// describe returns the present state of k as a step of a watch. The lock is
// held.
func (c *cluster) describe(k key) *tandemv1.WatchStatusResponse {
	deleted := k.name
	switch k.kind {
	case kindDesired:
		return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Desired{Desired: c.head.Revision()}}
	case kindSynced:
		return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Synced{Synced: true}}
	case kindNode:
		if n := c.nodes[k.name]; n != nil {
			return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Node{Node: c.nodeStatus(n)}}
		}
		deleted = state.NodeName(c.id, k.name).String()
	case kindVip:
		if v := c.head.Vip(k.name); v != nil {
			return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Vip{Vip: c.vipStatus(v)}}
		}
		deleted = state.VipName(c.id, k.name).String()
	case kindBackend:
		pool, backend, _ := strings.Cut(k.name, "/")
		if b := c.head.Backend(pool, backend); b != nil {
			return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Backend{Backend: c.backendStatus(k.name, b)}}
		}
		deleted = state.BackendName(c.id, pool, backend).String()
	case kindAlarm:
		if s := c.suspects[k.name]; s != nil && s.raised {
			return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Alarm{Alarm: s.alarm}}
		}
	}
	return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Deleted{Deleted: deleted}}
}

// status returns everything at once.
func (c *cluster) status() *tandemv1.ClusterStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &tandemv1.ClusterStatus{
		Name:    state.ClusterName(c.id).String(),
		Epoch:   c.head.Epoch(),
		Desired: c.head.Revision(),
		Alarms:  c.alarms(),
	}
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; n != nil {
			out.Nodes = append(out.Nodes, c.nodeStatus(n))
		}
	}
	for _, v := range c.head.Vips() {
		out.Vips = append(out.Vips, c.vipStatus(v))
	}
	for _, p := range c.head.Pools() {
		pool := lastID(p.GetName())
		s := &tandemv1.PoolStatus{Name: p.GetName()}
		for _, b := range c.head.Backends(pool) {
			s.Backends = append(s.Backends, c.backendStatus(pool+"/"+lastID(b.GetName()), b))
		}
		out.Pools = append(out.Pools, s)
	}
	return out
}

func (c *cluster) nodeStatus(n *node) *tandemv1.NodeStatus {
	s := &tandemv1.NodeStatus{
		Name:          state.NodeName(c.id, n.id).String(),
		Connected:     n.session != nil,
		Sent:          n.sent,
		Applied:       n.applied,
		Runtime:       n.runtime,
		Failed:        n.failed,
		Failure:       n.failure,
		Haproxy:       daemonStatus(n.observed.haproxy),
		Keepalived:    daemonStatus(n.observed.keepalived),
		AgentVersion:  n.agentVersion,
		Score:         n.observed.score,
		Problems:      n.observed.problems,
		Reloads:       n.observed.reloads,
		Interfaces:    n.interfaces,
		Drift:         c.drift(n),
		Waiting:       c.waiting(n),
		NotPersistent: n.applied != 0 && n.notPersistent,
	}
	if seen := n.seen.Load(); seen != 0 {
		s.LastSeen = timestamppb.New(time.Unix(0, seen))
	}
	return s
}

func daemonStatus(d *agentv1.DaemonObservation) *tandemv1.DaemonStatus {
	return &tandemv1.DaemonStatus{
		State:     known(tandemv1.DaemonState(d.GetState()), tandemv1.DaemonState_name),
		Version:   d.GetVersion(),
		StartTime: d.GetStartTime(),
		Message:   d.GetMessage(),
	}
}

// known replaces a value of a newer agent by "unspecified". The numbers of the
// agent's enums and those of the API are the same.
func known[E ~int32](e E, names map[int32]string) E {
	if _, ok := names[int32(e)]; !ok {
		return 0
	}
	return e
}

func (c *cluster) vipStatus(v *tandemv1.Vip) *tandemv1.VipStatus {
	id := lastID(v.GetName())
	s := &tandemv1.VipStatus{Name: v.GetName(), Notes: state.Notes(c.head, v), Heard: c.heard(id)}
	if h := c.vips[id]; h != nil {
		s.Holders = h.nodes
		s.Since = timestamppb.New(h.since)
	}
	for _, x := range c.head.Nodes() {
		node := lastID(x.GetName())
		if n := c.nodes[node]; n != nil && len(n.observed.instances[id]) > 0 {
			s.Nodes = append(s.Nodes, vipNodeStatus(node, n.observed.instances[id]))
		}
	}
	c.propose(s, v)
	return s
}

// vipNodeStatus puts a VIP's one or two instances on a node together: the
// worst state, and the lowest priority.
func vipNodeStatus(node string, instances []*agentv1.InstanceObservation) *tandemv1.VipNodeStatus {
	out := &tandemv1.VipNodeStatus{Node: node, Holds: true, Priority: instances[0].GetPriority()}
	worst := slices.MinFunc(instances, func(a, b *agentv1.InstanceObservation) int {
		return cmp.Compare(vrrpRank(a.GetState()), vrrpRank(b.GetState()))
	})
	out.State = known(tandemv1.VrrpState(worst.GetState()), tandemv1.VrrpState_name)
	for _, i := range instances {
		out.Holds = out.Holds && i.GetHolds()
		out.Fenced = out.Fenced || i.GetFenced()
		out.Priority = min(out.Priority, i.GetPriority())
		addTracks(out, i)
		addJitter(out, i)
	}
	return out
}

// vrrpRank orders states from the worst to the best.
func vrrpRank(s agentv1.VrrpState) int {
	switch s {
	case agentv1.VrrpState_VRRP_STATE_FAULT:
		return 0
	case agentv1.VrrpState_VRRP_STATE_INIT:
		return 1
	case agentv1.VrrpState_VRRP_STATE_BACKUP:
		return 2
	case agentv1.VrrpState_VRRP_STATE_MASTER:
		return 3
	default:
		return -1
	}
}

// updateVip notes who holds a VIP now. The lock is held.
func (c *cluster) updateVip(id string) {
	var now []string
	for _, x := range c.head.Nodes() {
		node := lastID(x.GetName())
		if n := c.nodes[node]; n != nil && slices.ContainsFunc(n.observed.instances[id], (*agentv1.InstanceObservation).GetHolds) {
			now = append(now, node)
		}
	}
	h := c.vips[id]
	switch {
	case c.head.Vip(id) == nil:
		if h == nil {
			return // a stray: nobody was told of it
		}
		delete(c.vips, id)
	case h == nil || !slices.Equal(h.nodes, now):
		c.vips[id] = &holders{nodes: now, since: time.Now()}
	}
	c.mark(key{kindVip, id})
}

// backendStatus returns a backend's status, rendered once for all readers.
func (c *cluster) backendStatus(k string, b *tandemv1.Backend) *tandemv1.BackendStatus {
	if s := c.rendered[k]; s != nil {
		return s
	}
	s := &tandemv1.BackendStatus{Name: b.GetName()}
	for _, x := range c.head.Nodes() {
		node := lastID(x.GetName())
		n := c.nodes[node]
		if n == nil {
			continue
		}
		o := n.observed.backends[k]
		if o == nil {
			continue
		}
		state := known(tandemv1.BackendState(o.GetState()), tandemv1.BackendState_name)
		s.State = max(s.State, state)
		s.Nodes = append(s.Nodes, &tandemv1.BackendNodeStatus{
			Node: node, State: state, Weight: o.GetWeight(), Reason: o.GetReason(), Since: o.GetSince(),
		})
	}
	c.rendered[k] = s
	return s
}

// markHead tells watchers what head has made, changed or removed. The lock is
// held.
func (c *cluster) markHead(before *state.Config) {
	if before.Revision() != c.head.Revision() || before.Epoch() != c.head.Epoch() {
		c.mark(key{kind: kindDesired})
	}
	eachDifference(before.Vips(), c.head.Vips(), c.updateVip)
	for _, v := range c.head.Vips() {
		if id := lastID(v.GetName()); before.Vip(id) != nil && before.Vip(id) != v {
			c.mark(key{kindVip, id}) // its notes
		}
	}
	for _, p := range before.Pools() {
		if pool := lastID(p.GetName()); c.head.Pool(pool) == nil {
			c.markBackends(pool, before.Backends(pool), nil)
		}
	}
	for _, p := range c.head.Pools() {
		pool := lastID(p.GetName())
		c.markBackends(pool, before.Backends(pool), c.head.Backends(pool))
	}
}

// markBackends marks the backends that are new or gone. A backend's other
// changes are no change of what is observed.
func (c *cluster) markBackends(pool string, was, is []*tandemv1.Backend) {
	eachDifference(was, is, func(id string) { c.mark(key{kindBackend, pool + "/" + id}) })
}

// eachDifference calls f with the id of everything that is in one of two lists
// only; both are in order of their names.
func eachDifference[R interface {
	comparable
	GetName() string
}](was, is []R, f func(id string)) {
	if len(was) == len(is) && (len(was) == 0 || &was[0] == &is[0]) {
		return
	}
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(was) > 0 && len(is) > 0 && (was[0] == is[0] || was[0].GetName() == is[0].GetName()):
			was, is = was[1:], is[1:]
		case len(was) == 0 || len(is) > 0 && is[0].GetName() < was[0].GetName():
			f(lastID(is[0].GetName()))
			is = is[1:]
		default:
			f(lastID(was[0].GetName()))
			was = was[1:]
		}
	}
}
