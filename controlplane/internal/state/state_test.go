package state

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const epoch = "0123456789abcdef"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// plain is a hash that is quick and the same each time.
type plain struct{}

func (plain) Hash(p string) (string, error) { return "hash:" + p, nil }
func (plain) Matches(hash, p string) bool   { return hash == "hash:"+p }

func env() Env { return Env{Now: now, Author: "alice", Passwords: plain{}} }

// apply makes changes that must succeed.
func apply(t testing.TB, c *Config, changes ...Change) *Config {
	t.Helper()
	for i, ch := range changes {
		next, _, err := c.Apply(ch, env())
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		c = next
	}
	return c
}

func emptyCluster(t testing.TB) *Config {
	t.Helper()
	return apply(t, New("default", epoch, 0), CreateCluster(nil))
}

// guide is the guide's own cluster: two nodes, three web servers, one VIP.
func guide(t testing.TB) *Config {
	t.Helper()
	return apply(t, emptyCluster(t),
		AddNode("lb-master", "uid-1"), AddNode("lb-backup", "uid-2"),
		CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
		CreatePool("web_servers", &tandemv1.Pool{Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{Path: "/health"}}}),
		CreateBackend("web_servers", "web1", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
		CreateBackend("web_servers", "web2", &tandemv1.Backend{Address: "192.168.1.21", Port: 80}),
		CreateBackend("web_servers", "web3", &tandemv1.Backend{Address: "192.168.1.22", Port: 80}),
		CreateListener("web_frontend", &tandemv1.Listener{Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}, Pool: "web_servers"}),
		UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}}}}, nil),
	)
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

func in(n Name) string { return n.String() }

