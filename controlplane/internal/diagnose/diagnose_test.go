package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	running = agentv1.DaemonState_DAEMON_STATE_RUNNING
	up      = agentv1.ServerState_SERVER_STATE_UP
	down    = agentv1.ServerState_SERVER_STATE_DOWN
	master  = agentv1.VrrpState_VRRP_STATE_MASTER
	backup  = agentv1.VrrpState_VRRP_STATE_BACKUP
)

// config is a pair with a VIP, whose listener has one pool of two.
func config(t *testing.T) *state.Config {
	t.Helper()
	c := state.New("default", "epoch", 0)
	for _, change := range []state.Change{
		state.CreateCluster(&tandemv1.Cluster{}),
		state.AddNode("lb-master", "uid-1"), state.AddNode("lb-backup", "uid-2"),
		state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
		state.CreatePool("web_servers", &tandemv1.Pool{}),
		state.CreateBackend("web_servers", "web1", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
		state.CreateBackend("web_servers", "web2", &tandemv1.Backend{Address: "192.168.1.21", Port: 80}),
		state.CreateListener("web_frontend", &tandemv1.Listener{Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}, Pool: "web_servers"}),
	} {
		next, _, err := c.Apply(change, state.Env{Author: "test"})
		if err != nil {
			t.Fatal(err)
		}
		c = next
	}
	return c
}

// instance is the VIP on a node that hears another one, which may be nobody.
func instance(is agentv1.VrrpState, priority uint32, mac, from, address string) []*agentv1.InstanceObservation {
	i := &agentv1.InstanceObservation{Name: "web", Vip: "web", State: is, Priority: priority, Holds: is == master, Listens: true, Mac: mac}
	if from != "" {
		i.Advertisers = []*agentv1.Advertiser{{Address: address, Node: from, Priority: 230}}
	}
	return []*agentv1.InstanceObservation{i}
}

// node is one that is well.
func node(name, address string, sent, received uint64, instances []*agentv1.InstanceObservation) Node {
	return Node{
		ID: name, Connected: true, Structure: 8,
		HAProxy: &agentv1.DaemonObservation{State: running}, Keepalived: &agentv1.DaemonObservation{State: running},
		Interfaces: map[string]string{"front": "eth0"},
		Instances:  map[string][]*agentv1.InstanceObservation{"web": instances},
		Backends: map[string]*agentv1.BackendObservation{
			"web_servers/web1": {Pool: "web_servers", Backend: "web1", State: up},
			"web_servers/web2": {Pool: "web_servers", Backend: "web2", State: up},
		},
		Diagnosis: &agentv1.Diagnosis{
			Networks: []*agentv1.NetworkFacts{{Network: "front", Interface: "eth0", Exists: true, Up: true, Carrier: true,
				Addresses: []string{address, "192.168.1.100/24", "fe80::1/64"}, ReversePathFilter: 1}},
			Instances: []*agentv1.InstanceFacts{{Name: "web", Vip: "web", Network: "front",
				Interval: durationpb.New(100 * time.Millisecond), Window: durationpb.New(400 * time.Millisecond), Sent: sent, Received: received}},
			Binds: []*agentv1.BindFacts{{Frontend: "web_frontend", Address: "192.168.1.100", Port: 80, Listens: true}},
		},
	}
}

// well are the facts of a pair of which nothing is to be said.
func well(t *testing.T) *Facts {
	return &Facts{
		Config: config(t), Version: "v1",
		Nodes: []Node{
			node("lb-master", "192.168.1.10/24", 4, 0, instance(master, 230, "m1", "", "")),
			node("lb-backup", "192.168.1.11/24", 0, 4, instance(backup, 220, "m2", "lb-master", "192.168.1.10")),
		},
	}
}

func TestNothingIsFoundWhereAllIsWell(t *testing.T) {
	d := Judge(well(t))
	if len(d.GetFindings()) != 0 {
		t.Errorf("found %v", d.GetFindings())
	}
	want := &tandemv1.VipDiagnosis{Name: "clusters/default/vips/web", Holder: "lb-master", Taker: "lb-backup",
		Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Ready: true, Priority: 220}}}
	if len(d.GetVips()) != 1 || !proto.Equal(d.GetVips()[0], want) {
		t.Errorf("the VIPs: %v, want %v", d.GetVips(), want)
	}
}

