package state

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

// A few ids and values, so that changes meet often.
var (
	someID   = rapid.SampledFrom([]string{"a", "b", "c"})
	somePort = rapid.Uint32Range(80, 84)
	someProt = rapid.SampledFrom([]string{"", "http", "tcp"})
)

// beginning makes a cluster in which changes find something to change.
var beginning = []Change{
	CreateCluster(nil), AddNode("a", "uid-a"), AddNode("b", "uid-b"),
	CreateVip("a", &tandemv1.Vip{Vrid: 1, Addresses: []string{"10.0.0.1/24"}, Priorities: map[string]uint32{"a": 9, "b": 8}}),
	CreatePool("a", nil), CreateBackend("a", "a", &tandemv1.Backend{Address: "10.1.0.1", Port: 80}),
	CreateBackend("a", "b", &tandemv1.Backend{Address: "10.1.0.2", Port: 80}),
	CreateListener("a", &tandemv1.Listener{Pool: "a", Binds: []*tandemv1.Bind{{Vip: "a", Port: 80}}}),
	SetOverride(&tandemv1.Override{Name: "clusters/default/pools/a/backends/a/override", State: "drain"}, nil),
}

func someVip(t *rapid.T) *tandemv1.Vip {
	v := &tandemv1.Vip{
		Vrid:      rapid.Uint32Range(1, 4).Draw(t, "vrid"),
		Addresses: rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "2001:db8::1/64"}), 1, 2).Draw(t, "addresses"),
		Network:   rapid.SampledFrom([]string{"", "back"}).Draw(t, "network"),
	}
	if rapid.Bool().Draw(t, "tracked") {
		v.Tracks = []*tandemv1.Track{{Kind: "gateway"}, {Kind: "ping", Target: "2001:DB8::9", Weight: proto.Int32(-20)}}
	}
	if rapid.Bool().Draw(t, "prioritised") {
		v.Priorities = map[string]uint32{someID.Draw(t, "node"): 225}
	}
	return v
}

func someListener(t *rapid.T) *tandemv1.Listener {
	l := &tandemv1.Listener{Pool: someID.Draw(t, "pool"), Protocol: someProt.Draw(t, "protocol")}
	for range rapid.IntRange(1, 2).Draw(t, "binds") {
		b := &tandemv1.Bind{Port: somePort.Draw(t, "port")}
		switch rapid.IntRange(0, 3).Draw(t, "place") {
		case 0:
			b.Vip = someID.Draw(t, "vip")
		case 1:
			b.Address = "10.0.0.9"
		case 2:
			b.PortEnd = b.Port + 1
		}
		l.Binds = append(l.Binds, b)
	}
	return l
}

func somePool(t *rapid.T) *tandemv1.Pool {
	return &tandemv1.Pool{Protocol: someProt.Draw(t, "protocol"),
		Balance: rapid.SampledFrom([]string{"", "leastconn", "uri"}).Draw(t, "balance")}
}

func someBackend(t *rapid.T) *tandemv1.Backend {
	b := &tandemv1.Backend{Address: rapid.SampledFrom([]string{"10.1.0.1", "10.1.0.2", "10.1.0.3"}).Draw(t, "address"), Port: 80}
	if rapid.Bool().Draw(t, "weighted") {
		b.Weight = proto.Uint32(rapid.Uint32Range(0, 3).Draw(t, "weight"))
	}
	return b
}

func someCluster(t *rapid.T) *tandemv1.Cluster {
	c := &tandemv1.Cluster{Name: "default"}
	if rapid.Bool().Draw(t, "page") {
		c.StatsPage = &tandemv1.StatsPage{Port: proto.Uint32(somePort.Draw(t, "port"))}
		if rapid.Bool().Draw(t, "user") {
			c.StatsPage.Users = []*tandemv1.StatsUser{{Name: "admin", Password: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "password")}}
		}
	}
	if rapid.Bool().Draw(t, "vrrp") {
		c.Vrrp = &tandemv1.Vrrp{Version: proto.Uint32(rapid.Uint32Range(2, 3).Draw(t, "version"))}
	}
	return c
}

func someOverride(t *rapid.T) *tandemv1.Override {
	o := &tandemv1.Override{Name: OverrideName("default", someID.Draw(t, "pool"), someID.Draw(t, "backend")).String(),
		State: rapid.SampledFrom([]string{"drain", "maintenance", "ready"}).Draw(t, "state")}
	if rapid.Bool().Draw(t, "expires") {
		o.ExpireTime = timestamppb.New(now.Add(time.Hour))
	}
	return o
}