func dur(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// TestRules refuses one change after the other and names field and reason.
func TestRules(t *testing.T) {
	vip := func(vrid uint32, addresses ...string) *tandemv1.Vip {
		return &tandemv1.Vip{Addresses: addresses, Vrid: vrid}
	}
	listener := func(pool string, binds ...*tandemv1.Bind) *tandemv1.Listener {
		return &tandemv1.Listener{Pool: pool, Binds: binds}
	}
	other := apply(t, apply(t, New("other", epoch, 0), CreateCluster(nil)), CreateVip("db", vip(77, "10.9.9.9/24")))
	v2 := UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2)}}, nil)
	tests := []struct {
		name   string
		before []Change
		change Change
		code   Code
		field  string
		reason string
	}{
		{"field rule", nil, CreateBackend("web_servers", "w", &tandemv1.Backend{Address: "nonsense", Port: 80}),
			Invalid, "backend.address", ReasonFieldInvalid},
		{"field rule after a merge", nil, UpdateListener(&tandemv1.Listener{Name: in(ListenerName("default", "web_frontend")),
			Binds: []*tandemv1.Bind{{Vip: "web", Address: "10.0.0.1", Port: 80}}}, mask("binds")), Invalid, "listener.binds[0]", ReasonFieldInvalid},
		{"control character", nil, SetOverride(&tandemv1.Override{Name: in(OverrideName("default", "web_servers", "web1")), Reason: "a\nb"}, nil),
			Invalid, "override.reason", ReasonFieldInvalid},
		{"address with a zone", nil, CreateListener("z", listener("web_servers", &tandemv1.Bind{Address: "fe80::1%eth0\nmode tcp", Port: 81})),
			Invalid, "listener.binds[0].address", ReasonFieldInvalid},
		{"statistics address with a zone", nil, UpdateCluster(&tandemv1.Cluster{Name: "default",
			StatsPage: &tandemv1.StatsPage{Address: "fe80::1%a b"}}, nil), Invalid, "cluster.stats_page.address", ReasonFieldInvalid},
		{"id", nil, CreatePool("a b", nil), Invalid, "pool_id", ReasonNameInvalid},
		{"VIP id with a dot", nil, CreateVip("a.b", vip(1, "10.0.0.1/24")), Invalid, "vip_id", ReasonNameInvalid},
		{"name of another cluster", nil, UpdatePool(&tandemv1.Pool{Name: "clusters/other/pools/web_servers"}, nil),
			Invalid, "pool.name", ReasonNameInvalid},
		{"backend by its id alone", nil, UpdateBackend(&tandemv1.Backend{Name: "web1"}, nil), Invalid, "backend.name", ReasonNameInvalid},
		{"unknown mask", nil, UpdatePool(&tandemv1.Pool{Name: "web_servers"}, mask("check.nonsense")),
			Invalid, "update_mask", ReasonFieldUnknown},
		{"backends in a pool", nil, CreatePool("p", &tandemv1.Pool{Backends: []*tandemv1.Backend{{}}}),
			Invalid, "pool.backends", ReasonBackendsElsewhere},
		{"user twice", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "a", Password: "x"}, {Name: "a", Password: "y"}}}}, nil),
			Invalid, "cluster.stats_page.users[1].name", ReasonUserTwice},
		{"user without a password", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "new"}}}}, nil),
			Invalid, "cluster.stats_page.users[0].password", ReasonPasswordRequired},
		{"override that is over", nil, SetOverride(&tandemv1.Override{Name: in(OverrideName("default", "web_servers", "web1")),
			ExpireTime: timestamppb.New(now)}, nil), Invalid, "override.expire_time", ReasonExpired},
		{"password with VRRPv3", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{AuthPassword: "secret"}}, nil),
			Invalid, "cluster.vrrp.auth_password", ReasonAuthNeedsV2},

		{"cluster exists", nil, CreateCluster(nil), AlreadyExists, "", ReasonClusterExists},
		{"vip exists", nil, CreateVip("web", vip(9, "10.0.0.1/24")), AlreadyExists, "", ReasonVipExists},
		{"listener exists", nil, CreateListener("web_frontend", nil), AlreadyExists, "", ReasonListenerExists},
		{"pool exists", nil, CreatePool("web_servers", nil), AlreadyExists, "", ReasonPoolExists},
		{"backend exists", nil, CreateBackend("web_servers", "web1", nil), AlreadyExists, "", ReasonBackendExists},
		{"node exists", nil, AddNode("lb-master", "uid-9"), AlreadyExists, "", ReasonNodeExists},

		{"no vip", nil, UpdateVip(&tandemv1.Vip{Name: "x"}, nil), NotFound, "", ReasonNotFound},
		{"no pool for a backend", nil, CreateBackend("x", "web1", nil), NotFound, "", ReasonNotFound},
		{"no backend for an override", nil, SetOverride(&tandemv1.Override{Name: in(OverrideName("default", "web_servers", "x"))}, nil),
			NotFound, "", ReasonNotFound},
		{"no override", nil, DeleteOverride("web_servers", "web1"), NotFound, "", ReasonNotFound},
		{"no node to replace", nil, ReplaceNode("x", "uid-1", "uid-9"), NotFound, "", ReasonNotFound},
		{"node replaced by another", nil, ReplaceNode("lb-master", "uid-0", "uid-9"), FailedPrecondition, "", ReasonNodeReplaced},
		{"no node", nil, DeleteNode("x", ""), NotFound, "", ReasonNotFound},

		{"stale etag of a pool", nil, DeletePool("web_servers", "old"), Aborted, "", ReasonETagMismatch},
		{"stale etag of a backend", nil, UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "web_servers", "web1")), Etag: "old"}, nil),
			Aborted, "", ReasonETagMismatch},
		{"stale etag of a cluster", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", Etag: "old"}, nil), Aborted, "", ReasonETagMismatch},
		{"stale etag of an apply", nil, ApplyConfig(&tandemv1.ClusterConfig{}, "old"), Aborted, "", ReasonETagMismatch},

		{"cluster with nodes", nil, DeleteCluster(""), FailedPrecondition, "", ReasonClusterInUse},
		{"vip in use", nil, DeleteVip("web", ""), FailedPrecondition, "name", ReasonVipInUse},
		{"pool in use", nil, DeletePool("web_servers", ""), FailedPrecondition, "name", ReasonPoolInUse},
		{"unknown pool", nil, CreateListener("l", listener("x", &tandemv1.Bind{Port: 81})), FailedPrecondition, "listener.pool", ReasonUnknownPool},
		{"unknown vip", nil, CreateListener("l", listener("web_servers", &tandemv1.Bind{Vip: "x", Port: 81})),
			FailedPrecondition, "listener.binds[0].vip", ReasonUnknownVip},
		{"unknown node", nil, UpdateVip(&tandemv1.Vip{Name: "web", Priorities: map[string]uint32{"lb-mastr": 9}}, nil),
			FailedPrecondition, `vip.priorities["lb-mastr"]`, ReasonUnknownNode},
		{"priorities far apart", nil, UpdateVip(&tandemv1.Vip{Name: "web", Priorities: map[string]uint32{"lb-master": 230, "lb-backup": 208}}, nil),
			FailedPrecondition, "vip.priorities", ReasonPriorityGap},
		{"listener and pool", nil, UpdatePool(&tandemv1.Pool{Name: "web_servers", Protocol: "tcp"}, nil),
			FailedPrecondition, "pool.protocol", ReasonProtocolMismatch},
		{"listener's protocol", nil, UpdateListener(&tandemv1.Listener{Name: "web_frontend", Protocol: "tcp"}, nil),
			FailedPrecondition, "listener.pool", ReasonProtocolMismatch},

		{"VRID", nil, CreateVip("b", vip(51, "10.0.0.1/24")), FailedPrecondition, "vip.vrid", ReasonVridTaken},
		{"VRID of another cluster", nil, CreateVip("b", vip(77, "10.0.0.1/24")), FailedPrecondition, "vip.vrid", ReasonVridTaken},
		{"VRID of the second family", []Change{CreateVip("six", vip(60, "2001:db8::1/64"))},
			UpdateVip(&tandemv1.Vip{Name: "web", Vrid: 60, Addresses: []string{"192.168.1.100/24", "2001:db8::2/64"}}, nil),
			FailedPrecondition, "vip.vrid", ReasonVridTaken},
		{"VRID on a network of its own", []Change{CreateVip("a", &tandemv1.Vip{Vrid: 51, Addresses: []string{"10.0.0.1/24"}, VrrpNetwork: "vrrp"})},
			CreateVip("b", &tandemv1.Vip{Vrid: 51, Addresses: []string{"10.0.0.2/24"}, VrrpNetwork: "vrrp"}), FailedPrecondition, "vip.vrid", ReasonVridTaken},
		{"address of another VIP", nil, CreateVip("b", vip(9, "192.168.1.100/25")), FailedPrecondition, "vip.addresses[0]", ReasonAddressTaken},
		{"address twice in a VIP", nil, CreateVip("b", vip(9, "10.0.0.1/24", "10.0.0.1/32")), FailedPrecondition, "vip.addresses[1]", ReasonAddressTaken},
		{"anchor changed", nil, UpdateVip(&tandemv1.Vip{Name: "web", Addresses: []string{"192.168.1.101/24", "192.168.1.100/24"}}, nil),
			FailedPrecondition, "vip.addresses[0]", ReasonAnchorImmutable},
		{"anchor removed", []Change{UpdateVip(&tandemv1.Vip{Name: "web", Addresses: []string{"192.168.1.100/24", "2001:db8::2/64"}}, nil)},
			UpdateVip(&tandemv1.Vip{Name: "web", Addresses: []string{"192.168.1.100/24"}}, nil),
			FailedPrecondition, "vip.addresses[0]", ReasonAnchorImmutable},
		{"VRRPv2 and IPv6", []Change{v2}, CreateVip("six", vip(60, "2001:db8::1/64")), FailedPrecondition, "vip.addresses[0]", ReasonV2IPv6},
		{"IPv6 and VRRPv2", []Change{CreateVip("six", vip(60, "2001:db8::1/64"))}, v2, FailedPrecondition, "cluster.vrrp.version", ReasonV2IPv6},
		{"VRRPv2 and half a second", []Change{v2}, UpdateVip(&tandemv1.Vip{Name: "web", AdvertInterval: dur(500 * time.Millisecond)}, nil),
			FailedPrecondition, "vip.advert_interval", ReasonAdvertInterval},
		{"VRRPv3 and 55ms", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{AdvertInterval: dur(55 * time.Millisecond)}}, nil),
			FailedPrecondition, "cluster.vrrp.advert_interval", ReasonAdvertInterval},
		{"VRRPv2 and fast", []Change{v2}, UpdateVip(&tandemv1.Vip{Name: "web", Profile: "fast"}, nil),
			FailedPrecondition, "vip.advert_interval", ReasonAdvertInterval},
		{"interval and profile", nil, UpdateVip(&tandemv1.Vip{Name: "web", Profile: "wan", AdvertInterval: dur(time.Second)}, nil),
			FailedPrecondition, "vip.profile", ReasonProfile},
		{"cluster's interval and profile", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Profile: "wan", AdvertInterval: dur(time.Second)}}, nil),
			FailedPrecondition, "cluster.vrrp.profile", ReasonProfile},
		{"virtual MAC and unicast", nil, UpdateVip(&tandemv1.Vip{Name: "web", VirtualMac: true, Unicast: proto.Bool(true)}, nil),
			FailedPrecondition, "vip.virtual_mac", ReasonVirtualMac},
		{"unicast and a virtual MAC", []Change{CreateVip("mac", &tandemv1.Vip{Vrid: 60, Addresses: []string{"10.0.0.1/24"}, VirtualMac: true})},
			UpdateCluster(&tandemv1.Cluster{Name: "default", Vrrp: &tandemv1.Vrrp{Unicast: proto.Bool(true)}}, nil),
			FailedPrecondition, "cluster.vrrp.unicast", ReasonVirtualMac},
		{"virtual MAC and another network", nil, UpdateVip(&tandemv1.Vip{Name: "web", VirtualMac: true, VrrpNetwork: "vrrp"}, nil),
			FailedPrecondition, "vip.virtual_mac", ReasonVirtualMac},
		{"track twice", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "ping", Target: "2001:db8::1"}, {Kind: "ping", Target: "2001:DB8::1"}}}, nil),
			FailedPrecondition, "vip.tracks[1].target", ReasonTrackTwice},
		{"patience of a track", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "gateway", Timeout: dur(2 * time.Second)}}}, nil),
			FailedPrecondition, "vip.tracks[0].timeout", ReasonTrackTimeout},
		{"statuses of a track", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "url", Target: "http://c/", ExpectedStatus: "399-200"}}}, nil),
			FailedPrecondition, "vip.tracks[0].expected_status", ReasonStatusRange},
		{"the VIP's own network as a track", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "network", Target: "front"}}}, nil),
			FailedPrecondition, "vip.tracks[0].target", ReasonTrackNetwork},
		{"networks that weigh too much", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "network", Target: "back", Weight: proto.Int32(-56)}, {Kind: "network", Target: "storage", Weight: proto.Int32(-1)}}}, nil),
			FailedPrecondition, "vip.tracks[1].weight", ReasonTrackNetwork},
		{"the VIP's own address as a gateway", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "gateway", Target: "192.168.1.100"}}}, nil),
			FailedPrecondition, "vip.tracks[0].target", ReasonTrackOwnAddress},
		{"another VIP's address as a ping", []Change{CreateVip("six", vip(60, "10.0.0.1/24", "2001:db8::2/64"))},
			UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "gateway"}, {Kind: "ping", Target: "2001:DB8:0::2"}}}, nil),
			FailedPrecondition, "vip.tracks[1].target", ReasonTrackOwnAddress},
		{"address that a track asks at", []Change{UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "ping", Target: "10.0.0.9"}}}, nil)},
			CreateVip("b", vip(60, "10.0.0.9/24")), FailedPrecondition, "vip.addresses", ReasonTrackOwnAddress},
		{"network that is asked for", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "network", Target: "back", Fall: proto.Uint32(2)}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"network of no name", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "network"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"kind of track", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "script", Target: "/bin/true"}}}, nil),
			Invalid, "vip.tracks[0].kind", ReasonFieldInvalid},
		{"ping without address", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "ping"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"URL with password", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "url", Target: "http://a:secret@c/"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"URL without host", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "url", Target: "http://:80/"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"URL of another scheme", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "url", Target: "file:///etc/passwd"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"status of a gateway", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "gateway", ExpectedStatus: "200"}}}, nil),
			Invalid, "vip.tracks[0]", ReasonFieldInvalid},
		{"weight of nothing", nil, UpdateVip(&tandemv1.Vip{Name: "web", Tracks: []*tandemv1.Track{{Kind: "gateway", Weight: proto.Int32(0)}}}, nil),
			Invalid, "vip.tracks[0].weight", ReasonFieldInvalid},
		{"delay without a time", nil, UpdateVip(&tandemv1.Vip{Name: "web", FailBack: "delayed"}, nil),
			FailedPrecondition, "vip.fail_back_delay", ReasonFailBackDelay},

		{"bind", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Vip: "web", Port: 80})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"bind of the VIP's address", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Address: "192.168.1.100", Port: 80})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"bind to any", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Port: 80})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"bind to 0.0.0.0", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Address: "0.0.0.0", Port: 80})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"bind in a range", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Port: 443}, &tandemv1.Bind{Vip: "web", Port: 70, PortEnd: 90})),
			FailedPrecondition, "listener.binds[1].port", ReasonBindTaken},
		{"bind twice in a listener", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Address: "10.0.0.1", Port: 90, PortEnd: 95}, &tandemv1.Bind{Port: 95})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"statistics page's port", nil, CreateListener("b", listener("web_servers", &tandemv1.Bind{Vip: "web", Port: 8080})),
			FailedPrecondition, "listener.binds[0].port", ReasonBindTaken},
		{"statistics page on a listener's port", nil, UpdateCluster(&tandemv1.Cluster{Name: "default",
			StatsPage: &tandemv1.StatsPage{Port: proto.Uint32(80)}}, nil), FailedPrecondition, "cluster.stats_page.port", ReasonBindTaken},
		{"listener's limit", nil, UpdateListener(&tandemv1.Listener{Name: "web_frontend", MaxConnections: proto.Uint32(8001)}, nil),
			FailedPrecondition, "listener.max_connections", ReasonMaxConnections},
		{"process's limit", nil, UpdateCluster(&tandemv1.Cluster{Name: "default", MaxConnections: proto.Uint32(2999)}, nil),
			FailedPrecondition, "cluster.max_connections", ReasonMaxConnections},

		{"address of another backend", nil, CreateBackend("web_servers", "w", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
			FailedPrecondition, "backend.address", ReasonAddressTaken},
		{"address in another form", []Change{CreateBackend("web_servers", "six", &tandemv1.Backend{Address: "2001:db8::1", Port: 80})},
			CreateBackend("web_servers", "w", &tandemv1.Backend{Address: "2001:DB8:0::1", Port: 80}),
			FailedPrecondition, "backend.address", ReasonAddressTaken},
		{"uri without requests", nil, CreatePool("p", &tandemv1.Pool{Protocol: "tcp", Balance: "uri"}),
			FailedPrecondition, "pool.balance", ReasonBalanceNeedsHTTP},
		{"range of statuses", nil, CreatePool("p", &tandemv1.Pool{Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{ExpectedStatus: "399-200"}}}),
			FailedPrecondition, "pool.check.http.expected_status", ReasonStatusRange},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := apply(t, guide(t), tt.before...)
			e := env()
			e.Others = []*Config{other}
			next, changes, err := c.Apply(tt.change, e)
			var se *Error
			if !errors.As(err, &se) {
				t.Fatalf("got %v, %v, %v, want an *Error", next, changes, err)
			}
			field := ""
			if len(se.Violations) > 0 {
				field = se.Violations[0].Field
			}
			if se.Code != tt.code || se.Reason != tt.reason || field != tt.field {
				t.Errorf("got code %d, reason %s, field %q (%v), want %d, %s, %q", se.Code, se.Reason, field, se, tt.code, tt.reason, tt.field)
			}
			if len(se.Violations) > 1 {
				t.Errorf("one fault, several violations: %v", se)
			}
		})
	}
}