// spoilt is one thing that is not well.
type spoilt struct {
	spoil  func(f *Facts, master, backup *Node)
	reason string
	stops  bool   // lb-backup cannot take the VIP
	says   string // message, evidence or cure
}

// Each cause is found by its name, with what was seen and a cure, and with a verdict
// that is right; and nothing else is found.
func TestEachCauseIsFound(t *testing.T) {
	drop := func(n *Node, d *agentv1.FirewallDrop) {
		d.Network, d.Family, d.Table, d.Base, d.Chain = "front", "inet", "site", "in", "in"
		n.Diagnosis.Drops = append(n.Diagnosis.Drops, d)
	}
	front := func(n *Node) *agentv1.NetworkFacts { return n.Diagnosis.GetNetworks()[0] }
	for name, test := range map[string]spoilt{
		"not connected": {func(_ *Facts, _, b *Node) { *b = Node{ID: "lb-backup"} }, "NODE_DISCONNECTED", true, "on lb-backup: systemctl start lb-agent"},
		"too old": {func(_ *Facts, _, b *Node) {
			b.Diagnosis, b.TooOld, b.Silence = nil, true, "lb-agent 0.1 does not know command/diagnose"
		}, "AGENT_TOO_OLD", false, "upgrade lb-agent on lb-backup to v1"},
		"silent": {func(_ *Facts, m, _ *Node) { m.Diagnosis, m.Silence = nil, "no answer within 8 s" }, "AGENT_SILENT", false, "no answer within 8 s"},
		"half looked at": {func(_ *Facts, _, b *Node) {
			b.Diagnosis.Failures = []string{"the rules of nftables: not permitted"}
		}, "NOT_LOOKED_AT", false, "the rules of nftables"},
		"no proxy": {func(_ *Facts, _, b *Node) {
			b.HAProxy = &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED, Message: "signal: killed"}
		}, "PROXY_DEAD", true, "signal: killed"},
		"no HAProxy installed": {func(_ *Facts, _, b *Node) { b.HAProxy.State = agentv1.DaemonState_DAEMON_STATE_MISSING }, "PROXY_DEAD", true, "apt-get install haproxy"},
		"no keepalived":        {func(_ *Facts, _, b *Node) { b.Keepalived.State = agentv1.DaemonState_DAEMON_STATE_STOPPED }, "KEEPALIVED_DEAD", true, "systemctl start keepalived"},
		"HAProxy is idle":      {func(_ *Facts, _, b *Node) { b.HAProxy.State = agentv1.DaemonState_DAEMON_STATE_IDLE }, "PROXY_DEAD", true, "lbctl listener add"},
		"keepalived is idle":   {func(_ *Facts, _, b *Node) { b.Keepalived.State = agentv1.DaemonState_DAEMON_STATE_IDLE }, "KEEPALIVED_DEAD", true, "see why lb-backup does not have the VIPs in effect"},
		"no proxy, and so no score and no socket": {func(_ *Facts, _, b *Node) {
			b.HAProxy.State, b.Score, b.Diagnosis.GetBinds()[0].Listens = agentv1.DaemonState_DAEMON_STATE_STOPPED, -100, false
		}, "PROXY_DEAD", true, "it would refuse all clients"},
		"drained":           {func(_ *Facts, _, b *Node) { b.Drained, b.Score = true, -50 }, "DRAINED", true, "lbctl node undrain lb-backup"},
		"drained there":     {func(_ *Facts, _, b *Node) { b.Drained, b.DrainedThere, b.Score = true, true, -50 }, "DRAINED", true, "lbctl node drift discard lb-backup"},
		"on trial":          {func(_ *Facts, _, b *Node) { b.Score = -56 }, "ON_TRIAL", true, "more than twice in a row"},
		"not proven":        {func(_ *Facts, _, b *Node) { b.Score = -100 }, "SCORE_LOW", true, "its score is -100"},
		"the holder is low": {func(_ *Facts, m, _ *Node) { m.Score = -56 }, "ON_TRIAL", false, "lb-master"},
		"refused": {func(_ *Facts, _, b *Node) { b.Failed, b.Failure, b.Structure = 9, "keepalived says no", 7 },
			"APPLY_FAILED", true, "structure of revision 7 is in effect, lb-master has that of revision 8"},
		"refused by both":          {func(_ *Facts, _, b *Node) { b.Failed, b.Failure = 9, "keepalived says no" }, "APPLY_FAILED", false, "revision 9 in effect: keepalived says no"},
		"behind":                   {func(_ *Facts, _, b *Node) { b.Structure = 7 }, "STRUCTURE_DIFFERS", true, "revision 7"},
		"nothing applied":          {func(_ *Facts, _, b *Node) { b.Structure = 0 }, "STRUCTURE_DIFFERS", true, "nothing is in effect"},
		"nothing applied anywhere": {func(_ *Facts, m, b *Node) { m.Structure, b.Structure = 0, 0 }, "STRUCTURE_DIFFERS", true, "nothing is in effect, lb-master has that of revision 0"},
		"waits":                    {func(_ *Facts, _, b *Node) { b.Waiting = "VIP web keeps its settings" }, "CHANGE_WAITS", false, "VIP web keeps its settings"},
		"a problem":                {func(_ *Facts, m, _ *Node) { m.Problems = []string{"the clock is 9 s behind: set it"} }, "NODE_PROBLEM", false, "the clock is 9 s behind"},
		"no such network":          {func(_ *Facts, _, b *Node) { front(b).Network = "other" }, "NETWORK_UNMAPPED", true, "other: eth0"},
		"no interface":             {func(_ *Facts, _, b *Node) { front(b).Exists = false }, "INTERFACE_MISSING", true, "ip link"},
		"interface down":           {func(_ *Facts, _, b *Node) { front(b).Up = false }, "INTERFACE_DOWN", true, "on lb-backup: ip link set eth0 up"},
		"no carrier":               {func(_ *Facts, _, b *Node) { front(b).Carrier = false }, "NO_CARRIER", true, "ethtool eth0"},
		"no address": {func(_ *Facts, _, b *Node) {
			front(b).Addresses, front(b).ReversePathFilter = []string{"192.168.1.100/24"}, 0
		}, "NO_ADDRESS", true, "ip address add"},
		"other subnet": {func(_ *Facts, _, b *Node) {
			front(b).Addresses, front(b).ReversePathFilter = []string{"10.0.0.11/24"}, 2
		}, "VIP_OUTSIDE_SUBNET", false, "10.0.0.11/24"},
		"strict filter": {func(_ *Facts, _, b *Node) {
			b.Instances["web"][0].Advertisers[0].Address, b.Diagnosis.GetInstances()[0].Received = "192.168.2.10", 0
		}, "REVERSE_PATH_FILTERED", true, "rp_filter=2"},
		"ARP ignored": {func(_ *Facts, _, b *Node) { front(b).ArpIgnore = 8 }, "ARP_IGNORED", true, "arp_ignore=0"},
		"dropped": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true, Handle: 7, Packets: proto.Uint64(42)})
		}, "VRRP_DROPPED", true, "on lb-backup: nft insert rule inet site in meta l4proto vrrp accept"},
		"dropped packets": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true, Handle: 7, Packets: proto.Uint64(42)})
		}, "VRRP_DROPPED", true, "rule with handle 7 of chain in in table inet site, which has dropped 42 packets"},
		"a hostile chain": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true})
			b.Diagnosis.GetDrops()[0].Base = "in; reboot #"
		}, "VRRP_DROPPED", true, `on lb-backup: (no command is made of the name "in; reboot #"), and the same`},
		"a hostile chain, shown": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true})
			b.Diagnosis.GetDrops()[0].Chain = "in; reboot #"
		}, "VRRP_DROPPED", true, `policy of chain "in; reboot #" in table inet site`},
		"a hostile interface": {func(_ *Facts, _, b *Node) { front(b).Carrier, front(b).Interface = false, "$(reboot)" }, "NO_CARRIER", true, `(no command is made of the name "$(reboot)")`},
		"dropped on leave":    {func(_ *Facts, m, _ *Node) { drop(m, &agentv1.FirewallDrop{Certain: true, Outgoing: true}) }, "VRRP_DROPPED", true, "policy of chain in"},
		"firewalld":           {func(_ *Facts, _, b *Node) { drop(b, &agentv1.FirewallDrop{Certain: true, Owner: "firewalld"}) }, "VRRP_DROPPED", true, "firewall-cmd --permanent --add-protocol=vrrp"},
		"ufw":                 {func(_ *Facts, _, b *Node) { drop(b, &agentv1.FirewallDrop{Certain: true, Owner: "ufw"}) }, "VRRP_DROPPED", true, `"-A ufw-before-input -p 112 -j ACCEPT"`},
		"iptables": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true, Owner: "iptables", Outgoing: true})
		}, "VRRP_DROPPED", true, "iptables -I OUTPUT -p 112 -j ACCEPT"},
		"dropped, and so not counted": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true})
			b.Diagnosis.GetInstances()[0].Received = 0
		}, "VRRP_DROPPED", true, "policy of chain in"},
		"dropped, and not listened": {func(_ *Facts, _, b *Node) {
			drop(b, &agentv1.FirewallDrop{Certain: true})
			deafEar(b)
			b.Diagnosis.GetInstances()[0].Received = 0
		}, "VRRP_DROPPED", true, "policy of chain in"},
		"not heard": {func(_ *Facts, _, b *Node) {
			b.Instances["web"][0].Advertisers = nil
			drop(b, &agentv1.FirewallDrop{Handle: 3})
		}, "ADVERTS_NOT_SEEN", true, "lb-master sent 4 in 400ms by its keepalived's count; none of them reaches interface eth0 of lb-backup; it may be the rule with handle 3"},
		"lost behind": {func(_ *Facts, _, b *Node) { b.Diagnosis.GetInstances()[0].Received = 0 }, "ADVERTS_LOST", true, "keepalived on lb-backup counted 0"},
		"lost, not listened": {func(_ *Facts, _, b *Node) { deafEar(b); b.Diagnosis.GetInstances()[0].Received = 0 },
			"ADVERTS_LOST", true, "lb-master sent 4 in 400ms by its keepalived's count, and keepalived on lb-backup counted 0 in 400ms; its agent does not listen"},
		"neither listened nor counted": {func(_ *Facts, _, b *Node) {
			deafEar(b)
			b.Diagnosis.GetInstances()[0] = &agentv1.InstanceFacts{Name: "web", Vip: "web"}
		},
			"NOT_LISTENED", false, "does not listen at the interface"},
		"not sent":    {func(_ *Facts, m, _ *Node) { m.Diagnosis.GetInstances()[0].Sent = 0 }, "ADVERTS_NOT_SENT", true, "did not grow in 400ms"},
		"fenced":      {func(_ *Facts, _, b *Node) { b.Instances["web"][0].Fenced = true }, "FENCED", true, "falls by itself"},
		"in fault":    {func(_ *Facts, _, b *Node) { b.Instances["web"][0].State = agentv1.VrrpState_VRRP_STATE_FAULT }, "IN_FAULT", true, "FAULT"},
		"nobody":      {func(_ *Facts, m, _ *Node) { m.Instances["web"][0].Holds = false }, "NO_HOLDER", true, "no node's kernel has its address"},
		"two of them": {func(_ *Facts, _, b *Node) { b.Instances["web"][0].Holds = true }, "TWO_HOLDERS", true, "held by lb-master and lb-backup"},
		"a mismatch":  {func(_ *Facts, m, _ *Node) { find(m, agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH) }, "ADVERT_MISMATCH", true, "heard by lb-master"},
		"a mismatch that both tell": {func(_ *Facts, m, b *Node) {
			find(m, agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH)
			find(b, agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH)
		}, "ADVERT_MISMATCH", true, "heard by lb-master"},
		"a stranger":       {func(_ *Facts, m, _ *Node) { find(m, agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER) }, "FOREIGN_VRRP_SPEAKER", false, "lbctl vip set web --vrid"},
		"a twin":           {func(_ *Facts, m, _ *Node) { find(m, agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS) }, "DUPLICATE_ADDRESS", false, "who does what"},
		"listener":         {func(_ *Facts, _, b *Node) { b.Diagnosis.GetBinds()[0].Listens = false }, "LISTENER_CLOSED", true, "192.168.1.100:80"},
		"one backend":      {func(_ *Facts, _, b *Node) { b.Backends["web_servers/web1"].State = down }, "BACKENDS_NOT_REACHED", false, "web1: down; lb-master reaches 1 of them"},
		"all backends":     {func(_ *Facts, m, b *Node) { allDown(b) }, "NO_BACKEND_REACHED", true, "lb-master reaches 2 of them"},
		"down for all":     {func(_ *Facts, m, b *Node) { allDown(m); allDown(b) }, "NO_BACKEND_REACHED", true, "web1: down; web2: down"},
		"without checks":   {func(_ *Facts, _, b *Node) { unchecked(b) }, "NO_BACKEND_REACHED", true, "web2: connection refused"},
		"nothing received": {func(_ *Facts, _, b *Node) { find(b, agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED) }, "NOTHING_RECEIVED", true, "the switch's port"},
		"nothing sent":     {func(_ *Facts, _, b *Node) { find(b, agentv1.FindingKind_FINDING_KIND_NOTHING_SENT) }, "NOTHING_SENT", true, "the switch's port"},
		"gateway lost":     {func(_ *Facts, _, b *Node) { lose(b) }, "TRACK_LOST", true, "lb-backup has lost what VIP web needs: gateway (no answer)"},
		"of little weight": {func(_ *Facts, _, b *Node) { lose(b); b.Instances["web"][0].Priority = 219 }, "TRACK_LOST", false, "its priority is 219"},
		"holder's gateway": {func(_ *Facts, m, _ *Node) { lose(m) }, "TRACK_LOST", false, "lb-master has lost"},
		"unfit": {func(f *Facts, _, _ *Node) {
			f.Unfit = map[string]map[string]string{"web": {"lb-backup": "is of no use"}}
		}, "NOT_STANDING_BY", true, "lb-backup is of no use"},
		"alone": {func(f *Facts, _, _ *Node) { f.Nodes = f.Nodes[:1] }, "NO_STANDBY", true, "lbctl node token create"},
	} {
		t.Run(name, func(t *testing.T) {
			facts := well(t)
			test.spoil(facts, &facts.Nodes[0], &facts.Nodes[1])
			d := Judge(facts)
			if len(d.GetFindings()) != 1 || d.GetFindings()[0].GetReason() != test.reason {
				t.Fatalf("found %v, want %s", d.GetFindings(), test.reason)
			}
			f := d.GetFindings()[0]
			if f.GetStops() != test.stops || f.GetMessage() == "" || f.GetEvidence() == "" || f.GetCure() == "" || f.GetArea() == 0 {
				t.Errorf("it says %v; stops: want %t", f, test.stops)
			}
			if !strings.Contains(strings.Join([]string{f.GetMessage(), f.GetEvidence(), f.GetCure()}, "\n"), test.says) {
				t.Errorf("it says %v, want %q", f, test.says)
			}
			v := d.GetVips()[0]
			hidden := name == "too old" || name == "half looked at" || name == "neither listened nor counted"
			if ready := v.GetTaker() == "lb-backup"; ready == (test.stops || hidden) {
				t.Errorf("taker %q", v.GetTaker())
			}
			for _, s := range v.GetStandbys() {
				if test.stops && !slices.Contains(s.GetObstacles(), test.reason) {
					t.Errorf("%s: obstacles %v", s.GetNode(), s.GetObstacles())
				}
			}
		})
	}
}

