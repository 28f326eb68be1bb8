package state

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// made returns what a change that must succeed does.
func made(t *testing.T, c *Config, ch Change) (*Config, []*tandemv1.Change) {
	t.Helper()
	next, changes, err := c.Apply(ch, env())
	if err != nil {
		t.Fatal(err)
	}
	return next, changes
}

func names(changes []*tandemv1.Change) string {
	var out []string
	for _, c := range changes {
		sign := "~"
		if c.Before == nil {
			sign = "+"
		} else if c.After == nil {
			sign = "-"
		}
		out = append(out, sign+strings.TrimPrefix(c.Name, "clusters/default"))
	}
	return strings.Join(out, " ")
}

func override(backend string) *tandemv1.Override {
	return &tandemv1.Override{Name: OverrideName("default", "web_servers", backend).String(), State: "drain"}
}

// TestChanges tells what each change did, in order of the names.
func TestChanges(t *testing.T) {
	tests := []struct {
		name   string
		change Change
		want   string
	}{
		{"create", CreatePool("p", nil), "+/pools/p"},
		{"update", UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "web_servers", "web1")), Weight: proto.Uint32(5)}, nil),
			"~/pools/web_servers/backends/web1"},
		{"delete with override", DeleteBackend("web_servers", "web2", ""),
			"-/pools/web_servers/backends/web2 -/pools/web_servers/backends/web2/override"},
		{"delete a node with its priorities", DeleteNode("lb-master", ""), "-/nodes/lb-master ~/vips/web"},
		{"replace a node", ReplaceNode("lb-master", "uid-1", "uid-9"), "~/nodes/lb-master"}, {"replaced already", ReplaceNode("lb-master", "uid-0", "uid-1"), ""},
		{"override", SetOverride(override("web1"), nil), "+/pools/web_servers/backends/web1/override"},
		{"override changed", SetOverride(&tandemv1.Override{Name: override("web2").Name, Weight: proto.Uint32(3)}, mask("weight")),
			"~/pools/web_servers/backends/web2/override"},
		{"override removed", DeleteOverride("web_servers", "web2"), "-/pools/web_servers/backends/web2/override"},
		{"password alone", UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "admin", Password: "other"}}}}, nil), "~"},
		{"empty file", ApplyConfig(&tandemv1.ClusterConfig{}, ""),
			"~ -/listeners/web_frontend -/pools/web_servers -/pools/web_servers/backends/web1 -/pools/web_servers/backends/web2 " +
				"-/pools/web_servers/backends/web2/override -/pools/web_servers/backends/web3 -/vips/web"},

		{"same password", UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}}}}, nil), ""},
		{"same override", SetOverride(override("web2"), nil), ""},
		{"same node", AddNode("lb-master", "uid-1"), ""},
		{"same weight", UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "web_servers", "web1")), Port: 80}, nil), ""},
		{"same address in another form", UpdateVip(&tandemv1.Vip{Name: "web", Addresses: []string{"192.168.1.100/24"}}, nil), ""},
		{"output-only fields", UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "web_servers", "web1")), Id: 77,
			Override: &tandemv1.Override{State: "drain"}}, nil), ""},
		{"nothing has expired", ExpireOverrides(), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := apply(t, guide(t), SetOverride(override("web2"), nil),
				UpdateVip(&tandemv1.Vip{Name: "web", Priorities: map[string]uint32{"lb-master": 200}}, nil))
			before := Export(c)
			next, changes := made(t, c, tt.change)
			if got := names(changes); got != tt.want {
				t.Errorf("changes are %q, want %q", got, tt.want)
			}
			if (next == c) != (tt.want == "") {
				t.Error("a new Config and changes come together or not at all")
			}
			if next != c && next.Revision() != c.Revision()+1 {
				t.Errorf("revision %d after %d", next.Revision(), c.Revision())
			}
			if d := cmp.Diff(before, Export(c), protocmp.Transform()); d != "" {
				t.Errorf("the Config before was changed: %s", d)
			}
			for _, ch := range changes {
				assertResource(t, c, ch.Name, ch.Before)
				assertResource(t, next, ch.Name, ch.After)
			}
		})
	}
}

// assertResource compares one side of a change with what a Config holds.
func assertResource(t *testing.T, c *Config, name string, r *tandemv1.Resource) {
	t.Helper()
	n, err := ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.Resource(n), r, protocmp.Transform()); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

