package compile

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// apply makes changes one after the other, as a ledger would.
func apply(t testing.TB, c *state.Config, changes ...state.Change) *state.Config {
	t.Helper()
	for _, change := range changes {
		next, _, err := c.Apply(change, state.Env{Now: time.Unix(1700000000, 0), Author: "test", Passwords: plain{}})
		if err != nil {
			t.Fatal(err)
		}
		c = next
	}
	return c
}

// plain keeps goldens stable where bcrypt is salted.
type plain struct{}

func (plain) Hash(password string) (string, error) { return "$hash$" + password, nil }
func (plain) Matches(hash, password string) bool   { return hash == "$hash$"+password }

// guide is the cluster of the guide that the project starts from.
func guide(t testing.TB) *state.Config {
	t.Helper()
	return apply(t, state.New("default", "epoch-1", 0),
		state.CreateCluster(&tandemv1.Cluster{
			Logging:   &tandemv1.Logging{Target: "127.0.0.1:514"},
			Defaults:  &tandemv1.ProxySettings{ConnectTimeout: durationpb.New(10 * time.Second)},
			StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}}},
		}),
		state.AddNode("lb-master", "uid-master"),
		state.AddNode("lb-backup", "uid-backup"),
		state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
		state.CreatePool("web_servers", &tandemv1.Pool{
			Balance: "roundrobin",
			Check: &tandemv1.HealthCheck{
				Http:     &tandemv1.HttpCheck{Path: "/health"},
				Interval: durationpb.New(2 * time.Second), Timeout: durationpb.New(10 * time.Second),
				Rise: proto.Uint32(2), Fall: proto.Uint32(3),
			},
		}),
		state.CreateBackend("web_servers", "web1", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
		state.CreateBackend("web_servers", "web2", &tandemv1.Backend{Address: "192.168.1.21", Port: 80}),
		state.CreateBackend("web_servers", "web3", &tandemv1.Backend{Address: "192.168.1.22", Port: 80}),
		state.CreateListener("web_frontend", &tandemv1.Listener{
			Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}, Pool: "web_servers",
		}),
	)
}

func node(t testing.TB, c *state.Config, id string) *Config {
	t.Helper()
	var compiler Compiler
	got, err := compiler.Node(Target{Structure: c, Runtime: c}, id)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func golden(t *testing.T, name string, m proto.Message) {
	t.Helper()
	raw, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.JSONToYAML(raw)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

func TestGuide(t *testing.T) {
	c := guide(t)
	for _, id := range []string{"lb-master", "lb-backup"} {
		golden(t, id, node(t, c, id).NodeConfig())
	}
}

// everything exercises each field and enum beyond the guide's.
func everything(t testing.TB) *state.Config {
	t.Helper()
	return apply(t, guide(t),
		state.CreateVip("dual", &tandemv1.Vip{
			Addresses: []string{"192.168.1.110/24", "2001:DB8::110/64", "192.168.1.111/24", "2001:db8::111/64"},
			Vrid:      52, Priorities: map[string]uint32{"lb-backup": 234},
			FailBack: "delayed", FailBackDelay: durationpb.New(time.Minute), Network: "back",
			AdvertInterval: durationpb.New(time.Second),
			Tracks: []*tandemv1.Track{
				{Kind: "gateway"},
				{Kind: "network", Target: "front"},
				{Kind: "ping", Target: "2001:DB8::9", Rise: proto.Uint32(1), Fall: proto.Uint32(5), Weight: proto.Int32(-20)},
				{Kind: "url", Target: "https://192.168.1.5/up", ExpectedStatus: "204", Interval: durationpb.New(10 * time.Second), Timeout: durationpb.New(time.Second)},
			},
		}),
		state.CreateVip("six", &tandemv1.Vip{Addresses: []string{"2001:db8::120/64"}, Vrid: 53, FailBack: "never"}),
		state.CreatePool("tcp.pool", &tandemv1.Pool{
			Protocol: "tcp", Balance: "leastconn", Check: &tandemv1.HealthCheck{Disabled: true},
			Retries: proto.Uint32(0), Redispatch: proto.Bool(false),
		}),
		state.CreateBackend("tcp.pool", "db1", &tandemv1.Backend{
			Address: "2001:DB8::20", Port: 5432, Weight: proto.Uint32(0), MaxConnections: proto.Uint32(100), Backup: true,
		}),
		state.CreateListener("database", &tandemv1.Listener{
			Protocol: "tcp", Pool: "tcp.pool", MaxConnections: proto.Uint32(50),
			Binds: []*tandemv1.Bind{{Vip: "dual", Port: 5432}, {Address: "192.168.1.10", Port: 5433, PortEnd: 5435}, {Port: 6000}},
		}),
		state.CreateListener("written", &tandemv1.Listener{
			Pool: "web_servers", Binds: []*tandemv1.Bind{{Address: "2001:db8:0::120", Port: 8000}},
		}),
		state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/web_servers/backends/web1/override", State: "drain", Weight: proto.Uint32(7),
		}, nil),
		state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/web_servers/backends/web2/override", State: "maintenance", Weight: proto.Uint32(9),
		}, nil),
		state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/web_servers/backends/web3/override", Weight: proto.Uint32(11),
		}, nil),
		state.UpdateNode(&tandemv1.Node{Name: "clusters/default/nodes/lb-backup", Drain: true}, nil),
	)
}

