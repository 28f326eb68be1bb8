package state

import (
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// SetOverride sets or changes the override that x names; without a mask it is
// replaced as a whole. Setting what is set already keeps author and time.
func SetOverride(x *tandemv1.Override, mask *fieldmaskpb.FieldMask) Change {
	return func(d *Draft) error {
		n, err := ParseName(x.GetName())
		if err != nil || n.Kind != KindOverride || n.Cluster != d.base.id {
			return invalid("override.name", ReasonNameInvalid,
				"%q is not the name of an override: must be like %s", x.GetName(), OverrideName(d.base.id, "…", "…"))
		}
		b, err := d.backend(n)
		if err != nil {
			return err
		}
		old := b.GetOverride()
		next := cloned(x)
		if len(mask.GetPaths()) > 0 {
			if next, err = merge(cloned(old), x, mask); err != nil {
				return err
			}
		}
		return d.putOverride(n, b, next)
	}
}

func (d *Draft) putOverride(n Name, b *tandemv1.Backend, x *tandemv1.Override) error {
	old := b.GetOverride()
	x.Name, x.Author, x.CreateTime = n.String(), old.GetAuthor(), old.GetCreateTime()
	if old != nil && proto.Equal(old, x) {
		return nil
	}
	if err := Validate(x, "override"); err != nil {
		return err
	}
	if t := x.ExpireTime; t != nil && (!t.IsValid() || !t.AsTime().After(d.env.Now)) {
		return invalid("override.expire_time", ReasonExpired, "must be in the future")
	}
	x.Author, x.CreateTime = d.env.Author, timestamppb.New(d.env.Now)
	d.overrides.set(n.key(), x)
	d.setOverride(n, b, x)
	d.touch(n)
	return nil
}

// DeleteOverride gives a backend back to its configuration.
func DeleteOverride(pool, backend string) Change {
	return func(d *Draft) error {
		n := OverrideName(d.base.id, pool, backend)
		b, err := d.backend(n)
		if err != nil {
			return err
		}
		if b.GetOverride() == nil {
			return notFound(n)
		}
		d.dropOverride(n)
		d.setOverride(n, b, nil)
		return nil
	}
}

// Administer sets a backend's state and, unless it is nil, its weight, as an
// override without an end. One that would say nothing is removed instead.
func Administer(pool, backend, admin string, weight *uint32, reason string) Change {
	return func(d *Draft) error {
		n := OverrideName(d.base.id, pool, backend)
		b, err := d.backend(n)
		if err != nil {
			return err
		}
		next := cloned(b.GetOverride())
		if weight != nil {
			next.Weight = weight
		}
		if admin == "ready" && next.Weight == nil {
			if b.GetOverride() == nil {
				return nil
			}
			return DeleteOverride(pool, backend)(d)
		}
		next.State, next.Reason, next.ExpireTime = admin, reason, nil
		return d.putOverride(n, b, next)
	}
}

// ExpireOverrides removes the overrides whose time has come.
func ExpireOverrides() Change {
	return func(d *Draft) error {
		for _, o := range d.base.Overrides() {
			if t := o.GetExpireTime(); t == nil || t.AsTime().After(d.env.Now) {
				continue
			}
			n, err := ParseName(o.GetName())
			if err != nil {
				return err
			}
			if err := DeleteOverride(n.Pool, n.ID)(d); err != nil {
				return err
			}
		}
		return nil
	}
}

// backend returns the backend that an override is or will be on.
func (d *Draft) backend(n Name) (*tandemv1.Backend, error) {
	if _, ok := d.pools.get(n.Pool); !ok {
		return nil, notFound(PoolName(n.Cluster, n.Pool))
	}
	b, ok := d.pool(n.Pool).get(n.ID)
	if !ok {
		return nil, notFound(BackendName(n.Cluster, n.Pool, n.ID))
	}
	return b, nil
}

// dropOverride removes an override from the table, if it is there.
func (d *Draft) dropOverride(n Name) {
	if _, ok := d.overrides.get(n.key()); ok {
		d.overrides.remove(n.key())
		d.touch(n)
	}
}