// TestAllowed makes changes that come close to a rule and break none.
func TestAllowed(t *testing.T) {
	tests := map[string][]Change{
		"VRID on another network": {CreateVip("b", &tandemv1.Vip{Vrid: 51, Network: "back", Addresses: []string{"10.0.0.1/24"}})},
		"VRID of another family":  {CreateVip("b", &tandemv1.Vip{Vrid: 51, Addresses: []string{"2001:db8::1/64"}})},
		"address after the anchor": {UpdateVip(&tandemv1.Vip{Name: "web",
			Addresses: []string{"2001:db8::9/64", "192.168.1.100/24", "192.168.1.101/24"}}, nil)},
		"port beside a range":   {CreateListener("b", &tandemv1.Listener{Pool: "web_servers", Binds: []*tandemv1.Bind{{Port: 81, PortEnd: 90}, {Port: 91}}})},
		"port of another place": {CreateListener("b", &tandemv1.Listener{Pool: "web_servers", Binds: []*tandemv1.Bind{{Address: "10.0.0.1", Port: 80}}})},
		"same address, other port": {CreateBackend("web_servers", "w",
			&tandemv1.Backend{Address: "192.168.1.20", Port: 81})},
		"two backends swap": {ApplyConfig(&tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{{Name: "web_servers", Backends: []*tandemv1.Backend{
			{Name: "web1", Address: "192.168.1.21", Port: 80}, {Name: "web2", Address: "192.168.1.20", Port: 80}}}}}, "")},
		"VRRPv2 with a password": {UpdateCluster(&tandemv1.Cluster{Name: "default",
			Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AuthPassword: "secret1"}}, nil)},
		"priority of a node":           {UpdateVip(&tandemv1.Vip{Name: "web", Priorities: map[string]uint32{"lb-backup": 209}}, nil)},
		"both priorities of the guide": {UpdateVip(&tandemv1.Vip{Name: "web", Priorities: map[string]uint32{"lb-master": 100, "lb-backup": 90}}, nil)},
	}
	for name, changes := range tests {
		t.Run(name, func(t *testing.T) {
			c := guide(t)
			if next := apply(t, c, changes...); next == c {
				t.Error("nothing has changed")
			}
		})
	}
}

