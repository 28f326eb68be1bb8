package state

import (
	"errors"
	"fmt"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ApplyConfig makes the cluster be what the file x says: what is not in it is
// removed, but never a node; overrides stay as long as their backends do. An
// etag, if given, must be the cluster's current one.
func ApplyConfig(x *tandemv1.ClusterConfig, etag string) Change {
	return func(d *Draft) error {
		if d.deleted {
			return notFound(ClusterName(d.base.id))
		}
		if err := d.checkHead(etag); err != nil {
			return err
		}
		if err := d.applyCluster(x.GetCluster()); err != nil {
			return err
		}
		if err := applyAll(d, vipNoun, "", x.GetVips(), "config.vips", d.base.vips.keys); err != nil {
			return err
		}
		if err := d.applyPools(x.GetPools()); err != nil {
			return err
		}
		return applyAll(d, listenerNoun, "", x.GetListeners(), "config.listeners", d.base.listeners.keys)
	}
}

func (d *Draft) applyCluster(x *tandemv1.Cluster) error {
	const field = "config.cluster"
	x = cloned(x)
	if n, err := ParseName(x.Name); x.Name != "" && x.Name != d.base.id && (err != nil || n != ClusterName(d.base.id)) {
		return invalid(field+".name", ReasonClusterMismatch,
			"the file is for cluster %q and was sent to cluster %q: send it there, or leave the name out", x.Name, d.base.id)
	}
	if err := d.checkHead(x.Etag); err != nil {
		return err
	}
	return d.putCluster(x, field)
}

func (d *Draft) applyPools(pools []*tandemv1.Pool) error {
	alone := make([]*tandemv1.Pool, len(pools))
	for i, p := range pools {
		alone[i] = withoutList(p)
	}
	if err := applyAll(d, poolNoun, "", alone, "config.pools", d.base.pools.keys); err != nil {
		return err
	}
	for i, p := range pools {
		n, err := d.parse(KindPool, p.GetName(), "", "")
		if err != nil {
			continue // applyAll has reported it
		}
		field := fmt.Sprintf("config.pools[%d].backends", i)
		if err := applyAll(d, backendNoun, n.ID, p.GetBackends(), field, d.base.backendIDs(n.ID)); err != nil {
			return err
		}
	}
	return nil
}

// applyAll makes the resources of one kind be those of the list: it puts each,
// and drops those of before that are not among them.
func applyAll[V message](d *Draft, k noun[V], pool string, list []V, field string, before []string) error {
	seen := make(map[string]bool, len(list))
	for i, x := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		n, err := d.parse(k.kind, x.GetName(), pool, at+".name")
		if err != nil {
			if err := d.collect(err); err != nil {
				return err
			}
			continue
		}
		if seen[n.ID] {
			d.wrong.add(Invalid, at+".name", k.exists, "%s %q is in the file already: name each once", k.kind, n.ID)
			continue
		}
		seen[n.ID] = true
		if err := k.put(d, n, cloned(x), at); err != nil {
			return err
		}
	}
	for _, id := range before {
		if !seen[id] {
			k.drop(d, Name{Kind: k.kind, Cluster: d.base.id, Pool: pool, ID: id})
		}
	}
	return nil
}

// collect adds an Invalid error to what is wrong and returns any other.
func (d *Draft) collect(err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Code != Invalid {
		return err
	}
	for _, v := range e.Violations {
		d.wrong.add(Invalid, v.Field, v.Reason, "%s", v.Message)
	}
	return nil
}

func (c *Config) backendIDs(pool string) []string {
	t, _ := c.backends.get(pool)
	return t.keys
}

// withoutList returns a pool without its backends; it shares the rest with p.
func withoutList(p *tandemv1.Pool) *tandemv1.Pool {
	out := &tandemv1.Pool{}
	dst := out.ProtoReflect()
	p.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Name() != "backends" {
			dst.Set(fd, v)
		}
		return true
	})
	return out
}
