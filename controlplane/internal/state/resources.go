package state

import (
	"fmt"
	"maps"
	"net/netip"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var vipNoun = noun[*tandemv1.Vip]{
	kind:   KindVip,
	exists: ReasonVipExists,
	table:  func(d *Draft, _ Name) *editor[*tandemv1.Vip] { return &d.vips },
	tidy: func(x, _ *tandemv1.Vip) {
		for i, a := range x.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				x.Addresses[i] = p.String()
			}
		}
		for _, t := range x.Tracks {
			t.Target = canonical(t.Target)
		}
	},
}

var listenerNoun = noun[*tandemv1.Listener]{
	kind:   KindListener,
	exists: ReasonListenerExists,
	table:  func(d *Draft, _ Name) *editor[*tandemv1.Listener] { return &d.listeners },
	tidy: func(x, _ *tandemv1.Listener) {
		x.Effective = nil
		for _, b := range x.Binds {
			b.Address = canonical(b.Address)
			if b.PortEnd == b.Port {
				b.PortEnd = 0
			}
		}
	},
}

var poolNoun = noun[*tandemv1.Pool]{
	kind:   KindPool,
	exists: ReasonPoolExists,
	table:  func(d *Draft, _ Name) *editor[*tandemv1.Pool] { return &d.pools },
	tidy:   func(x, _ *tandemv1.Pool) { x.Effective = nil },
	removed: func(d *Draft, n Name) {
		for _, id := range d.pool(n.ID).keys {
			d.dropOverride(OverrideName(n.Cluster, n.ID, id))
			d.touch(BackendName(n.Cluster, n.ID, id))
		}
		d.backends[n.ID] = &editor[*tandemv1.Backend]{}
	},
}

var backendNoun = noun[*tandemv1.Backend]{
	kind:   KindBackend,
	exists: ReasonBackendExists,
	table:  func(d *Draft, n Name) *editor[*tandemv1.Backend] { return d.pool(n.Pool) },
	parent: func(d *Draft, n Name) error {
		if _, ok := d.pools.get(n.Pool); !ok {
			return notFound(PoolName(n.Cluster, n.Pool))
		}
		return nil
	},
	tidy: func(x, old *tandemv1.Backend) {
		x.Address = canonical(x.Address)
		x.Id, x.Override = old.GetId(), old.GetOverride()
	},
	admit: func(d *Draft, x *tandemv1.Backend) {
		d.counters.Backend++
		x.Id = d.counters.Backend
	},
	removed: func(d *Draft, n Name) { d.dropOverride(OverrideName(n.Cluster, n.Pool, n.ID)) },
}

var nodeNoun = noun[*tandemv1.Node]{
	kind:   KindNode,
	exists: ReasonNodeExists,
	table:  func(d *Draft, _ Name) *editor[*tandemv1.Node] { return &d.nodes },
	tidy: func(x, old *tandemv1.Node) {
		if old != nil {
			x.Uid, x.Number, x.JoinTime = old.Uid, old.Number, old.JoinTime
		}
	},
	admit: func(d *Draft, x *tandemv1.Node) {
		d.counters.Node++
		x.Number, x.JoinTime = d.counters.Node, timestamppb.New(d.env.Now)
	},
	removed: func(d *Draft, n Name) { d.forgetNode(n.ID) },
}

// CreateVip makes a VIP.
func CreateVip(id string, x *tandemv1.Vip) Change { return vipNoun.create("", id, x) }

// UpdateVip changes fields of the VIP that x names. An etag in x must be the
// current one, here and in the functions below.
func UpdateVip(x *tandemv1.Vip, mask *fieldmaskpb.FieldMask) Change { return vipNoun.update(x, mask) }

// DeleteVip removes a VIP that no listener is bound to.
func DeleteVip(id, etag string) Change { return vipNoun.remove("", id, etag) }

// CreateListener makes a listener.
func CreateListener(id string, x *tandemv1.Listener) Change { return listenerNoun.create("", id, x) }

// UpdateListener changes fields of the listener that x names.
func UpdateListener(x *tandemv1.Listener, mask *fieldmaskpb.FieldMask) Change {
	return listenerNoun.update(x, mask)
}