func find(n *Node, kind agentv1.FindingKind) {
	i := n.Instances["web"][0]
	i.Findings = append(i.Findings, &agentv1.Finding{Kind: kind, Who: "192.168.1.66", Text: "who does what"})
}

func lose(n *Node) {
	i := n.Instances["web"][0]
	i.Priority -= 44
	i.Tracks = append(i.Tracks, &agentv1.TrackObservation{Track: "gateway", Lost: true, Reason: "no answer"}, &agentv1.TrackObservation{Track: "ping 192.0.2.1"})
}

func allDown(n *Node) {
	for _, b := range n.Backends {
		b.State = down
	}
}

// unchecked has HAProxy say nothing of the servers, which the agent does not reach.
func unchecked(n *Node) {
	for _, b := range n.Backends {
		b.State = agentv1.ServerState_SERVER_STATE_NO_CHECK
		n.Diagnosis.Servers = append(n.Diagnosis.Servers, &agentv1.ServerFacts{Pool: b.GetPool(), Backend: b.GetBackend(), Error: "connection refused"})
	}
}

// What is drained or in maintenance, or not known, is no backend that fails.
func TestBackendsThatAreNotMeantDoNotCount(t *testing.T) {
	for name, is := range map[string]agentv1.ServerState{
		"maintenance": agentv1.ServerState_SERVER_STATE_MAINTENANCE, "not known": agentv1.ServerState_SERVER_STATE_UNSPECIFIED,
	} {
		facts := well(t)
		for _, b := range facts.Nodes[1].Backends {
			b.State = is
		}
		if d := Judge(facts); len(d.GetFindings()) != 0 {
			t.Errorf("%s: found %v", name, d.GetFindings())
		}
	}
}