func TestErrorNamesFieldAndCure(t *testing.T) {
	_, _, err := guide(t).Apply(CreateVip("b", &tandemv1.Vip{Vrid: 51, Addresses: []string{"10.0.0.1/24"}}), env())
	for _, want := range []string{"vip.vrid", "51", "clusters/default/vips/web", "front", "choose another one"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: must contain %q", err, want)
		}
	}
}

func TestAdminister(t *testing.T) {
	base := guide(t)
	set := func(x *tandemv1.Override) Change {
		x.Name = OverrideName("default", "web_servers", "web1").String()
		return SetOverride(x, nil)
	}
	for name, test := range map[string]struct {
		before *tandemv1.Override
		state  string
		weight *uint32
		want   string // state, weight and reason; "" is no override
	}{
		"drain":                     {nil, "drain", nil, "drain - why"},
		"weight":                    {nil, "ready", proto.Uint32(7), "ready 7 why"},
		"ready already":             {nil, "ready", nil, ""},
		"ready again":               {&tandemv1.Override{State: "drain"}, "ready", nil, ""},
		"ready again with a weight": {&tandemv1.Override{State: "drain", Weight: proto.Uint32(5)}, "ready", nil, "ready 5 why"},
		"drain with a weight":       {&tandemv1.Override{Weight: proto.Uint32(5)}, "drain", nil, "drain 5 why"},
		"without an end":            {&tandemv1.Override{State: "drain", ExpireTime: timestamppb.New(now.Add(time.Hour))}, "maintenance", nil, "maintenance - why"},
	} {
		c := base
		if test.before != nil {
			c = apply(t, c, set(test.before))
		}
		o := apply(t, c, Administer("web_servers", "web1", test.state, test.weight, "why")).Override("web_servers", "web1")
		got := ""
		if o != nil {
			weight := "-"
			if o.Weight != nil {
				weight = strconv.Itoa(int(o.GetWeight()))
			}
			got = o.GetState() + " " + weight + " " + o.GetReason()
		}
		if got != test.want || o.GetExpireTime() != nil {
			t.Errorf("%s: %q until %v, want %q", name, got, o.GetExpireTime(), test.want)
		}
	}
	_, _, err := base.Apply(Administer("web_servers", "gone", "drain", nil, ""), env())
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != NotFound {
		t.Errorf("of a backend that is not there: %v", err)
	}
}