func TestEverything(t *testing.T) {
	golden(t, "everything", node(t, everything(t), "lb-backup").NodeConfig())
}

func TestVersion2(t *testing.T) {
	c := apply(t, guide(t), state.UpdateCluster(&tandemv1.Cluster{
		Name: "clusters/default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "secret12"},
	}, nil))
	i := find(t, node(t, c, "lb-master"), "keepalived/instance/web").GetInstance()
	want := &keepalivedv1.Instance{
		Name: "web", Vip: "web", Version: 2, Network: "front", Vrid: 51, Priority: 230,
		AdvertInterval: durationpb.New(time.Second), AuthPassword: "secret12",
		Anchor: "192.168.1.100/24", FailBack: keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC,
		HandoverTimeout: durationpb.New(5 * time.Minute), AnnounceRepeat: 5, AnnounceRefresh: durationpb.New(time.Minute),
	}
	if d := cmp.Diff(want, i, protocmp.Transform()); d != "" {
		t.Errorf("instance (-want +got):\n%s", d)
	}
}

// No two instances have one name, and none has one that keepalived's driver
// does not take.
func TestInstanceNames(t *testing.T) {
	allowed := regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	seen := make(map[string]string)
	long := strings.Repeat("x", 32)
	for _, vip := range []string{"web", "web-v6", "web-v6-v6", long, long[:31] + "y", long[:29], long[:29] + "-v6", long[:26] + "-v6", "-v6"} {
		for _, second := range []bool{false, true} {
			name, of := instanceName(vip, second), fmt.Sprint(vip, " ", second)
			if !allowed.MatchString(name) {
				t.Errorf("%s is called %q", of, name)
			}
			if other := seen[name]; other != "" {
				t.Errorf("%s and %s are both called %q", of, other, name)
			}
			seen[name] = of
		}
	}
	if instanceName("web", false) != "web" || instanceName("web", true) != "web-v6" {
		t.Error("plain names are not plain")
	}
}

func find(t testing.TB, c *Config, key string) *agentv1.Resource {
	t.Helper()
	for _, r := range c.NodeConfig().GetResources() {
		if r.GetKey() == key {
			return r
		}
	}
	t.Fatalf("no resource %q", key)
	return nil
}

// Structure may lag behind runtime: a backend of a pool that the structure
// does not have is left out, a weight of one that it has is not.
func TestStructureAndRuntimeApart(t *testing.T) {
	structure := guide(t)
	runtime := apply(t, structure,
		state.CreatePool("new", &tandemv1.Pool{}),
		state.CreateBackend("new", "n1", &tandemv1.Backend{Address: "192.168.1.30", Port: 80}),
		state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/web_servers/backends/web1/override", Weight: proto.Uint32(42),
		}, nil),
	)
	var compiler Compiler
	got, err := compiler.Node(Target{Structure: structure, Runtime: runtime}, "lb-master")
	if err != nil {
		t.Fatal(err)
	}
	if got.Has("haproxy/server/new/n1") || got.Has("haproxy/backend/new") {
		t.Error("the new pool is in a configuration whose structure is older")
	}
	if w := find(t, got, "haproxy/server/web_servers/web1").GetServer().GetWeight(); w != 42 {
		t.Errorf("weight = %d, want the runtime's 42", w)
	}
	if v := got.Version(); v.GetStructure() != structure.Revision() || v.GetRuntime() != runtime.Revision() {
		t.Errorf("version = %v", v)
	}
	// A pool that the runtime has removed keeps its section and loses its servers.
	removed := apply(t, runtime,
		state.DeleteListener("web_frontend", ""), state.DeletePool("web_servers", ""))
	got, err = compiler.Node(Target{Structure: structure, Runtime: removed}, "lb-master")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Has("haproxy/backend/web_servers") || got.Has("haproxy/server/web_servers/web1") {
		t.Error("a pool removed from the runtime: want its section without servers")
	}
}

func TestUnknownNode(t *testing.T) {
	var compiler Compiler
	c := guide(t)
	if _, err := compiler.Node(Target{Structure: c, Runtime: c}, "nobody"); !errors.Is(err, ErrNoNode) {
		t.Errorf("error = %v, want ErrNoNode", err)
	}
}

func TestStatusRange(t *testing.T) {
	for _, tt := range []struct {
		in        string
		low, high uint32
		bad       bool
	}{
		{in: "200", low: 200, high: 200},
		{in: "200-399", low: 200, high: 399},
		{in: "399-200", bad: true},
		{in: "2x0", bad: true},
		{in: "-", bad: true},
	} {
		low, high, err := statusRange(tt.in)
		if low != tt.low || high != tt.high || (err != nil) != tt.bad {
			t.Errorf("statusRange(%q) = %d, %d, %v", tt.in, low, high, err)
		}
	}
}

// Every algorithm and every mode of the API has its place.
func TestEnumsAreWhole(t *testing.T) {
	if got, want := len(balances), len(haproxyv1.Balance_name)-1; got != want {
		t.Errorf("%d balance algorithms, the agent knows %d", got, want)
	}
	if got, want := len(failBacks), len(keepalivedv1.FailBack_name)-1; got != want {
		t.Errorf("%d fail-back policies, the agent knows %d", got, want)
	}
}