// Of a standby that was not looked at it is not known whether it would take the VIP; of
// the holder it does not matter, and another one that was looked at takes it.
func TestAStandbyThatWasNotLookedAtIsNotKnown(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(*Node)
		reason string
	}{
		"silent":         {func(n *Node) { n.Diagnosis, n.Silence = nil, "no answer within 8 s" }, "AGENT_SILENT"},
		"too old":        {func(n *Node) { n.Diagnosis, n.TooOld = nil, true }, "AGENT_TOO_OLD"},
		"half looked at": {func(n *Node) { n.Diagnosis.Failures = []string{"the rules of nftables: not permitted"} }, "NOT_LOOKED_AT"},
	} {
		facts := well(t)
		test.spoil(&facts.Nodes[1])
		v := Judge(facts).GetVips()[0]
		s := v.GetStandbys()[0]
		if v.GetTaker() != "" || s.GetReady() || len(s.GetObstacles()) != 0 || !slices.Equal(s.GetUnknowns(), []string{test.reason}) {
			t.Errorf("%s: %v", name, v)
		}
		facts.Nodes = append(facts.Nodes, node("lb-third", "192.168.1.12/24", 0, 4, instance(backup, 210, "m3", "lb-master", "192.168.1.10")))
		if v := Judge(facts).GetVips()[0]; v.GetTaker() != "lb-third" {
			t.Errorf("%s: with a third node: %v", name, v)
		}
		facts = well(t)
		test.spoil(&facts.Nodes[0])
		if v := Judge(facts).GetVips()[0]; v.GetTaker() != "lb-backup" {
			t.Errorf("%s: the holder: %v", name, v)
		}
	}
}

