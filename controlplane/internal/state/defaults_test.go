package state

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// TestDefaults holds the values of version 1 still: clusters were made with
// them. Another value is another version.
func TestDefaults(t *testing.T) {
	c := emptyCluster(t)
	want := &tandemv1.ProxySettings{
		ConnectTimeout: dur(5 * time.Second), ClientTimeout: dur(time.Minute), ServerTimeout: dur(time.Minute),
		HttpRequestTimeout: dur(10 * time.Second), HttpKeepAliveTimeout: dur(10 * time.Second), QueueTimeout: dur(time.Minute),
		Retries: proto.Uint32(3), Redispatch: proto.Bool(true), ForwardedFor: proto.Bool(true), MaxConnections: proto.Uint32(3000),
	}
	same := func(what string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got): %s", what, d)
		}
	}
	if c.Counters().Defaults != 1 {
		t.Fatalf("a new cluster has defaults %d", c.Counters().Defaults)
	}
	same("proxy", want, EffectiveCluster(c))
	same("max_connections", uint32(8000), EffectiveMaxConnections(c))
	same("version", uint32(3), EffectiveVrrpVersion(c))
	same("advert", 100*time.Millisecond, EffectiveAdvertInterval(c, &tandemv1.Vip{}))
	same("no page", (*tandemv1.StatsPage)(nil), EffectiveStatsPage(c))
	same("logging", &tandemv1.Logging{Facility: "local0", Format: "haproxy", Query: proto.Bool(true)}, EffectiveLogging(c))
	check := &tandemv1.HealthCheck{Interval: dur(2 * time.Second), Timeout: dur(2 * time.Second), Rise: proto.Uint32(2), Fall: proto.Uint32(3)}
	same("check", check, EffectiveCheck(c, &tandemv1.Pool{}))
	check.Http = &tandemv1.HttpCheck{Method: "GET", Path: "/", ExpectedStatus: "200-399"}
	same("http check", check, EffectiveCheck(c, &tandemv1.Pool{Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{}}}))
	same("checks off", (*tandemv1.HealthCheck)(nil), EffectiveCheck(c, &tandemv1.Pool{Check: &tandemv1.HealthCheck{Disabled: true}}))
	c = apply(t, c, UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{}}, nil))
	same("page", &tandemv1.StatsPage{Port: proto.Uint32(8080), Path: "/stats", Realm: "HAProxy Statistics", Refresh: dur(30 * time.Second)},
		EffectiveStatsPage(c))
	stranger := &tandemv1.Node{Name: "clusters/default/nodes/n", Number: 1}
	for _, test := range []struct{ a, b, want uint32 }{{100, 90, 89}, {230, 209, 209}, {1, 1, 1}, {22, 1, 1}, {234, 231, 230}} {
		v := &tandemv1.Vip{Priorities: map[string]uint32{"a": test.a, "b": test.b}}
		same("priority beside named ones", test.want, EffectivePriority(c, v, stranger))
	}
	for number, want := range map[uint32]uint32{1: 230, 2: 220, 3: 210, 4: 210, 1000: 210} {
		node := &tandemv1.Node{Name: "clusters/default/nodes/n", Number: number}
		same("priority", want, EffectivePriority(c, &tandemv1.Vip{}, node))
	}
}

// VRRPv2 counts in seconds: wan is its profile, and the only one to be proposed.
func TestTheProfileOfVRRPv2(t *testing.T) {
	c := guide(t)
	if name, _ := ProfileFor(c, 0); name != "fast" {
		t.Errorf("VRRPv3 gets %q", name)
	}
	c = apply(t, c, UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "secret12", Profile: "wan"}}, nil))
	if d := EffectiveAdvertInterval(c, c.Vip("web")); d != time.Second {
		t.Errorf("the interval is %v", d)
	}
	for late, want := range map[time.Duration]string{0: "wan", 500 * time.Millisecond: "wan", 501 * time.Millisecond: ""} {
		if name, _ := ProfileFor(c, late); name != want {
			t.Errorf("%v late: %q, want %q", late, name, want)
		}
	}
}