// DeleteListener removes a listener.
func DeleteListener(id, etag string) Change { return listenerNoun.remove("", id, etag) }

// CreatePool makes a pool without backends.
func CreatePool(id string, x *tandemv1.Pool) Change {
	return withoutBackends(x, poolNoun.create("", id, x))
}

// UpdatePool changes fields of the pool that x names, not its backends.
func UpdatePool(x *tandemv1.Pool, mask *fieldmaskpb.FieldMask) Change {
	return withoutBackends(x, poolNoun.update(x, mask))
}

// DeletePool removes a pool that no listener refers to, with its backends.
func DeletePool(id, etag string) Change { return poolNoun.remove("", id, etag) }

// CreateBackend adds a backend to a pool.
func CreateBackend(pool, id string, x *tandemv1.Backend) Change {
	return backendNoun.create(pool, id, x)
}

// UpdateBackend changes fields of the backend that x names.
func UpdateBackend(x *tandemv1.Backend, mask *fieldmaskpb.FieldMask) Change {
	return backendNoun.update(x, mask)
}

// DeleteBackend removes a backend and its override.
func DeleteBackend(pool, id, etag string) Change { return backendNoun.remove(pool, id, etag) }

// AddNode makes the node that has joined with the identity uid. With the same
// uid again it changes nothing.
func AddNode(id, uid string) Change {
	return func(d *Draft) error {
		if old, ok := d.nodes.get(id); ok && old.GetUid() == uid {
			return nil
		}
		return nodeNoun.create("", id, &tandemv1.Node{Uid: uid})(d)
	}
}

// ReplaceNode gives the place of the node with the identity old to another
// machine, with the identity uid: its drain, number and priorities stay. With
// the same uid again it changes nothing.
func ReplaceNode(id, old, uid string) Change {
	return func(d *Draft) error {
		n := NodeName(d.base.id, id)
		node, ok := d.nodes.get(id)
		switch {
		case !ok:
			return notFound(n)
		case node.GetUid() == uid:
			return nil
		case node.GetUid() != old:
			return &Error{Code: FailedPrecondition, Reason: ReasonNodeReplaced, Name: n.String(),
				Message: fmt.Sprintf("another machine has taken the place of node %q already: make a new token if this one shall", id)}
		}
		node = proto.CloneOf(node)
		node.Uid, node.Etag = uid, d.etag()
		d.nodes.set(id, node)
		d.touch(n)
		return nil
	}
}

// UpdateNode changes what is desired of the node that x names.
func UpdateNode(x *tandemv1.Node, mask *fieldmaskpb.FieldMask) Change {
	return nodeNoun.update(x, mask)
}

// DeleteNode forgets a node, with its priorities in the VIPs.
func DeleteNode(id, etag string) Change { return nodeNoun.remove("", id, etag) }

// forgetNode takes a removed node out of the VIPs' priorities.
func (d *Draft) forgetNode(id string) {
	for i, v := range d.vips.values {
		if _, ok := v.Priorities[id]; !ok {
			continue
		}
		v = proto.CloneOf(v)
		v.Priorities = maps.Clone(v.Priorities)
		delete(v.Priorities, id)
		v.Etag = d.etag()
		d.vips.set(d.vips.keys[i], v)
		d.touch(VipName(d.base.id, d.vips.keys[i]))
	}
}

func withoutBackends(x *tandemv1.Pool, c Change) Change {
	return func(d *Draft) error {
		if len(x.GetBackends()) > 0 {
			return invalid("pool.backends", ReasonBackendsElsewhere,
				"backends are resources of their own: create, update and delete them as such")
		}
		return c(d)
	}
}

// bare returns a backend without its override.
func bare(b *tandemv1.Backend) *tandemv1.Backend {
	if b.Override == nil {
		return b
	}
	b = proto.CloneOf(b)
	b.Override = nil
	return b
}

// canonical prints an address in its one form; what is no address, or has a
// zone, is left for the field rules to refuse.
func canonical(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" {
		return address
	}
	return a.Unmap().String()
}
