package view

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/cli/internal/golden"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }

func id(kind, id string) string { return "clusters/default/" + kind + "/" + id }

func pair() *tandemv1.ClusterStatus {
	running := func(version string) *tandemv1.DaemonStatus {
		return &tandemv1.DaemonStatus{State: tandemv1.DaemonState_DAEMON_STATE_RUNNING, Version: version}
	}
	node := func(name string) *tandemv1.NodeStatus {
		return &tandemv1.NodeStatus{
			Name: id("nodes", name), Connected: true, LastSeen: ago(time.Second), Sent: 12, Applied: 12,
			Haproxy: running("2.6.12"), Keepalived: running("2.2.7"), AgentVersion: "v0.1", Reloads: 3,
			Interfaces: map[string]string{"front": "eth0", "vrrp": "eth2"},
		}
	}
	up := func(node string, state tandemv1.BackendState) *tandemv1.BackendNodeStatus {
		return &tandemv1.BackendNodeStatus{Node: node, State: state, Weight: 1, Reason: "L7OK 200", Since: ago(5 * time.Minute)}
	}
	const (
		upState = tandemv1.BackendState_BACKEND_STATE_UP
		down    = tandemv1.BackendState_BACKEND_STATE_DOWN
		drain   = tandemv1.BackendState_BACKEND_STATE_DRAIN
	)
	broken := up("lb-backup", down)
	broken.Reason, broken.Weight = "Layer4 connection problem, Connection refused", 4
	return &tandemv1.ClusterStatus{
		Name: "clusters/default", Desired: 12, Epoch: "e",
		Nodes: []*tandemv1.NodeStatus{node("lb-master"), node("lb-backup")},
		Vips: []*tandemv1.VipStatus{{Name: id("vips", "web"), Holders: []string{"lb-master"}, Since: ago(3 * time.Hour), Nodes: []*tandemv1.VipNodeStatus{
			{Node: "lb-master", State: tandemv1.VrrpState_VRRP_STATE_MASTER, Holds: true, Priority: 230},
			{Node: "lb-backup", State: tandemv1.VrrpState_VRRP_STATE_BACKUP, Priority: 220},
		}}},
		Pools: []*tandemv1.PoolStatus{{Name: id("pools", "web_servers"), Backends: []*tandemv1.BackendStatus{
			{Name: id("pools", "web_servers/backends/web1"), State: upState, Nodes: []*tandemv1.BackendNodeStatus{up("lb-master", upState), up("lb-backup", upState)}},
			{Name: id("pools", "web_servers/backends/web2"), State: down, Nodes: []*tandemv1.BackendNodeStatus{up("lb-master", upState), broken}},
			{Name: id("pools", "web_servers/backends/web3"), State: drain, Nodes: []*tandemv1.BackendNodeStatus{up("lb-master", drain)}},
		}}},
	}
}

