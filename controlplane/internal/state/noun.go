package state

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// message is a resource with a name and an etag.
type message interface {
	proto.Message
	comparable
	GetName() string
	GetEtag() string
}

// noun is how one kind of resource is kept.
type noun[V message] struct {
	kind Kind
	// exists is the reason of a name that is taken.
	exists string
	// table holds the resources; a backend's is that of its pool.
	table func(*Draft, Name) *editor[V]
	// tidy brings a resource into the form in which it is stored: canonical
	// addresses, and output-only fields from the one before (nil: it is new).
	tidy func(x, old V)
	// admit gives a new resource its ids.
	admit func(*Draft, V)
	// parent fails when what the resource is part of does not exist.
	parent func(*Draft, Name) error
	// removed takes along what belongs to a removed resource.
	removed func(*Draft, Name)
}

// create makes a resource.
func (k noun[V]) create(pool, id string, x V) Change {
	return func(d *Draft) error {
		n, err := d.name(Name{Kind: k.kind, Pool: pool, ID: id}, k.kind.String()+"_id")
		if err != nil {
			return err
		}
		if err := k.find(d, n); err != nil {
			return err
		}
		if _, ok := k.table(d, n).get(n.ID); ok {
			return exists(n, k.exists)
		}
		x := cloned(x)
		setETag(x, "")
		return k.put(d, n, x, k.kind.String())
	}
}

// update changes fields of a resource.
func (k noun[V]) update(x V, mask *fieldmaskpb.FieldMask) Change {
	return func(d *Draft) error {
		n, err := d.parse(k.kind, x.GetName(), "", k.kind.String()+".name")
		if err != nil {
			return err
		}
		if err := k.find(d, n); err != nil {
			return err
		}
		old, ok := k.table(d, n).get(n.ID)
		if !ok {
			return notFound(n)
		}
		merged, err := merge(old, x, mask)
		if err != nil {
			return err
		}
		setETag(merged, x.GetEtag())
		return k.put(d, n, merged, k.kind.String())
	}
}

// remove removes a resource.
func (k noun[V]) remove(pool, id, etag string) Change {
	return func(d *Draft) error {
		n, err := d.name(Name{Kind: k.kind, Pool: pool, ID: id}, "name")
		if err != nil {
			return err
		}
		if err := k.find(d, n); err != nil {
			return err
		}
		old, ok := k.table(d, n).get(n.ID)
		if !ok {
			return notFound(n)
		}
		if etag != "" && etag != old.GetEtag() {
			return stale(n, etag, old.GetEtag())
		}
		k.drop(d, n)
		return nil
	}
}

func (k noun[V]) find(d *Draft, n Name) error {
	if k.parent == nil {
		return nil
	}
	return k.parent(d, n)
}

// put stores x, which it owns, unless that is what is stored already. field is
// the path of x in the request. What breaks field rules is collected.
func (k noun[V]) put(d *Draft, n Name, x V, field string) error {
	d.fields[n] = field
	t := k.table(d, n)
	old, had := t.get(n.ID)
	if given := x.GetEtag(); given != "" && given != old.GetEtag() {
		return stale(n, given, old.GetEtag())
	}
	setText(x, "name", n.String())
	setETag(x, old.GetEtag())
	k.tidy(x, old)
	if had && proto.Equal(old, x) {
		return nil
	}
	wrong := len(d.wrong.list)
	if err := d.wrong.validate(x, field); err != nil {
		return err
	}
	if len(d.wrong.list) > wrong {
		return nil
	}
	if !had && k.admit != nil {
		k.admit(d, x)
	}
	setETag(x, d.etag())
	t.set(n.ID, x)
	d.touch(n)
	return nil
}

// drop removes a resource that exists.
func (k noun[V]) drop(d *Draft, n Name) {
	k.table(d, n).remove(n.ID)
	d.touch(n)
	if k.removed != nil {
		k.removed(d, n)
	}
}

// name completes a name with the draft's cluster and checks its ids.
func (d *Draft) name(n Name, field string) (Name, error) {
	n.Cluster = d.base.id
	if d.deleted {
		return n, notFound(ClusterName(n.Cluster))
	}
	if n.Pool != "" {
		if err := CheckID(KindPool, n.Pool, field); err != nil {
			return n, err
		}
	}
	return n, CheckID(n.Kind, n.ID, field)
}

// parse reads a full resource name of this cluster, or an id alone; pool is
// the pool that an id alone is in.
func (d *Draft) parse(kind Kind, s, pool, field string) (Name, error) {
	if !strings.Contains(s, "/") && (kind != KindBackend || pool != "") {
		return d.name(Name{Kind: kind, Pool: pool, ID: s}, field)
	}
	n, err := ParseName(s)
	if err != nil || n.Kind != kind || n.Cluster != d.base.id || (pool != "" && n.Pool != pool) {
		want := Name{Kind: kind, Cluster: d.base.id, Pool: pool, ID: "…"}
		return n, invalid(field, ReasonNameInvalid, "%q is not the name of a %s here: must be like %s", s, kind, want)
	}
	return d.name(n, field)
}

func cloned[V proto.Message](x V) V {
	if !x.ProtoReflect().IsValid() {
		return x.ProtoReflect().New().Interface().(V)
	}
	return proto.CloneOf(x)
}

func setETag(m proto.Message, v string) { setText(m, "etag", v) }

func setText(m proto.Message, field protoreflect.Name, v string) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName(field), protoreflect.ValueOfString(v))
}
