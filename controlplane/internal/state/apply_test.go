package state

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestApplyConfig(t *testing.T) {
	c := apply(t, guide(t), SetOverride(override("web2"), nil))
	file := Export(c)
	file.Cluster.StatsPage.Users[0].Password = "password123" // as a person's file has it
	if next, changes := made(t, c, ApplyConfig(file, c.ETag())); next != c {
		t.Fatalf("the same file changed %s", names(changes))
	}
	file.Pools[0].Backends[1].Weight = proto.Uint32(9)
	file.Pools[0].Backends[2].Name = "web4"
	next, changes := made(t, c, ApplyConfig(file, ""))
	want := "~/pools/web_servers/backends/web2 -/pools/web_servers/backends/web3 +/pools/web_servers/backends/web4"
	if got := names(changes); got != want {
		t.Errorf("changes are %q, want %q", got, want)
	}
	if b := next.Backend("web_servers", "web2"); b.GetOverride().GetState() != "drain" || b.GetId() != 2 || b.GetWeight() != 9 {
		t.Errorf("web2: %v", b)
	}
	if b := next.Backend("web_servers", "web4"); b.GetId() != 4 {
		t.Errorf("web4 has id %d", b.GetId())
	}
	if len(next.Nodes()) != 2 {
		t.Error("a file removed a node")
	}
	if next.Pool("web_servers") != c.Pool("web_servers") || next.Backend("web_servers", "web1") != c.Backend("web_servers", "web1") {
		t.Error("what did not change is not shared")
	}
}

// TestExport shows ids for names, and nothing that is output-only or secret.
func TestExport(t *testing.T) {
	c := apply(t, guide(t), SetOverride(override("web1"), nil), UpdateCluster(&tandemv1.Cluster{Name: "default",
		Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "secret"}}, nil))
	want := &tandemv1.ClusterConfig{
		Cluster: &tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2)},
			StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Name: "admin"}}}},
		Vips: []*tandemv1.Vip{{Name: "web", Addresses: []string{"192.168.1.100/24"}, Vrid: 51}},
		Pools: []*tandemv1.Pool{{Name: "web_servers", Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{Path: "/health"}},
			Backends: []*tandemv1.Backend{{Name: "web1", Address: "192.168.1.20", Port: 80},
				{Name: "web2", Address: "192.168.1.21", Port: 80}, {Name: "web3", Address: "192.168.1.22", Port: 80}}}},
		Listeners: []*tandemv1.Listener{{Name: "web_frontend", Pool: "web_servers", Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}}},
	}
	if d := cmp.Diff(want, Export(c), protocmp.Transform()); d != "" {
		t.Errorf("(-want +got): %s", d)
	}
}

// TestBindsInOneRange reports each bind that meets a range, not the first only.
func TestBindsInOneRange(t *testing.T) {
	l := &tandemv1.Listener{Pool: "web_servers", Binds: []*tandemv1.Bind{{Port: 90, PortEnd: 99}, {Port: 92}, {Port: 95}}}
	_, _, err := guide(t).Apply(CreateListener("l", l), env())
	var se *Error
	if !errors.As(err, &se) || len(se.Violations) != 2 {
		t.Errorf("got %v, want two violations", err)
	}
}

// TestApplyConfigNamesThePlace refuses files and tells where they are wrong.
func TestApplyConfigNamesThePlace(t *testing.T) {
	tests := []struct {
		name          string
		edit          func(*tandemv1.ClusterConfig)
		field, reason string
		code          Code
	}{
		{"address", func(f *tandemv1.ClusterConfig) { f.Pools[0].Backends[2].Address = "x" },
			"config.pools[0].backends[2].address", ReasonFieldInvalid, Invalid},
		{"backend twice", func(f *tandemv1.ClusterConfig) { f.Pools[0].Backends[2].Name = "web1" },
			"config.pools[0].backends[2].name", ReasonBackendExists, Invalid},
		{"address twice", func(f *tandemv1.ClusterConfig) { f.Pools[0].Backends[2].Address = "192.168.1.20" },
			"config.pools[0].backends[2].address", ReasonAddressTaken, FailedPrecondition},
		{"pool twice", func(f *tandemv1.ClusterConfig) { f.Pools = append(f.Pools, &tandemv1.Pool{Name: "web_servers"}) },
			"config.pools[1].name", ReasonPoolExists, Invalid},
		{"name of another pool", func(f *tandemv1.ClusterConfig) {
			f.Pools[0].Backends[1].Name = "clusters/default/pools/other/backends/web2"
		}, "config.pools[0].backends[1].name", ReasonNameInvalid, Invalid},
		{"no name", func(f *tandemv1.ClusterConfig) { f.Vips[0].Name = "" }, "config.vips[0].name", ReasonNameInvalid, Invalid},
		{"another cluster", func(f *tandemv1.ClusterConfig) { f.Cluster.Name = "other" },
			"config.cluster.name", ReasonClusterMismatch, Invalid},
		{"unknown pool", func(f *tandemv1.ClusterConfig) { f.Pools = nil }, "config.listeners[0].pool", ReasonUnknownPool, FailedPrecondition},
		{"unknown VIP", func(f *tandemv1.ClusterConfig) { f.Vips = nil }, "config.listeners[0].binds[0].vip", ReasonUnknownVip, FailedPrecondition},
		{"anchor", func(f *tandemv1.ClusterConfig) { f.Vips[0].Addresses[0] = "192.168.1.101/24" },
			"config.vips[0].addresses[0]", ReasonAnchorImmutable, FailedPrecondition},
		{"password", func(f *tandemv1.ClusterConfig) {
			f.Cluster.StatsPage.Users = append(f.Cluster.StatsPage.Users, &tandemv1.StatsUser{Name: "new"})
		}, "config.cluster.stats_page.users[1].password", ReasonPasswordRequired, Invalid},
		{"stale etag inside", func(f *tandemv1.ClusterConfig) { f.Pools[0].Etag = "old" }, "", ReasonETagMismatch, Aborted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := guide(t)
			file := Export(c)
			tt.edit(file)
			_, _, err := c.Apply(ApplyConfig(file, ""), env())
			var se *Error
			if !errors.As(err, &se) {
				t.Fatalf("got %v", err)
			}
			field := ""
			if len(se.Violations) > 0 {
				field = se.Violations[0].Field
			}
			if se.Code != tt.code || se.Reason != tt.reason || field != tt.field {
				t.Errorf("got %d, %s, %q (%v)", se.Code, se.Reason, field, se)
			}
		})
	}
}

// TestAllIsWrong reports many faults at once, and not without end.
func TestAllIsWrong(t *testing.T) {
	file := &tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{{Name: "p"}}}
	for i := range 1000 {
		file.Pools[0].Backends = append(file.Pools[0].Backends, &tandemv1.Backend{Name: fmt.Sprint("b", i), Address: "x", Port: 1})
	}
	_, _, err := emptyCluster(t).Apply(ApplyConfig(file, ""), env())
	var se *Error
	if !errors.As(err, &se) || len(se.Violations) != maxViolations {
		t.Errorf("got %v", err)
	}
}