func troubled() *tandemv1.ClusterStatus {
	status := pair()
	status.Desired = 14
	master, backup := status.Nodes[0], status.Nodes[1]
	master.Failed, master.Failure = 14, "[ALERT] config : parsing [haproxy.cfg:31]\n\x1b[31mcannot bind"
	master.Problems = []string{"interface eth9 of network front does not exist: set it in the agent's configuration"}
	backup.Problems = []string{"revision 14 is not in effect: nobody holds db"} // an alarm says so
	backup.Connected, backup.LastSeen = false, ago(90*time.Second)
	backup.Haproxy = &tandemv1.DaemonStatus{State: tandemv1.DaemonState_DAEMON_STATE_STOPPED, Message: "exited with status 1"}
	backup.Keepalived = nil
	backup.Score = -100
	vip := status.Vips[0]
	vip.Notes = []string{"track \"ping 10.0.0.9\" is too light:\x1b[2J use -11 to -56"}
	vip.ProposedProfile, vip.Nodes[1].Jitter = "normal", &tandemv1.Jitter{Mean: durationpb.New(300 * time.Microsecond), Worst: durationpb.New(31 * time.Millisecond), Measured: durationpb.New(10 * time.Minute)}
	vip.Nodes[0].Tracks = []*tandemv1.TrackStatus{{Track: "gateway", Lost: true, Reason: "it does not answer"}, {Track: "ping 10.0.0.9"}}
	vip.Holders = []string{"lb-backup", "lb-master"}
	vip.Nodes[1].Holds = true
	status.Vips = append(status.Vips, &tandemv1.VipStatus{Name: id("vips", "db"), Nodes: []*tandemv1.VipNodeStatus{
		{Node: "lb-master", State: tandemv1.VrrpState_VRRP_STATE_FAULT},
		{Node: "lb-backup"},
	}})
	status.Alarms = []*tandemv1.Alarm{
		{Key: "TWO_HOLDERS vips/web", Reason: "TWO_HOLDERS", Subject: id("vips", "web"), Since: ago(4 * time.Second),
			Message: "lb-master and lb-backup both hold web", Cure: "let VRRP (protocol 112) through between them"},
		{Reason: "NO_HOLDER", Subject: id("vips", "db"), Since: ago(2 * time.Minute), Message: "nobody holds db"},
	}
	return status
}

// untouched is a pair that runs hand-written files, of which one node's agent has
// just gone.
func untouched() *tandemv1.ClusterStatus {
	status := pair()
	status.Pools = nil
	for _, node := range status.GetNodes() {
		node.Applied, node.Haproxy, node.Keepalived = 0, nil, nil
	}
	status.Nodes[1].Connected, status.Nodes[1].LastSeen = false, ago(time.Second)
	status.Vips = []*tandemv1.VipStatus{
		{Name: id("vips", "web"), Holders: []string{"lb-master"}, Since: ago(time.Minute), Nodes: []*tandemv1.VipNodeStatus{{Node: "lb-master", Holds: true}}},
		{Name: id("vips", "db"), Since: ago(time.Second), Heard: []string{"lb-backup"}, Nodes: []*tandemv1.VipNodeStatus{{Node: "lb-master"}}},
	}
	return status
}

// diskFull is a pair of which one node cannot write.
func diskFull() *tandemv1.ClusterStatus {
	status := pair()
	status.Pools = nil
	master := status.Nodes[0]
	master.NotPersistent = true
	master.Problems = []string{"revision 12 is in effect and would not survive a reboot: write journal: no space left on device: free some"}
	return status
}

// waiting is a pair of which one node waits for the other.
func waiting() *tandemv1.ClusterStatus {
	status := pair()
	status.Pools = nil
	status.Nodes[0].Applied = 11
	status.Nodes[0].Waiting = "VIP web keeps the VRRP settings that it had: it waits for lb-backup, which the controller does not hear"
	return status
}

// drifted is a pair of which one node was changed on the machine itself.
func drifted() *tandemv1.ClusterStatus {
	status := pair()
	status.Pools = nil
	state := func(state string, weight ...uint32) *tandemv1.DriftState {
		s := &tandemv1.DriftState{State: state}
		for _, w := range weight {
			s.Weight = proto.Uint32(w)
		}
		return s
	}
	status.Nodes[0].Drift = []*tandemv1.Drift{
		{Name: id("nodes", "lb-master"), Desired: state("ready"), Local: state("drain"), Author: "ann", CreateTime: ago(time.Hour), Reason: "new\x1b[2J kernel"},
		{Name: id("pools", "web_servers/backends/web1"), Desired: state("ready", 1), Local: state("ready", 7), Author: "root", CreateTime: ago(time.Minute)},
		{Name: id("pools", "web_servers/backends/gone"), Local: state("maintenance"), Author: "root", CreateTime: ago(time.Minute)},
	}
	status.Alarms = []*tandemv1.Alarm{{Reason: "DRIFT", Subject: id("nodes", "lb-master"), Since: ago(time.Hour),
		Message: "lb-master departs from what is desired, as it was changed on the machine itself: lb-master drain", Cure: "keep or discard it"}}
	return status
}

