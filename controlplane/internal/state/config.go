// Package state is the controller's pure core: the published configuration of
// a cluster, the changes that can be made to it, and the rules that hold
// between resources. It does no I/O and knows neither time nor randomness but
// what an Env brings in.
//
// Field rules are written in the proto files; every resource that a change
// touches is checked against them here too, so that nothing reaches a Config
// by a way around them.
package state

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
)

// Config is the configuration of one cluster at one revision. It never
// changes; Apply makes a new one that shares all that stayed the same, so that
// a message whose pointer is the same is the same.
//
// Messages and slices that it hands out are shared: clone before changing one.
// They hold what is stored. Effective values are filled in by the View
// functions; secrets are in no message, see Secret.
type Config struct {
	id       string
	epoch    string
	revision uint64
	deleted  bool
	counters Counters

	cluster   *tandemv1.Cluster
	vips      table[*tandemv1.Vip]
	listeners table[*tandemv1.Listener]
	pools     table[*tandemv1.Pool]
	backends  table[table[*tandemv1.Backend]] // by pool
	overrides table[*tandemv1.Override]       // by "pool/backend"
	nodes     table[*tandemv1.Node]
	ordered   []*tandemv1.Node // nodes by number
	secrets   table[string]
}

// Counters are numbers of a cluster that only grow.
type Counters struct {
	// Backend is the last id given to a backend in the cluster.
	Backend uint32
	// Node is the last number given to a node.
	Node uint32
	// Defaults is the version of the defaults that the cluster was made with.
	Defaults uint32
}

// Content is what a store keeps of a Config.
type Content struct {
	// Resources in any order, as in the After of the changes that made them.
	Resources []*tandemv1.Resource
	// Secrets by reference; see Config.Secret.
	Secrets map[string]string
	// Counters as the last change left them.
	Counters Counters
}

// New returns a cluster that does not exist yet, to apply CreateCluster to.
// revision is the last one of a deleted cluster of the same name, else 0.
func New(id, epoch string, revision uint64) *Config {
	return &Config{id: id, epoch: epoch, revision: revision, deleted: true}
}

// Load returns the cluster that a store holds. It fails when the content is
// not what this version of the controller can have stored.
func Load(id, epoch string, revision uint64, content Content) (*Config, error) {
	c := &Config{id: id, epoch: epoch, revision: revision, counters: content.Counters}
	if _, ok := defaultsByVersion[c.counters.Defaults]; !ok {
		return nil, fmt.Errorf("cluster %q: its defaults have version %d, this controller knows up to %d: use a newer controller",
			id, c.counters.Defaults, newestDefaults)
	}
	e := c.edit()
	for _, r := range content.Resources {
		if err := e.load(r); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", id, err)
		}
	}
	if e.cluster == nil {
		return nil, fmt.Errorf("cluster %q: its settings are missing from the store", id)
	}
	for ref, secret := range content.Secrets {
		e.secrets.set(ref, secret)
	}
	return e.config(), nil
}

// ID is the cluster's id, the last part of its name.
func (c *Config) ID() string { return c.id }

// Epoch is minted when the store is made or restored; revisions compare within
// one epoch only.
func (c *Config) Epoch() string { return c.epoch }

// Revision is the number of the change that made this Config; 0: none yet.
func (c *Config) Revision() uint64 { return c.revision }

// Deleted tells that the cluster does not exist: not yet, or no longer.
func (c *Config) Deleted() bool { return c.deleted }

// Counters are kept by the store beside the resources.
func (c *Config) Counters() Counters { return c.counters }

// ETag is the cluster's etag: it changes with every revision.
func (c *Config) ETag() string { return etag(c.epoch, c.revision) }

func etag(epoch string, revision uint64) string {
	if len(epoch) > 8 {
		epoch = epoch[:8]
	}
	return epoch + "-" + strconv.FormatUint(revision, 36)
}

// Cluster returns the cluster's settings without etag and effective values;
// see ClusterView.
func (c *Config) Cluster() *tandemv1.Cluster { return c.cluster }

// Vip returns a VIP, nil if there is none.
func (c *Config) Vip(id string) *tandemv1.Vip { v, _ := c.vips.get(id); return v }

// Vips returns all VIPs in order of their names.
func (c *Config) Vips() []*tandemv1.Vip { return c.vips.values }

// Listener returns a listener, nil if there is none.
func (c *Config) Listener(id string) *tandemv1.Listener { v, _ := c.listeners.get(id); return v }

// Listeners returns all listeners in order of their names.
func (c *Config) Listeners() []*tandemv1.Listener { return c.listeners.values }

// Pool returns a pool without its backends, nil if there is none.
func (c *Config) Pool(id string) *tandemv1.Pool { v, _ := c.pools.get(id); return v }

// Pools returns all pools, without their backends, in order of their names.
func (c *Config) Pools() []*tandemv1.Pool { return c.pools.values }

// Backend returns a backend with its override, nil if there is none.
func (c *Config) Backend(pool, id string) *tandemv1.Backend {
	t, _ := c.backends.get(pool)
	v, _ := t.get(id)
	return v
}

// Backends returns a pool's backends with their overrides, in order of their
// names. While a pool's backends stay the same, so does the slice.
func (c *Config) Backends(pool string) []*tandemv1.Backend {
	t, _ := c.backends.get(pool)
	return t.values
}

