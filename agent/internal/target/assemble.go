package target

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// HAProxy puts the resources of HAProxy together: frontends and backends in
// order of their names, servers in order of their ids. A server without its
// backend is an error: the controller never sends one.
func (t *Target) HAProxy() (*haproxyv1.Config, error) {
	c := &haproxyv1.Config{Global: &haproxyv1.Global{}}
	backends := make(map[string]*haproxyv1.Backend)
	var servers []*haproxyv1.Server
	for _, r := range t.resources {
		if g := r.GetHaproxyGlobal(); g != nil {
			c.Global = g
		}
		if f := r.GetFrontend(); f != nil {
			c.Frontends = append(c.Frontends, f)
		}
		if b := r.GetBackend(); b != nil {
			own := shallowBackend(b)
			backends[b.GetName()] = own
			c.Backends = append(c.Backends, own)
		}
		if s := r.GetServer(); s != nil {
			servers = append(servers, s)
		}
	}
	for _, s := range servers {
		b := backends[s.GetBackend()]
		if b == nil {
			return nil, fmt.Errorf("server %s/%s has no backend section", s.GetBackend(), s.GetName())
		}
		b.Servers = append(b.Servers, s)
	}
	slices.SortFunc(c.Frontends, func(a, b *haproxyv1.Frontend) int { return cmp.Compare(a.GetName(), b.GetName()) })
	slices.SortFunc(c.Backends, func(a, b *haproxyv1.Backend) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, b := range c.Backends {
		slices.SortFunc(b.Servers, func(a, b *haproxyv1.Server) int { return cmp.Compare(a.GetId(), b.GetId()) })
	}
	return c, nil
}

// shallowBackend copies b without its servers, so that the resource that
// several targets share is never written to.
func shallowBackend(b *haproxyv1.Backend) *haproxyv1.Backend {
	own := &haproxyv1.Backend{}
	proto.Merge(own, b)
	own.Servers = nil
	return own
}

// Keepalived puts the resources of keepalived together, instances in order of
// their names.
func (t *Target) Keepalived() *keepalivedv1.Config {
	c := &keepalivedv1.Config{Global: &keepalivedv1.Global{}}
	for _, r := range t.resources {
		if g := r.GetKeepalivedGlobal(); g != nil {
			c.Global = g
		}
		if i := r.GetInstance(); i != nil {
			c.Instances = append(c.Instances, i)
		}
	}
	slices.SortFunc(c.Instances, func(a, b *keepalivedv1.Instance) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return c
}