func TestStatus(t *testing.T) {
	tests := []struct {
		name   string
		status *tandemv1.ClusterStatus
		style  output.Style
	}{
		{"status_well", pair(), output.Style{}},
		{"status_well_wide", pair(), output.Style{Wide: true}},
		{"status_troubled", troubled(), output.Style{}},
		{"status_troubled_color", troubled(), output.Style{Color: true}},
		{"status_untouched", untouched(), output.Style{}},
		{"status_disk_full", diskFull(), output.Style{}},
		{"status_waiting", waiting(), output.Style{}},
		{"status_drifted", drifted(), output.Style{}},
		{"status_empty", &tandemv1.ClusterStatus{Name: "clusters/default"}, output.Style{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Status(&out, tt.status, tt.style, Clock(noon)); err != nil {
				t.Fatal(err)
			}
			if !tt.style.Color && bytes.ContainsRune(out.Bytes(), '\x1b') {
				t.Error("an escape of the server's reached the terminal")
			}
			golden.Check(t, tt.name+".golden", out.Bytes())
		})
	}
}

func TestProfiles(t *testing.T) {
	vips := troubled().GetVips()
	var out bytes.Buffer
	if err := Profiles(&out, vips, output.Style{}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "profiles.golden", out.Bytes())
}

func TestTables(t *testing.T) {
	clock := Clock(noon)
	settings := &tandemv1.ProxySettings{
		ConnectTimeout: durationpb.New(5 * time.Second), ServerTimeout: durationpb.New(time.Minute), QueueTimeout: durationpb.New(90 * time.Second),
		Retries: proto.Uint32(3), ClientTimeout: durationpb.New(time.Hour), MaxConnections: proto.Uint32(3000),
	}
	pool := &tandemv1.Pool{
		Name: id("pools", "web_servers"), Balance: "leastconn", ConnectTimeout: durationpb.New(5 * time.Second), Effective: settings, Etag: "e2",
		Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{Path: "/health"}, Interval: durationpb.New(500 * time.Millisecond)},
	}
	backend := &tandemv1.Backend{Name: id("pools", "web_servers/backends/web1"), Address: "192.168.1.20", Port: 80, Weight: proto.Uint32(5), Id: 1, Etag: "e3"}
	drained := proto.CloneOf(backend)
	drained.Weight = nil
	drained.Override = &tandemv1.Override{State: "drain", Reason: "new kernel", Author: "admin", Weight: proto.Uint32(0), ExpireTime: timestamppb.New(noon)}
	cluster := &tandemv1.Cluster{
		Name: "clusters/default", CreateTime: ago(72 * time.Hour), Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AdvertInterval: durationpb.New(time.Second)},
		StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Name: "admin", PasswordSet: true}}}, Logging: &tandemv1.Logging{Target: "127.0.0.1:514"},
		Defaults: &tandemv1.ProxySettings{Retries: proto.Uint32(2)}, EffectiveDefaults: settings, MaxConnections: proto.Uint32(20000),
	}
	tests := []struct {
		name  string
		table output.Table
	}{
		{"clusters", Clusters([]*tandemv1.Cluster{cluster, {Name: "clusters/bare"}}, clock)},
		{"nodes", Nodes([]*tandemv1.Node{{Name: id("nodes", "lb-master"), Number: 1, Uid: "u1", JoinTime: ago(time.Hour), Drain: true}, {Name: id("nodes", "lb-backup"), Number: 2}}, clock)},
		{"vips", Vips([]*tandemv1.Vip{
			{Name: id("vips", "web"), Addresses: []string{"192.168.1.100/24", "2001:db8::1/64"}, Vrid: 51},
			{Name: id("vips", "db"), Addresses: []string{"10.0.0.1/8"}, Vrid: 52, Network: "back", VrrpNetwork: "vrrp", Unicast: proto.Bool(true), FailBack: "delayed", FailBackDelay: durationpb.New(time.Minute), HandoverTimeout: durationpb.New(time.Hour), Tracks: []*tandemv1.Track{{Kind: "gateway"}, {Kind: "ping", Target: "10.0.0.9", Weight: proto.Int32(-20)}}, Priorities: map[string]uint32{"b": 100, "a": 200}},
		})},
		{"listeners", Listeners([]*tandemv1.Listener{{
			Name: id("listeners", "web_frontend"), Pool: "web_servers", Effective: settings,
			Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}, {Address: "2001:db8::5", Port: 7000, PortEnd: 7010}, {Port: 443}},
		}})},
		{"pools", Pools([]*tandemv1.Pool{pool, {Name: id("pools", "bare")}, {Name: id("pools", "unchecked"), Protocol: "tcp", Check: &tandemv1.HealthCheck{Disabled: true}}})},
		{"backends", Backends([]*tandemv1.Backend{backend, drained}, clock)},
		{"pool_detail", Detail(pool)},
		{"cluster_detail", Detail(cluster)},
		{"revisions", Revisions([]*tandemv1.Revision{
			{Number: 12, Author: "admin", CreateTime: ago(0), Message: "more", Epoch: "e", Changes: changes()},
			{Number: 11, Author: "controller", CreateTime: ago(time.Hour), Changes: changes()[:1]},
		}, clock)},
		{"changes", Changes(changes())},
		{"events", Events([]*tandemv1.Event{
			{Name: id("events", "1"), Time: ago(time.Minute), Severity: tandemv1.EventSeverity_EVENT_SEVERITY_ERROR, Node: "lb-master", Subject: id("pools", "web_servers/backends/web2"), Reason: "BACKEND_DOWN", Message: "web2 is down: \x1b[2Jrefused"},
			{Name: id("events", "2"), Time: ago(0), Severity: tandemv1.EventSeverity_EVENT_SEVERITY_INFO, Reason: "CHANGED", Subject: "clusters/default", Revision: 12, Message: "admin changed 3 resources"},
			{Name: id("events", "3"), Severity: 99},
		}, clock)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			for _, style := range []output.Style{{}, {Wide: true}} {
				if err := tt.table.Write(&out, style); err != nil {
					t.Fatal(err)
				}
				out.WriteByte('\n')
			}
			golden.Check(t, tt.name+".golden", out.Bytes())
		})
	}
}