// Override returns a backend's override, nil if there is none.
func (c *Config) Override(pool, backend string) *tandemv1.Override {
	v, _ := c.overrides.get(pool + "/" + backend)
	return v
}

// Overrides returns all overrides of the cluster.
func (c *Config) Overrides() []*tandemv1.Override { return c.overrides.values }

// Node returns a node, nil if there is none.
func (c *Config) Node(id string) *tandemv1.Node { v, _ := c.nodes.get(id); return v }

// Nodes returns all nodes in order of their numbers.
func (c *Config) Nodes() []*tandemv1.Node { return c.ordered }

// Secret returns what is stored under a reference, "" if nothing is:
// "stats/{user}" is a bcrypt hash in crypt(3) form, "vrrp/auth" is VRRPv2's
// plain password.
func (c *Config) Secret(ref string) string { s, _ := c.secrets.get(ref); return s }

// SecretRefs returns the references of all secrets, sorted.
func (c *Config) SecretRefs() []string { return c.secrets.keys }

const vrrpSecret = "vrrp/auth"

func statsSecret(user string) string { return "stats/" + user }

// edition is a Config in the making.
type edition struct {
	base      *Config
	cluster   *tandemv1.Cluster
	deleted   bool
	counters  Counters
	vips      editor[*tandemv1.Vip]
	listeners editor[*tandemv1.Listener]
	pools     editor[*tandemv1.Pool]
	backends  map[string]*editor[*tandemv1.Backend] // pools that are touched; nil: removed
	overrides editor[*tandemv1.Override]
	nodes     editor[*tandemv1.Node]
	secrets   editor[string]
}

func (c *Config) edit() *edition {
	return &edition{
		base: c, cluster: c.cluster, deleted: c.deleted, counters: c.counters,
		vips:      editor[*tandemv1.Vip]{table: c.vips},
		listeners: editor[*tandemv1.Listener]{table: c.listeners},
		pools:     editor[*tandemv1.Pool]{table: c.pools},
		backends:  map[string]*editor[*tandemv1.Backend]{},
		overrides: editor[*tandemv1.Override]{table: c.overrides},
		nodes:     editor[*tandemv1.Node]{table: c.nodes},
		secrets:   editor[string]{table: c.secrets},
	}
}

// pool returns the editor of a pool's backends.
func (e *edition) pool(id string) *editor[*tandemv1.Backend] {
	b := e.backends[id]
	if b == nil {
		t, _ := e.base.backends.get(id)
		b = &editor[*tandemv1.Backend]{table: t}
		e.backends[id] = b
	}
	return b
}

// config returns the Config that the edition has become, at its base's revision.
func (e *edition) config() *Config {
	c := *e.base
	c.cluster, c.deleted, c.counters = e.cluster, e.deleted, e.counters
	c.vips, c.listeners, c.pools = e.vips.table, e.listeners.table, e.pools.table
	c.overrides, c.secrets = e.overrides.table, e.secrets.table
	if e.nodes.ownValues {
		c.nodes = e.nodes.table
		c.ordered = slices.SortedFunc(slices.Values(c.nodes.values), func(a, b *tandemv1.Node) int {
			return cmp.Compare(a.GetNumber(), b.GetNumber())
		})
	}
	backends := editor[table[*tandemv1.Backend]]{table: c.backends}
	for id, b := range e.backends {
		if len(b.keys) == 0 {
			backends.remove(id)
		} else if b.ownValues {
			backends.set(id, b.table)
		}
	}
	c.backends = backends.table
	return &c
}

// load takes one stored resource in.
func (e *edition) load(r *tandemv1.Resource) error {
	switch k := r.GetKind().(type) {
	case *tandemv1.Resource_Cluster:
		e.cluster = k.Cluster
	case *tandemv1.Resource_Vip:
		return loadInto(&e.vips, k.Vip)
	case *tandemv1.Resource_Listener:
		return loadInto(&e.listeners, k.Listener)
	case *tandemv1.Resource_Pool:
		return loadInto(&e.pools, k.Pool)
	case *tandemv1.Resource_Node:
		return loadInto(&e.nodes, k.Node)
	case *tandemv1.Resource_Backend:
		return e.loadBackend(k.Backend)
	case *tandemv1.Resource_Override:
		return e.loadOverride(k.Override)
	default:
		return fmt.Errorf("a stored resource has kind %T, unknown to this controller: use a newer one", k)
	}
	return nil
}

func loadInto[V interface{ GetName() string }](t *editor[V], v V) error {
	n, err := ParseName(v.GetName())
	if err != nil {
		return err
	}
	t.set(n.key(), v)
	return nil
}

func (e *edition) loadBackend(b *tandemv1.Backend) error {
	n, err := ParseName(b.GetName())
	if err != nil {
		return err
	}
	if o, ok := e.overrides.get(n.key()); ok {
		b.Override = o
	}
	e.pool(n.Pool).set(n.ID, b)
	return nil
}

func (e *edition) loadOverride(o *tandemv1.Override) error {
	n, err := ParseName(o.GetName())
	if err != nil {
		return err
	}
	e.overrides.set(n.key(), o)
	if b, ok := e.pool(n.Pool).get(n.ID); ok {
		e.setOverride(n, b, o)
	}
	return nil
}

// setOverride sets a backend's override, or removes it with nil.
func (e *edition) setOverride(n Name, b *tandemv1.Backend, o *tandemv1.Override) {
	b = proto.CloneOf(b)
	b.Override = o
	e.pool(n.Pool).set(n.ID, b)
}