// Of a node that is the holder it is no obstacle what only a standby needs.
func TestTheHoldersOwnLacksStopNobody(t *testing.T) {
	facts := well(t)
	facts.Nodes[0].Drained, facts.Nodes[0].Score = true, -50
	facts.Nodes[0].HAProxy.State = agentv1.DaemonState_DAEMON_STATE_STOPPED
	d := Judge(facts)
	for _, f := range d.GetFindings() {
		if f.GetStops() {
			t.Errorf("it stops a failover: %v", f)
		}
	}
	if len(d.GetFindings()) != 2 || d.GetVips()[0].GetTaker() != "lb-backup" {
		t.Errorf("found %v, taker %q", d.GetFindings(), d.GetVips()[0].GetTaker())
	}
}

// What both have lost keeps nobody from taking the VIP, and is told of both.
func TestWhatBothHaveLostStopsNobody(t *testing.T) {
	facts := well(t)
	lose(&facts.Nodes[0])
	lose(&facts.Nodes[1])
	d := Judge(facts)
	if len(d.GetFindings()) != 2 || d.GetFindings()[0].GetStops() || d.GetVips()[0].GetTaker() != "lb-backup" {
		t.Errorf("found %v, taker %q", d.GetFindings(), d.GetVips()[0].GetTaker())
	}
}

