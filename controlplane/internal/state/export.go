package state

import (
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
)

// Export returns the cluster as ApplyConfig takes it: names are ids, nothing
// is output-only, no overrides, no secrets. Applied again, it changes nothing.
func Export(c *Config) *tandemv1.ClusterConfig {
	out := &tandemv1.ClusterConfig{Cluster: exportCluster(c)}
	for i, v := range c.vips.values {
		v = proto.CloneOf(v)
		v.Name, v.Etag = c.vips.keys[i], ""
		out.Vips = append(out.Vips, v)
	}
	for i, p := range c.pools.values {
		p = proto.CloneOf(p)
		p.Name, p.Etag = c.pools.keys[i], ""
		p.Backends = exportBackends(c, p.Name)
		out.Pools = append(out.Pools, p)
	}
	for i, l := range c.listeners.values {
		l = proto.CloneOf(l)
		l.Name, l.Etag = c.listeners.keys[i], ""
		out.Listeners = append(out.Listeners, l)
	}
	return out
}

func exportCluster(c *Config) *tandemv1.Cluster {
	x := proto.CloneOf(c.cluster)
	x.Name, x.CreateTime = c.id, nil
	for _, u := range x.GetStatsPage().GetUsers() {
		u.PasswordSet = false
	}
	if x.Vrrp != nil {
		x.Vrrp.AuthPasswordSet = false
	}
	return x
}

func exportBackends(c *Config, pool string) []*tandemv1.Backend {
	t, _ := c.backends.get(pool)
	var out []*tandemv1.Backend
	for i, b := range t.values {
		out = append(out, &tandemv1.Backend{
			Name: t.keys[i], Address: b.Address, Port: b.Port,
			Weight: b.Weight, MaxConnections: b.MaxConnections, Backup: b.Backup,
		})
	}
	return out
}

// ClusterView returns the cluster as users see it, with etag and effective
// defaults; nil if it is Deleted.
func ClusterView(c *Config) *tandemv1.Cluster {
	if c.Deleted() {
		return nil
	}
	x := proto.CloneOf(c.cluster)
	x.Etag, x.EffectiveDefaults = c.ETag(), EffectiveCluster(c)
	return x
}

// ListenerView returns a listener of c as users see it, with its effective
// settings.
func ListenerView(c *Config, l *tandemv1.Listener) *tandemv1.Listener {
	l = proto.CloneOf(l)
	l.Effective = EffectiveListener(c, l)
	return l
}

// PoolView returns a pool of c as users see it, with its effective settings.
func PoolView(c *Config, p *tandemv1.Pool) *tandemv1.Pool {
	p = proto.CloneOf(p)
	p.Effective = EffectivePool(c, p)
	return p
}
