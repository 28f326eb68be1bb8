package state

import (
	"fmt"
	"strings"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// CreateCluster makes the cluster that New has prepared.
func CreateCluster(x *tandemv1.Cluster) Change {
	return func(d *Draft) error {
		n := ClusterName(d.base.id)
		if !d.deleted {
			return exists(n, ReasonClusterExists)
		}
		if err := CheckID(KindCluster, n.ID, "cluster_id"); err != nil {
			return err
		}
		d.deleted = false
		d.counters = Counters{Defaults: newestDefaults}
		return d.putCluster(cloned(x), "cluster")
	}
}

// UpdateCluster changes fields of the cluster's settings. A password that is
// left empty stays as it is.
func UpdateCluster(x *tandemv1.Cluster, mask *fieldmaskpb.FieldMask) Change {
	return func(d *Draft) error {
		if _, err := d.parse(KindCluster, x.GetName(), "", "cluster.name"); err != nil {
			return err
		}
		if err := d.checkHead(x.GetEtag()); err != nil {
			return err
		}
		merged, err := merge(d.cluster, x, mask)
		if err != nil {
			return err
		}
		return d.putCluster(merged, "cluster")
	}
}

// DeleteCluster removes a cluster that has no nodes, with all that is in it.
func DeleteCluster(etag string) Change {
	return func(d *Draft) error {
		n := ClusterName(d.base.id)
		if d.deleted {
			return notFound(n)
		}
		if err := d.checkHead(etag); err != nil {
			return err
		}
		if len(d.nodes.keys) > 0 {
			return &Error{Code: FailedPrecondition, Reason: ReasonClusterInUse, Name: n.String(),
				Message: fmt.Sprintf("cluster %q still has nodes (%s): delete them first", n.ID, strings.Join(d.nodes.keys, ", "))}
		}
		d.empty()
		d.cluster, d.secrets, d.deleted = nil, editor[string]{ownKeys: true, ownValues: true}, true
		d.touch(n)
		return nil
	}
}

// empty removes all VIPs, listeners and pools.
func (d *Draft) empty() {
	for _, id := range d.base.vips.keys {
		vipNoun.drop(d, VipName(d.base.id, id))
	}
	for _, id := range d.base.listeners.keys {
		listenerNoun.drop(d, ListenerName(d.base.id, id))
	}
	for _, id := range d.base.pools.keys {
		poolNoun.drop(d, PoolName(d.base.id, id))
	}
}

// checkHead compares a cluster's etag, if one was given.
func (d *Draft) checkHead(etag string) error {
	if etag != "" && etag != d.base.ETag() {
		return stale(ClusterName(d.base.id), etag, d.base.ETag())
	}
	return nil
}

// putCluster stores the settings x, which it owns, and moves the passwords out
// of them.
func (d *Draft) putCluster(x *tandemv1.Cluster, field string) error {
	n := ClusterName(d.base.id)
	d.fields[n] = field
	wrong := len(d.wrong.list)
	if err := d.wrong.validate(x, field); err != nil || len(d.wrong.list) > wrong {
		return err
	}
	old := d.cluster
	x.Name, x.Etag, x.EffectiveDefaults, x.CreateTime = n.String(), "", nil, old.GetCreateTime()
	if page := x.GetStatsPage(); page != nil {
		page.Address = canonical(page.Address)
	}
	changed, err := d.takeSecrets(x, field)
	if err != nil || len(d.wrong.list) > wrong {
		return err
	}
	if old != nil && !changed && proto.Equal(old, x) {
		return nil
	}
	if old == nil {
		x.CreateTime = timestamppb.New(d.env.Now)
	}
	d.cluster = x
	d.touch(n)
	return nil
}

// takeSecrets moves the passwords of x into the secrets. It tells whether that
// changed any.
func (d *Draft) takeSecrets(x *tandemv1.Cluster, field string) (bool, error) {
	keep := map[string]string{}
	for i, u := range x.GetStatsPage().GetUsers() {
		ref, at := statsSecret(u.Name), fmt.Sprintf("%s.stats_page.users[%d]", field, i)
		if _, ok := keep[ref]; ok {
			d.wrong.add(Invalid, at+".name", ReasonUserTwice, "user %q is there already: name each user once", u.Name)
			continue
		}
		hash, _ := d.secrets.get(ref)
		switch {
		case u.Password != "" && !d.env.Passwords.Matches(hash, u.Password):
			var err error
			if hash, err = d.env.Passwords.Hash(u.Password); err != nil {
				return false, fmt.Errorf("%s.password: %w", at, err)
			}
		case hash == "":
			d.wrong.add(Invalid, at+".password", ReasonPasswordRequired, "user %q is new and needs a password", u.Name)
			continue
		}
		keep[ref] = hash
		u.Password, u.PasswordSet = "", true
	}
	if v := x.GetVrrp(); v != nil {
		d.takeAuth(v, keep, field)
	}
	return d.keepSecrets(keep), nil
}

// takeAuth moves VRRPv2's password. Version 3 has none: a stored one is
// dropped.
func (d *Draft) takeAuth(v *tandemv1.Vrrp, keep map[string]string, field string) {
	version := *or(v.Version, &defaultsByVersion[d.counters.Defaults].vrrpVersion)
	stored, _ := d.secrets.get(vrrpSecret)
	switch {
	case v.AuthPassword != "" && version != 2:
		d.wrong.add(Invalid, field+".vrrp.auth_password", ReasonAuthNeedsV2,
			"VRRPv3 has no authentication: leave the password out, or set vrrp.version to 2")
	case version == 2 && v.AuthPassword != "":
		keep[vrrpSecret] = v.AuthPassword
	case version == 2 && stored != "":
		keep[vrrpSecret] = stored
	}
	v.AuthPassword, v.AuthPasswordSet = "", keep[vrrpSecret] != ""
}

// keepSecrets makes keep the cluster's secrets; it tells whether that changed
// any.
func (d *Draft) keepSecrets(keep map[string]string) bool {
	changed := false
	for ref, s := range keep {
		if old, _ := d.secrets.get(ref); old != s {
			d.secrets.set(ref, s)
			changed = true
		}
	}
	for i := len(d.secrets.keys) - 1; i >= 0; i-- {
		if ref := d.secrets.keys[i]; keep[ref] == "" {
			d.secrets.remove(ref)
			changed = true
		}
	}
	return changed
}