// TestI10NoSecretIsShown searches all that a Config and its changes show.
func TestI10NoSecretIsShown(t *testing.T) {
	c, changes := made(t, guide(t), UpdateCluster(&tandemv1.Cluster{Name: "default",
		Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "canary1"},
		StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{
			{Name: "admin", Password: "canary2"}, {Name: "other", Password: "canary3"}}}}, nil))
	if c.Secret("vrrp/auth") != "canary1" || c.Secret("stats/admin") != "hash:canary2" || len(c.SecretRefs()) != 3 {
		t.Errorf("secrets: %v", c.SecretRefs())
	}
	shown := []proto.Message{Export(c), ClusterView(c), c.Cluster()}
	for _, ch := range changes {
		shown = append(shown, ch)
	}
	for _, m := range shown {
		if text := protojson.Format(m); strings.Contains(text, "canary") {
			t.Errorf("%T shows a secret: %s", m, text)
		}
	}
	users := ClusterView(c).GetStatsPage().GetUsers()
	if !users[0].GetPasswordSet() || !users[1].GetPasswordSet() || !ClusterView(c).GetVrrp().GetAuthPasswordSet() {
		t.Errorf("it must be told that passwords are set: %v", ClusterView(c))
	}

	bad := UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{
		Users: []*tandemv1.StatsUser{{Name: "admin", Password: "canary4\n"}}}}, nil)
	if _, _, err := c.Apply(bad, env()); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("refusal: %v", err)
	}
}

// TestSecretsFollowTheirPlace keeps, drops and replaces passwords.
func TestSecretsFollowTheirPlace(t *testing.T) {
	c := apply(t, guide(t), UpdateCluster(&tandemv1.Cluster{Name: "default",
		Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "pass1"}}, nil))
	file := Export(c)
	c = apply(t, c, ApplyConfig(file, ""))
	if c.Secret("stats/admin") != "hash:password123" || c.Secret("vrrp/auth") != "pass1" {
		t.Error("an exported file applied again lost a password")
	}
	next := apply(t, c, UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(3)}}, nil))
	if next.Secret("vrrp/auth") != "" || next.Cluster().GetVrrp().GetAuthPasswordSet() {
		t.Error("VRRPv3 kept a password")
	}
	if d := cmp.Diff(map[string]string{"vrrp/auth": ""}, next.SecretsSince(c)); d != "" {
		t.Error(d)
	}
	next = apply(t, c, UpdateCluster(&tandemv1.Cluster{Name: "default"}, mask("stats_page")))
	if next.Secret("stats/admin") != "" {
		t.Error("the page is gone and its password is not")
	}
}

func TestBcrypt(t *testing.T) {
	h, err := Bcrypt{}.Hash("password123")
	if err != nil || !strings.HasPrefix(h, "$2a$04$") {
		t.Fatalf("%q, %v", h, err)
	}
	if !(Bcrypt{}).Matches(h, "password123") || (Bcrypt{}).Matches(h, "password124") || (Bcrypt{}).Matches("", "") {
		t.Error("matches what it should not, or not what it should")
	}
}

// TestMask updates by mask and without one.
func TestMask(t *testing.T) {
	base := &tandemv1.Pool{Name: "p", Balance: "leastconn", Retries: proto.Uint32(5), ConnectTimeout: dur(time.Second),
		Check: &tandemv1.HealthCheck{Rise: proto.Uint32(7), Http: &tandemv1.HttpCheck{Path: "/a", Host: "h"}}}
	tests := []struct {
		name  string
		x     *tandemv1.Pool
		paths []string
		want  func(*tandemv1.Pool)
	}{
		{"what is set", &tandemv1.Pool{Retries: proto.Uint32(0), ConnectTimeout: dur(2 * time.Second),
			Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{Path: "/b"}}}, nil,
			func(p *tandemv1.Pool) {
				p.Retries, p.ConnectTimeout, p.Check.Http.Path = proto.Uint32(0), dur(2*time.Second), "/b"
			}},
		{"empty message", &tandemv1.Pool{Check: &tandemv1.HealthCheck{}}, nil, func(*tandemv1.Pool) {}},
		{"named field", &tandemv1.Pool{Balance: "first", Retries: proto.Uint32(1)}, []string{"balance"},
			func(p *tandemv1.Pool) { p.Balance = "first" }},
		{"named field cleared", &tandemv1.Pool{}, []string{"retries", "check.http.host", "connect_timeout"},
			func(p *tandemv1.Pool) { p.Retries, p.Check.Http.Host, p.ConnectTimeout = nil, "", nil }},
		{"message replaced", &tandemv1.Pool{Check: &tandemv1.HealthCheck{Fall: proto.Uint32(1)}}, []string{"check"},
			func(p *tandemv1.Pool) { p.Check = &tandemv1.HealthCheck{Fall: proto.Uint32(1)} }},
		{"nested", &tandemv1.Pool{Check: &tandemv1.HealthCheck{Rise: proto.Uint32(9), Fall: proto.Uint32(1)}}, []string{"check.rise"},
			func(p *tandemv1.Pool) { p.Check.Rise = proto.Uint32(9) }},
		{"all", &tandemv1.Pool{Balance: "first"}, []string{"*"},
			func(p *tandemv1.Pool) { proto.Reset(p); p.Balance = "first" }},
		{"name and etag", &tandemv1.Pool{Balance: "first"}, []string{"name", "etag", "balance"},
			func(p *tandemv1.Pool) { p.Balance = "first" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := apply(t, emptyCluster(t), CreatePool("p", base))
			tt.x.Name = "p"
			want := proto.CloneOf(base)
			tt.want(want)
			want.Name = "clusters/default/pools/p"
			c = apply(t, c, UpdatePool(tt.x, mask(tt.paths...)))
			if d := cmp.Diff(want, c.Pool("p"), protocmp.Transform(), protocmp.IgnoreFields(&tandemv1.Pool{}, "etag")); d != "" {
				t.Errorf("(-want +got): %s", d)
			}
		})
	}
}

