package state

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Env is what a change may know of the world.
type Env struct {
	// Now is the time of the change.
	Now time.Time
	// Author is who makes it: an operator's name, or "controller".
	Author string
	// Others are the heads of the other clusters: VRIDs and virtual addresses
	// must differ from theirs.
	Others []*Config
	// Reserved are ports that something else on the cluster's machines listens
	// on.
	Reserved []Reserved
	// Passwords hashes statistics passwords; nil means Bcrypt.
	Passwords Passwords
}

// Reserved is a port that no listener can have.
type Reserved struct {
	// Address that is listened on; zero or unspecified: every one.
	Address netip.Addr
	// Port is 1 to 65535.
	Port uint32
	// Owner in words, such as "lb-controller (--grpc-listen) on lb-master".
	Owner string
}

// Change is one change to a configuration, made by the functions of this
// package and applied by Config.Apply. It may be applied more than once.
type Change func(*Draft) error

// Draft is a configuration that a Change works on.
type Draft struct {
	*edition
	env Env
	// fields are the paths, as the user sees them, of the resources in the
	// request.
	fields map[Name]string
	// touched are the resources that were replaced, made or removed.
	touched map[Name]bool
	kinds   map[Kind]bool
	// wrong collects what breaks field rules.
	wrong violations
}

// Apply makes a change. It returns the new Config, one revision further, and
// what has changed in order of the names, before and after, without secrets.
// A change that changes nothing returns the same Config and no changes. The
// error is an *Error, and then nothing has changed.
func (c *Config) Apply(change Change, env Env) (*Config, []*tandemv1.Change, error) {
	if env.Passwords == nil {
		env.Passwords = Bcrypt{}
	}
	d := &Draft{edition: c.edit(), env: env,
		fields: map[Name]string{}, touched: map[Name]bool{}, kinds: map[Kind]bool{}}
	if err := change(d); err != nil {
		return nil, nil, err
	}
	if err := d.wrong.err(); err != nil {
		return nil, nil, err
	}
	if len(d.touched) == 0 {
		return c, nil, nil
	}
	next := d.config()
	next.revision++
	if err := d.check(next); err != nil {
		return nil, nil, err
	}
	changes := d.changes(next)
	if len(changes) == 0 {
		return c, nil, nil
	}
	return next, changes, nil
}

func (d *Draft) touch(n Name) {
	d.touched[n] = true
	d.kinds[n.Kind] = true
}

// etag is the etag of what this draft changes.
func (d *Draft) etag() string { return etag(d.base.epoch, d.base.revision+1) }

// changes compares what was touched before and after.
func (d *Draft) changes(next *Config) []*tandemv1.Change {
	out := make([]*tandemv1.Change, 0, len(d.touched))
	for n := range d.touched {
		before, after := d.base.Resource(n), next.Resource(n)
		if before == nil && after == nil {
			continue
		}
		out = append(out, &tandemv1.Change{Name: n.String(), Before: before, After: after})
	}
	slices.SortFunc(out, func(a, b *tandemv1.Change) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Resource returns a resource as revisions and the store keep it, nil if there
// is none: a pool without backends, a backend without its override, nothing
// secret.
func (c *Config) Resource(n Name) *tandemv1.Resource {
	switch n.Kind {
	case KindCluster:
		if v := c.cluster; v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Cluster{Cluster: v}}
		}
	case KindVip:
		if v := c.Vip(n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Vip{Vip: v}}
		}
	case KindListener:
		if v := c.Listener(n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Listener{Listener: v}}
		}
	case KindPool:
		if v := c.Pool(n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Pool{Pool: v}}
		}
	case KindBackend:
		if v := c.Backend(n.Pool, n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Backend{Backend: bare(v)}}
		}
	case KindOverride:
		if v := c.Override(n.Pool, n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Override{Override: v}}
		}
	case KindNode:
		if v := c.Node(n.ID); v != nil {
			return &tandemv1.Resource{Kind: &tandemv1.Resource_Node{Node: v}}
		}
	}
	return nil
}

// SecretsSince returns the secrets that differ from base's, "" for those that
// are gone.
func (c *Config) SecretsSince(base *Config) map[string]string {
	out := map[string]string{}
	for i, ref := range c.secrets.keys {
		if s := c.secrets.values[i]; base.Secret(ref) != s {
			out[ref] = s
		}
	}
	for _, ref := range base.secrets.keys {
		if c.Secret(ref) == "" {
			out[ref] = ""
		}
	}
	return out
}
