package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// noun is how one kind of resource is named and shown.
type noun[T any] struct {
	kind   state.Kind
	parent state.Kind
	// child names a resource with an id in its parent.
	child func(parent state.Name, id string) state.Name
	// find returns a resource as it is stored, nil if there is none.
	find func(*state.Config, state.Name) *T
	// view returns a stored resource as users see it; nil: as it is stored.
	view func(*state.Config, *T) *T
}

func (n noun[T]) show(c *state.Config, resource *T) *T {
	if n.view == nil || resource == nil {
		return resource
	}
	return n.view(c, resource)
}

var (
	vipNoun = noun[tandemv1.Vip]{
		kind: state.KindVip, parent: state.KindCluster,
		child: func(parent state.Name, id string) state.Name { return state.VipName(parent.Cluster, id) },
		find:  func(c *state.Config, n state.Name) *tandemv1.Vip { return c.Vip(n.ID) },
	}
	listenerNoun = noun[tandemv1.Listener]{
		kind: state.KindListener, parent: state.KindCluster,
		child: func(parent state.Name, id string) state.Name { return state.ListenerName(parent.Cluster, id) },
		find:  func(c *state.Config, n state.Name) *tandemv1.Listener { return c.Listener(n.ID) },
		view:  state.ListenerView,
	}
	poolNoun = noun[tandemv1.Pool]{
		kind: state.KindPool, parent: state.KindCluster,
		child: func(parent state.Name, id string) state.Name { return state.PoolName(parent.Cluster, id) },
		find:  func(c *state.Config, n state.Name) *tandemv1.Pool { return c.Pool(n.ID) },
		view:  state.PoolView,
	}
	backendNoun = noun[tandemv1.Backend]{
		kind: state.KindBackend, parent: state.KindPool,
		child: func(parent state.Name, id string) state.Name {
			return state.BackendName(parent.Cluster, parent.ID, id)
		},
		find: func(c *state.Config, n state.Name) *tandemv1.Backend { return c.Backend(n.Pool, n.ID) },
	}
	overrideNoun = noun[tandemv1.Override]{
		kind: state.KindOverride, parent: state.KindBackend,
		find: func(c *state.Config, n state.Name) *tandemv1.Override { return c.Override(n.Pool, n.ID) },
	}
	nodeNoun = noun[tandemv1.Node]{
		kind: state.KindNode, parent: state.KindCluster,
		find: func(c *state.Config, n state.Name) *tandemv1.Node { return c.Node(n.ID) },
	}
)

// create makes a resource in a parent. do gets the new resource's name.
func create[T any](ctx context.Context, w *writer, n noun[T], r interface {
	change
	GetParent() string
}, id string, do func(state.Name) state.Change) (*T, error) {
	parent, err := parse(r.GetParent(), n.parent, "parent")
	if err != nil {
		return nil, err
	}
	name := n.child(parent, id)
	return n.changed(ctx, w, r, name, do(name))
}

// update changes a resource. It has its name in the field of its kind.
func update[T any](ctx context.Context, w *writer, n noun[T], r change, name string, do state.Change) (*T, error) {
	parsed, err := parse(name, n.kind, n.kind.String()+".name")
	if err != nil {
		return nil, err
	}
	return n.changed(ctx, w, r, parsed, do)
}

// changed makes a change and returns the resource after it.
func (n noun[T]) changed(ctx context.Context, w *writer, r change, name state.Name, do state.Change) (*T, error) {
	config, err := w.commit(ctx, name.Cluster, r, do)
	if err != nil {
		return nil, err
	}
	return found(n.show(config, n.find(config, name)), name)
}