// someFile is the export of c with a part taken out or put in.
func someFile(t *rapid.T, c *Config) *tandemv1.ClusterConfig {
	f := Export(c)
	switch rapid.IntRange(0, 4).Draw(t, "edit") {
	case 0:
		f.Listeners = nil
	case 1:
		f.Pools = slices.DeleteFunc(f.Pools, func(p *tandemv1.Pool) bool { return p.Name == "a" })
	case 2:
		p := somePool(t)
		p.Name, p.Backends = "c", []*tandemv1.Backend{someBackend(t)}
		p.Backends[0].Name = someID.Draw(t, "backend")
		f.Pools = append(f.Pools, p)
	case 3:
		f.Vips = nil
	case 4:
		f.Cluster = someCluster(t)
	}
	return f
}

// someChange draws any change.
func someChange(t *rapid.T, c *Config) Change {
	id := someID.Draw(t, "id")
	named := func(n Name) string { return n.String() }
	switch rapid.IntRange(0, 19).Draw(t, "change") {
	case 0, 1:
		return CreateVip(id, someVip(t))
	case 2:
		v := someVip(t)
		v.Name = id
		return UpdateVip(v, nil)
	case 3:
		return DeleteVip(id, "")
	case 4, 5:
		return CreateListener(id, someListener(t))
	case 6:
		l := someListener(t)
		l.Name = id
		return UpdateListener(l, nil)
	case 7:
		return DeleteListener(id, "")
	case 8, 9:
		return CreatePool(id, somePool(t))
	case 10:
		p := somePool(t)
		p.Name = id
		return UpdatePool(p, mask("protocol", "balance"))
	case 11:
		return DeletePool(id, "")
	case 12, 13:
		return CreateBackend(someID.Draw(t, "pool"), id, someBackend(t))
	case 14:
		b := someBackend(t)
		b.Name = named(BackendName("default", someID.Draw(t, "pool"), id))
		return UpdateBackend(b, nil)
	case 15:
		return DeleteBackend(someID.Draw(t, "pool"), id, "")
	case 16:
		return SetOverride(someOverride(t), nil)
	case 17:
		return UpdateCluster(someCluster(t), nil)
	case 18:
		if rapid.Bool().Draw(t, "leaves") {
			return DeleteNode(id, "")
		}
		return AddNode(id, "uid-"+id)
	default:
		return ApplyConfig(someFile(t, c), "")
	}
}

// TestPropertyAnySequence makes random changes. After each, the rules hold by
// a check written another way, a file exported and applied changes nothing, the
// content loaded anew is the same, and ids are stable and never given twice.
func TestPropertyAnySequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New("default", epoch, 0)
		given, numbers := map[uint32]string{}, map[uint32]string{} // backends and nodes that had an id
		content := map[string]*tandemv1.Resource{}
		length := rapid.IntRange(1, 40).Draw(t, "length")
		for i := range len(beginning) + length {
			change := beginning[min(i, len(beginning)-1)]
			if i >= len(beginning) {
				change = someChange(t, c)
			}
			next, changes, err := c.Apply(change, env())
			if err != nil {
				var se *Error
				if i < len(beginning) || !errors.As(err, &se) || se.Message == "" || se.Reason == "" {
					t.Fatalf("no proper refusal: %v", err)
				}
				continue
			}
			if (next == c) != (len(changes) == 0) || next.Revision() != c.Revision()+uint64(min(len(changes), 1)) {
				t.Fatalf("revision %d after %d with %d changes", next.Revision(), c.Revision(), len(changes))
			}
			for i, ch := range changes {
				if i > 0 && changes[i-1].Name >= ch.Name {
					t.Fatalf("changes out of order: %s, %s", changes[i-1].Name, ch.Name)
				}
				if d := cmp.Diff(content[ch.Name], ch.Before, protocmp.Transform()); d != "" {
					t.Fatalf("%s before: %s", ch.Name, d)
				}
				if content[ch.Name] = ch.After; ch.After == nil {
					delete(content, ch.Name)
				}
				trackIDs(t, ch, given, numbers)
			}
			c = next
			holds(t, c)
			unchangedByItsFile(t, c)
			sameWhenLoaded(t, c, content)
		}
	})
}

// trackIDs fails when an id is given twice or changes.
func trackIDs(t *rapid.T, ch *tandemv1.Change, backends, nodes map[uint32]string) {
	if b := ch.GetAfter().GetBackend(); b != nil {
		if ch.Before == nil && backends[b.Id] != "" {
			t.Fatalf("%s got id %d, which was %s's", ch.Name, b.Id, backends[b.Id])
		}
		if before := ch.GetBefore().GetBackend(); before != nil && before.Id != b.Id {
			t.Fatalf("%s had id %d and has %d", ch.Name, before.Id, b.Id)
		}
		backends[b.Id] = ch.Name
	}
	if n := ch.GetAfter().GetNode(); n != nil && ch.Before == nil {
		if nodes[n.Number] != "" {
			t.Fatalf("%s got number %d, which was %s's", ch.Name, n.Number, nodes[n.Number])
		}
		nodes[n.Number] = ch.Name
	}
}