// A VIP that is advertised over another network needs both: an interface to be on, and
// an address to advertise from on the other one alone.
func TestBothNetworksOfAVIPAreLookedAt(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(front, back *agentv1.NetworkFacts)
		reason string
	}{
		"well":                {func(_, _ *agentv1.NetworkFacts) {}, ""},
		"back is down":        {func(_, back *agentv1.NetworkFacts) { back.Up = false }, "INTERFACE_DOWN"},
		"front is gone":       {func(front, _ *agentv1.NetworkFacts) { front.Exists = false }, "INTERFACE_MISSING"},
		"nothing to say from": {func(_, back *agentv1.NetworkFacts) { back.Addresses = nil }, "NO_ADDRESS"},
		"dropped on front":    {func(_, back *agentv1.NetworkFacts) { back.Network, back.Interface = "back", "eth2" }, ""},
	} {
		facts := well(t)
		next, _, err := facts.Config.Apply(state.UpdateVip(&tandemv1.Vip{Name: "clusters/default/vips/web", VrrpNetwork: "back"},
			&fieldmaskpb.FieldMask{Paths: []string{"vrrp_network"}}), state.Env{Author: "test"})
		if err != nil {
			t.Fatal(err)
		}
		facts.Config = next
		for n := range facts.Nodes {
			d := facts.Nodes[n].Diagnosis
			d.Networks = append(d.Networks, &agentv1.NetworkFacts{Network: "back", Interface: "eth2", Exists: true, Up: true, Carrier: true, Addresses: []string{fmt.Sprintf("10.0.0.%d/24", n+1)}})
			if name == "dropped on front" {
				d.Drops = []*agentv1.FirewallDrop{{Network: "front", Certain: true}}
			}
		}
		facts.Nodes[1].Instances["web"][0].Advertisers[0].Address = "10.0.0.1"
		d := facts.Nodes[1].Diagnosis
		test.spoil(d.Networks[0], d.Networks[1])
		got := Judge(facts)
		if reasons := got.GetVips()[0].GetStandbys()[0].GetObstacles(); strings.Join(reasons, " ") != test.reason || len(got.GetFindings()) != len(reasons) {
			t.Errorf("%s: found %v, want %q", name, got.GetFindings(), test.reason)
		}
	}
}

// Of three nodes the best that would take the VIP is named, and what keeps one from it
// keeps not the others.
func TestTheTakerIsTheBestThatCan(t *testing.T) {
	facts := well(t)
	third := node("lb-third", "192.168.1.12/24", 0, 4, instance(backup, 210, "m3", "lb-master", "192.168.1.10"))
	facts.Nodes = append(facts.Nodes, third)
	if d := Judge(facts); d.GetVips()[0].GetTaker() != "lb-backup" {
		t.Errorf("taker %q", d.GetVips()[0].GetTaker())
	}
	facts.Nodes[1].Score = -56
	d := Judge(facts)
	if v := d.GetVips()[0]; v.GetTaker() != "lb-third" || v.GetStandbys()[0].GetReady() || !v.GetStandbys()[1].GetReady() {
		t.Errorf("the verdict: %v", v)
	}
}

func TestWithoutAVIPThereIsNothingToSay(t *testing.T) {
	if d := Judge(&Facts{Config: state.New("default", "epoch", 0), Nodes: []Node{{ID: "lb-master"}}}); len(d.GetFindings()) != 0 || len(d.GetVips()) != 0 {
		t.Errorf("found %v", d)
	}
}
