package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What the compiler remembers must never show: one that has seen a history and
// one that has seen nothing agree, and a diff leads from one to the other.
func TestMemoryNeverShows(t *testing.T) {
	history := []*state.Config{guide(t)}
	last := func() *state.Config { return history[len(history)-1] }
	for i, change := range []state.Change{
		state.CreateBackend("web_servers", "web0", &tandemv1.Backend{Address: "192.168.1.19", Port: 80}),
		state.UpdateBackend(&tandemv1.Backend{Name: "clusters/default/pools/web_servers/backends/web2", Address: "192.168.1.99", Port: 81}, nil),
		state.DeleteBackend("web_servers", "web1", ""),
		state.CreatePool("web_servers.b", &tandemv1.Pool{}),
		state.CreateBackend("web_servers.b", "x", &tandemv1.Backend{Address: "192.168.1.50", Port: 80}),
		state.CreateListener("other", &tandemv1.Listener{Pool: "web_servers.b", Binds: []*tandemv1.Bind{{Vip: "web", Port: 81}}}),
		state.UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", Defaults: &tandemv1.ProxySettings{ServerTimeout: durationpb.New(time.Hour)}}, nil),
		state.UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "admin", Password: "another"}},
		}}, nil),
		state.UpdateVip(&tandemv1.Vip{Name: "clusters/default/vips/web", Addresses: []string{"192.168.1.100/24", "192.168.1.101/24"}, Vrid: 51}, nil),
		state.CreateVip("more", &tandemv1.Vip{Addresses: []string{"192.168.1.102/24"}, Vrid: 54}),
		state.UpdateNode(&tandemv1.Node{Name: "clusters/default/nodes/lb-master", Drain: true}, nil),
		state.DeleteListener("other", ""),
		state.DeletePool("web_servers.b", ""),
		state.DeleteVip("more", ""),
	} {
		next := apply(t, last(), change)
		if next == last() {
			t.Fatalf("change %d changes nothing", i)
		}
		history = append(history, next)
	}
	// Forth, and back again, as when a structure is reverted.
	back := slices.Clone(history)
	slices.Reverse(back)
	var old Compiler
	before := (*Config)(nil)
	for i, c := range append(history, back...) {
		got, err := old.Node(Target{Structure: c, Runtime: c}, "lb-master")
		if err != nil {
			t.Fatal(err)
		}
		want := node(t, c, "lb-master")
		if d := cmp.Diff(want.NodeConfig(), got.NodeConfig(), protocmp.Transform()); d != "" {
			t.Fatalf("step %d: a compiler with a memory differs (-want +got):\n%s", i, d)
		}
		checkDiff(t, before, got)
		before = got
	}
}

func checkDiff(t *testing.T, base, target *Config) {
	t.Helper()
	upserts, removals := Diff(base, target)
	have := make(map[string]*agentv1.Resource)
	for _, r := range base.resources() {
		have[r.GetKey()] = r
	}
	for _, k := range removals {
		if have[k] == nil {
			t.Fatalf("removal of %q, which is not in the base", k)
		}
		delete(have, k)
	}
	for _, r := range upserts {
		if was := have[r.GetKey()]; was != nil && was.GetVersion() == r.GetVersion() {
			t.Fatalf("upsert of %q, which has not changed", r.GetKey())
		}
		have[r.GetKey()] = r
	}
	want := target.resources()
	if !slices.IsSortedFunc(want, func(a, b *agentv1.Resource) int { return strings.Compare(a.GetKey(), b.GetKey()) }) {
		t.Fatal("resources are not in order of their keys")
	}
	if len(have) != len(want) {
		t.Fatalf("%d resources after the diff, want %d", len(have), len(want))
	}
	for _, r := range want {
		if !proto.Equal(have[r.GetKey()], r) {
			t.Fatalf("%q after the diff differs from the target", r.GetKey())
		}
		if !target.Has(r.GetKey()) {
			t.Fatalf("Has(%q) is false", r.GetKey())
		}
	}
	if target.Has("haproxy/server/web_servers/nobody") {
		t.Fatal("Has tells of a server that is not there")
	}
}

func (c *Config) resources() []*agentv1.Resource {
	if c == nil {
		return nil
	}
	return c.NodeConfig().GetResources()
}

// What has not changed is the same message still, so that it is neither
// compiled nor compared again.
func TestUnchangedIsShared(t *testing.T) {
	a := guide(t)
	b := apply(t, a,
		state.DeleteBackend("web_servers", "web1", ""),
		state.UpdateBackend(&tandemv1.Backend{Name: "clusters/default/pools/web_servers/backends/web2", Address: "192.168.1.99", Port: 81}, nil))
	var compiler Compiler
	before, err := compiler.Node(Target{Structure: a, Runtime: a}, "lb-master")
	if err != nil {
		t.Fatal(err)
	}
	after, err := compiler.Node(Target{Structure: b, Runtime: b}, "lb-master")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"haproxy/server/web_servers/web3", "haproxy/backend/web_servers", "haproxy/frontend/web_frontend", "keepalived/instance/web"} {
		if find(t, before, key) != find(t, after, key) {
			t.Errorf("%s was compiled again", key)
		}
	}
	if find(t, before, "haproxy/server/web_servers/web2") == find(t, after, "haproxy/server/web_servers/web2") {
		t.Error("web2 was not compiled again")
	}
}

// The hash names the content, not the way to it.
func TestHash(t *testing.T) {
	a := guide(t)
	weight := func(w uint32) state.Change {
		return state.UpdateBackend(&tandemv1.Backend{
			Name: "clusters/default/pools/web_servers/backends/web1", Address: "192.168.1.20", Port: 80, Weight: &w,
		}, nil)
	}
	b := apply(t, a, weight(5))
	c := apply(t, b, weight(1))
	hash := func(c *state.Config, id string) string { return node(t, c, id).Version().GetHash() }
	if hash(a, "lb-master") == hash(b, "lb-master") {
		t.Error("a changed weight leaves the hash as it was")
	}
	if hash(a, "lb-master") != hash(c, "lb-master") {
		t.Error("the same content has two hashes")
	}
	if hash(a, "lb-master") == hash(a, "lb-backup") {
		t.Error("two nodes with different priorities have one hash")
	}
}