// holds checks the rules between resources, by brute force.
func holds(t *rapid.T, c *Config) {
	type claim struct {
		what       string
		port       uint32
		place, who string
	}
	var claims []claim
	for _, l := range c.Listeners() {
		p := c.Pool(l.Pool)
		if p == nil || EffectiveProtocol(p.Protocol) != EffectiveProtocol(l.Protocol) {
			t.Fatalf("%v refers to %v", l, p)
		}
		for i, b := range l.Binds {
			places := []string{b.Address}
			if b.Vip != "" {
				v := c.Vip(b.Vip)
				if v == nil {
					t.Fatalf("%v refers to no VIP", l)
				}
				places = nil
				for _, a := range v.Addresses {
					places = append(places, a[:strings.Index(a, "/")])
				}
			}
			for port := b.Port; port <= max(b.Port, b.PortEnd); port++ {
				for _, place := range places {
					claims = append(claims, claim{"bind", port, place, fmt.Sprint(l.Name, i)})
				}
			}
		}
	}
	if page := EffectiveStatsPage(c); page != nil {
		claims = append(claims, claim{"bind", page.GetPort(), page.Address, "page"})
	}
	for _, v := range c.Vips() {
		for _, v6 := range []bool{false, true} {
			if a, _ := anchor(v, v6); a != "" {
				claims = append(claims, claim{"vrid", v.Vrid, v.Network + family(v6), v.Name})
				if v6 && EffectiveVrrpVersion(c) == 2 {
					t.Fatalf("VRRPv2 with %v", v)
				}
			}
		}
		for node := range v.Priorities {
			if c.Node(node) == nil {
				t.Fatalf("%v has a priority of no node", v)
			}
		}
	}
	for _, p := range c.Pools() {
		n, _ := ParseName(p.Name)
		for _, b := range c.Backends(n.ID) {
			claims = append(claims, claim{"backend of " + p.Name, b.Port, b.Address, b.Name})
			if b.GetOverride() != c.Override(n.ID, b.Name[strings.LastIndex(b.Name, "/")+1:]) {
				t.Fatalf("%v has another override than the cluster", b)
			}
		}
	}
	for i, a := range claims {
		for _, b := range claims[:i] {
			anywhere := a.what == "bind" && (a.place == "" || b.place == "")
			if a.what == b.what && a.port == b.port && (a.place == b.place || anywhere) {
				t.Fatalf("both hold %s %d of %q: %s and %s", a.what, a.port, a.place, a.who, b.who)
			}
		}
	}
	backends, overrides := 0, 0
	for i, id := range c.backends.keys {
		if c.Pool(id) == nil {
			t.Fatalf("backends of no pool %q", id)
		}
		backends += len(c.backends.values[i].keys)
		for _, b := range c.Backends(id) {
			if b.Override != nil {
				overrides++
			}
		}
	}
	if overrides != len(c.Overrides()) {
		t.Fatalf("%d backends have overrides, the cluster has %d", overrides, len(c.Overrides()))
	}
}

func unchangedByItsFile(t *rapid.T, c *Config) {
	next, changes, err := c.Apply(ApplyConfig(Export(c), c.ETag()), env())
	if err != nil || next != c {
		t.Fatalf("apply of the export: %v, %v", changes, err)
	}
}

// sameWhenLoaded loads what a store would keep.
func sameWhenLoaded(t *rapid.T, c *Config, content map[string]*tandemv1.Resource) {
	stored := Content{Counters: c.Counters(), Secrets: map[string]string{}}
	for _, r := range content {
		stored.Resources = append(stored.Resources, proto.CloneOf(r))
	}
	for _, ref := range c.SecretRefs() {
		stored.Secrets[ref] = c.Secret(ref)
	}
	loaded, err := Load(c.ID(), c.Epoch(), c.Revision(), stored)
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b *Config) bool {
		return a.ETag() == b.ETag() && a.counters == b.counters && slices.Equal(a.backends.keys, b.backends.keys)
	})
	if d := cmp.Diff(c, loaded, same); d != "" {
		t.Fatalf("loaded: %s", d)
	}
	for _, pair := range [][2]any{{c.Cluster(), loaded.Cluster()}, {c.Vips(), loaded.Vips()}, {c.Listeners(), loaded.Listeners()},
		{c.Pools(), loaded.Pools()}, {c.Nodes(), loaded.Nodes()}, {c.Overrides(), loaded.Overrides()}, {c.secrets.values, loaded.secrets.values}} {
		if d := cmp.Diff(pair[0], pair[1], protocmp.Transform(), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("loaded: %s", d)
		}
	}
	for _, id := range c.pools.keys {
		if d := cmp.Diff(c.Backends(id), loaded.Backends(id), protocmp.Transform(), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("loaded backends: %s", d)
		}
	}
}