func TestUnknownMask(t *testing.T) {
	for _, path := range []string{"nonsense", "check.nonsense", "check.http.path.x", "connect_timeout.seconds", "backends.x", ""} {
		_, _, err := guide(t).Apply(UpdatePool(&tandemv1.Pool{Name: "web_servers"}, mask(path)), env())
		var se *Error
		if !errors.As(err, &se) || se.Reason != ReasonFieldUnknown {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestETags(t *testing.T) {
	c := guide(t)
	pool, head := c.Pool("web_servers").GetEtag(), c.ETag()
	web1, web2 := c.Backend("web_servers", "web1").GetEtag(), c.Backend("web_servers", "web2").GetEtag()
	c = apply(t, c, UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "web_servers", "web1")), Weight: proto.Uint32(7), Etag: web1}, nil))
	if c.Pool("web_servers").GetEtag() != pool || c.Backend("web_servers", "web2").GetEtag() != web2 {
		t.Error("a backend's change touched other etags")
	}
	if c.ETag() == head || c.Backend("web_servers", "web1").GetEtag() == web1 {
		t.Error("a change left its etags")
	}
	if ClusterView(c).GetEtag() != c.ETag() {
		t.Error("the cluster's etag is the head's")
	}
}

func TestExpireOverrides(t *testing.T) {
	past, future := override("web1"), override("web2")
	past.ExpireTime, future.ExpireTime = timestamppb.New(now.Add(time.Second)), timestamppb.New(now.Add(time.Minute))
	c := apply(t, guide(t), SetOverride(past, nil), SetOverride(future, nil), SetOverride(override("web3"), nil))
	if got := c.Override("web_servers", "web1"); got.GetAuthor() != "alice" || !got.GetCreateTime().AsTime().Equal(now) {
		t.Errorf("author and time: %v", got)
	}
	e := env()
	e.Now = now.Add(time.Second)
	next, changes, err := c.Apply(ExpireOverrides(), e)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(changes); got != "-/pools/web_servers/backends/web1/override" {
		t.Errorf("changes: %q", got)
	}
	if next.Backend("web_servers", "web1").GetOverride() != nil || next.Backend("web_servers", "web2").GetOverride() == nil {
		t.Error("the wrong override ended")
	}
}

func TestDeleteClusterAndMakeItAgain(t *testing.T) {
	c := apply(t, guide(t), DeleteNode("lb-master", ""), DeleteNode("lb-backup", ""))
	gone, changes := made(t, c, DeleteCluster(c.ETag()))
	if !gone.Deleted() || len(changes) != 7 || len(gone.SecretsSince(c)) != 1 {
		t.Errorf("deleted %v: %s", gone.Deleted(), names(changes))
	}
	if _, _, err := gone.Apply(CreatePool("p", nil), env()); err == nil {
		t.Error("a deleted cluster took a pool")
	}
	again := apply(t, New("default", epoch, gone.Revision()), CreateCluster(nil))
	if again.Revision() != gone.Revision()+1 || len(again.Pools()) != 0 {
		t.Errorf("revision %d after %d", again.Revision(), gone.Revision())
	}
}

func TestLoadRefusesWhatItDoesNotKnow(t *testing.T) {
	good := &tandemv1.Resource{Kind: &tandemv1.Resource_Cluster{Cluster: &tandemv1.Cluster{Name: "clusters/default"}}}
	tests := map[string]Content{
		"newer defaults":   {Resources: []*tandemv1.Resource{good}, Counters: Counters{Defaults: newestDefaults + 1}},
		"newer kind":       {Resources: []*tandemv1.Resource{good, {}}, Counters: Counters{Defaults: 1}},
		"without settings": {Counters: Counters{Defaults: 1}},
	}
	for name, content := range tests {
		if c, err := Load("default", epoch, 1, content); err == nil {
			t.Errorf("%s: got %v", name, c)
		}
	}
}

func TestNames(t *testing.T) {
	for _, n := range []Name{ClusterName("a"), VipName("a", "b"), ListenerName("a", "b.c"), PoolName("a", "b"),
		BackendName("a", "p", "b"), OverrideName("a", "p", "b"), NodeName("a", "b")} {
		if got, err := ParseName(n.String()); err != nil || got != n {
			t.Errorf("%s: got %+v, %v", n, got, err)
		}
	}
	for _, s := range []string{"", "a", "clusters/", "clusters/a/", "clusters/a b", "clusters/a/vips/b.c", "clusters/a/pools/b\n",
		"clusters/a/pools/../backends/b", "clusters/a/pools/b/backends/c/override/", "clusters/a/nonsense/b",
		"clusters/" + strings.Repeat("a", 33), "clusters/a/pools/" + strings.Repeat("a", 64)} {
		if n, err := ParseName(s); err == nil {
			t.Errorf("%q: got %+v", s, n)
		}
	}
}