// TestInheritance goes from default over cluster to listener, pool and VIP.
func TestInheritance(t *testing.T) {
	c := apply(t, guide(t), UpdateCluster(&tandemv1.Cluster{Name: "default",
		Vrrp:     &tandemv1.Vrrp{Version: proto.Uint32(2)},
		Defaults: &tandemv1.ProxySettings{ClientTimeout: dur(time.Second), Retries: proto.Uint32(0), ForwardedFor: proto.Bool(false)}}, nil),
		UpdateListener(&tandemv1.Listener{Name: "web_frontend", MaxConnections: proto.Uint32(10)}, nil),
		UpdatePool(&tandemv1.Pool{Name: "web_servers", QueueTimeout: dur(time.Hour)}, nil))
	wantListener := &tandemv1.ProxySettings{ClientTimeout: dur(time.Second), HttpRequestTimeout: dur(10 * time.Second),
		HttpKeepAliveTimeout: dur(10 * time.Second), ForwardedFor: proto.Bool(false), MaxConnections: proto.Uint32(10)}
	if d := cmp.Diff(wantListener, ListenerView(c, c.Listener("web_frontend")).GetEffective(), protocmp.Transform()); d != "" {
		t.Errorf("listener (-want +got): %s", d)
	}
	wantPool := &tandemv1.ProxySettings{ConnectTimeout: dur(5 * time.Second), ServerTimeout: dur(time.Minute),
		QueueTimeout: dur(time.Hour), Retries: proto.Uint32(0), Redispatch: proto.Bool(true)}
	if d := cmp.Diff(wantPool, PoolView(c, c.Pool("web_servers")).GetEffective(), protocmp.Transform()); d != "" {
		t.Errorf("pool (-want +got): %s", d)
	}
	if c.Pool("web_servers").GetEffective() != nil {
		t.Error("a view was stored")
	}
	intervals := []struct {
		vip  *tandemv1.Vip
		want time.Duration
	}{{&tandemv1.Vip{}, time.Second}, {&tandemv1.Vip{AdvertInterval: dur(3 * time.Second)}, 3 * time.Second}}
	for _, i := range intervals {
		if got := EffectiveAdvertInterval(c, i.vip); got != i.want {
			t.Errorf("VRRPv2 advert interval %v, want %v", got, i.want)
		}
	}
	node := c.Node("lb-backup")
	if got := EffectivePriority(c, &tandemv1.Vip{Priorities: map[string]uint32{"lb-backup": 9}}, node); got != 9 {
		t.Errorf("priority %d, want 9", got)
	}
	b := &tandemv1.Backend{Weight: proto.Uint32(5)}
	if EffectiveWeight(&tandemv1.Backend{}) != 1 || EffectiveWeight(b) != 5 || EffectiveState(b) != "ready" {
		t.Error("weight is 1 unless set, state is ready")
	}
	b.Override = &tandemv1.Override{Weight: proto.Uint32(0), State: "drain"}
	if EffectiveWeight(b) != 0 || EffectiveState(b) != "drain" {
		t.Error("an override outranks the backend")
	}
}

// A VIP's own interval or profile counts before the cluster's, and that before the
// default.
func TestPaces(t *testing.T) {
	for _, tt := range []struct {
		cluster *tandemv1.Vrrp
		vip     *tandemv1.Vip
		want    time.Duration
	}{
		{&tandemv1.Vrrp{}, &tandemv1.Vip{Profile: "fast"}, 50 * time.Millisecond},
		{&tandemv1.Vrrp{}, &tandemv1.Vip{Profile: "normal"}, 100 * time.Millisecond},
		{&tandemv1.Vrrp{Profile: "wan"}, &tandemv1.Vip{}, time.Second},
		{&tandemv1.Vrrp{Profile: "wan"}, &tandemv1.Vip{AdvertInterval: dur(20 * time.Second)}, 20 * time.Second},
		{&tandemv1.Vrrp{AdvertInterval: dur(3 * time.Second)}, &tandemv1.Vip{Profile: "fast"}, 50 * time.Millisecond},
		{&tandemv1.Vrrp{Version: proto.Uint32(2), Profile: "wan"}, &tandemv1.Vip{}, time.Second},
	} {
		c := apply(t, emptyCluster(t), UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: tt.cluster}, nil))
		if got := EffectiveAdvertInterval(c, tt.vip); got != tt.want {
			t.Errorf("cluster %v, VIP %v: %v, want %v", tt.cluster, tt.vip, got, tt.want)
		}
	}
}