// remove removes a resource.
func remove[T any](ctx context.Context, w *writer, n noun[T], r interface {
	change
	GetName() string
}, do func(state.Name) state.Change) (*emptypb.Empty, error) {
	name, err := parse(r.GetName(), n.kind, "name")
	if err != nil {
		return nil, err
	}
	if _, err := w.commit(ctx, name.Cluster, r, do(name)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// get returns a resource by its full name.
func get[T any](l *ledger.Ledger, n noun[T], name string) (*T, error) {
	parsed, err := parse(name, n.kind, "name")
	if err != nil {
		return nil, err
	}
	head, err := l.Head(parsed.Cluster)
	if err != nil {
		return nil, err
	}
	return found(n.show(head, n.find(head, parsed)), parsed)
}

func (c *configService) CreateVip(ctx context.Context, r *tandemv1.CreateVipRequest) (*tandemv1.Vip, error) {
	return create(ctx, c.writer, vipNoun, r, r.GetVipId(), func(n state.Name) state.Change {
		return state.CreateVip(n.ID, r.GetVip())
	})
}

func (c *configService) GetVip(_ context.Context, r *tandemv1.GetVipRequest) (*tandemv1.Vip, error) {
	return get(c.writer.Ledger, vipNoun, r.GetName())
}

func (c *configService) ListVips(_ context.Context, r *tandemv1.ListVipsRequest) (*tandemv1.ListVipsResponse, error) {
	vips, next, err := page(c.writer.Ledger, vipNoun, r, func(config *state.Config, _ state.Name) []*tandemv1.Vip {
		return config.Vips()
	})
	return &tandemv1.ListVipsResponse{Vips: vips, NextPageToken: next}, err
}

func (c *configService) UpdateVip(ctx context.Context, r *tandemv1.UpdateVipRequest) (*tandemv1.Vip, error) {
	return update(ctx, c.writer, vipNoun, r, r.GetVip().GetName(), state.UpdateVip(r.GetVip(), r.GetUpdateMask()))
}

func (c *configService) DeleteVip(ctx context.Context, r *tandemv1.DeleteVipRequest) (*emptypb.Empty, error) {
	return remove(ctx, c.writer, vipNoun, r, func(n state.Name) state.Change { return state.DeleteVip(n.ID, r.GetEtag()) })
}

func (c *configService) CreateListener(ctx context.Context, r *tandemv1.CreateListenerRequest) (*tandemv1.Listener, error) {
	return create(ctx, c.writer, listenerNoun, r, r.GetListenerId(), func(n state.Name) state.Change {
		return state.CreateListener(n.ID, r.GetListener())
	})
}

func (c *configService) GetListener(_ context.Context, r *tandemv1.GetListenerRequest) (*tandemv1.Listener, error) {
	return get(c.writer.Ledger, listenerNoun, r.GetName())
}

func (c *configService) ListListeners(_ context.Context, r *tandemv1.ListListenersRequest) (*tandemv1.ListListenersResponse, error) {
	listeners, next, err := page(c.writer.Ledger, listenerNoun, r, func(config *state.Config, _ state.Name) []*tandemv1.Listener {
		return config.Listeners()
	})
	return &tandemv1.ListListenersResponse{Listeners: listeners, NextPageToken: next}, err
}

func (c *configService) UpdateListener(ctx context.Context, r *tandemv1.UpdateListenerRequest) (*tandemv1.Listener, error) {
	return update(ctx, c.writer, listenerNoun, r, r.GetListener().GetName(), state.UpdateListener(r.GetListener(), r.GetUpdateMask()))
}

func (c *configService) DeleteListener(ctx context.Context, r *tandemv1.DeleteListenerRequest) (*emptypb.Empty, error) {
	return remove(ctx, c.writer, listenerNoun, r, func(n state.Name) state.Change { return state.DeleteListener(n.ID, r.GetEtag()) })
}

func (c *configService) CreatePool(ctx context.Context, r *tandemv1.CreatePoolRequest) (*tandemv1.Pool, error) {
	return create(ctx, c.writer, poolNoun, r, r.GetPoolId(), func(n state.Name) state.Change {
		return state.CreatePool(n.ID, r.GetPool())
	})
}

func (c *configService) GetPool(_ context.Context, r *tandemv1.GetPoolRequest) (*tandemv1.Pool, error) {
	return get(c.writer.Ledger, poolNoun, r.GetName())
}

func (c *configService) ListPools(_ context.Context, r *tandemv1.ListPoolsRequest) (*tandemv1.ListPoolsResponse, error) {
	pools, next, err := page(c.writer.Ledger, poolNoun, r, func(config *state.Config, _ state.Name) []*tandemv1.Pool {
		return config.Pools()
	})
	return &tandemv1.ListPoolsResponse{Pools: pools, NextPageToken: next}, err
}

func (c *configService) UpdatePool(ctx context.Context, r *tandemv1.UpdatePoolRequest) (*tandemv1.Pool, error) {
	return update(ctx, c.writer, poolNoun, r, r.GetPool().GetName(), state.UpdatePool(r.GetPool(), r.GetUpdateMask()))
}

func (c *configService) DeletePool(ctx context.Context, r *tandemv1.DeletePoolRequest) (*emptypb.Empty, error) {
	return remove(ctx, c.writer, poolNoun, r, func(n state.Name) state.Change { return state.DeletePool(n.ID, r.GetEtag()) })
}