func changes() []*tandemv1.Change {
	backend := func(address string) *tandemv1.Resource {
		return &tandemv1.Resource{Kind: &tandemv1.Resource_Backend{Backend: &tandemv1.Backend{Address: address, Port: 80, Etag: address}}}
	}
	pool := func(p *tandemv1.Pool) *tandemv1.Resource {
		return &tandemv1.Resource{Kind: &tandemv1.Resource_Pool{Pool: p}}
	}
	return []*tandemv1.Change{
		{Name: id("pools", "p/backends/new"), After: backend("192.0.2.1")},
		{Name: id("pools", "p/backends/gone"), Before: backend("192.0.2.2")},
		{Name: id("pools", "p"), Before: pool(&tandemv1.Pool{Balance: "first", Etag: "1", Check: &tandemv1.HealthCheck{Rise: proto.Uint32(2)}}),
			After: pool(&tandemv1.Pool{ConnectTimeout: durationpb.New(time.Second), Etag: "2", Check: &tandemv1.HealthCheck{Rise: proto.Uint32(3)}})},
		{Name: id("pools", "bare"), After: pool(&tandemv1.Pool{Name: id("pools", "bare")})},
	}
}

func TestAgo(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", time.Minute: "1m", 59 * time.Minute: "59m",
		time.Hour: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	}
	for d, want := range tests {
		if got := Clock(noon).Ago(ago(d)); got != want {
			t.Errorf("Ago(%v) = %q, want %q", d, got, want)
		}
	}
}
