package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// well is the first observation of a node that is well.
func well(vrrp agentv1.VrrpState) *agentv1.Observation {
	return &agentv1.Observation{
		Whole:      true,
		Haproxy:    &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_RUNNING, Version: "2.6.12"},
		Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_RUNNING, Version: "2.2.7"},
		Backends: []*agentv1.BackendObservation{
			{Pool: "web_servers", Backend: "web1", State: agentv1.ServerState_SERVER_STATE_UP, Weight: 1},
			{Pool: "web_servers", Backend: "web2", State: agentv1.ServerState_SERVER_STATE_UP, Weight: 1},
		},
		Instances: holding(vrrp),
	}
}

func holding(vrrp agentv1.VrrpState) *agentv1.InstanceSet {
	return &agentv1.InstanceSet{Instances: []*agentv1.InstanceObservation{{
		Name: "web", Vip: "web", State: vrrp, Priority: 230, Holds: vrrp == agentv1.VrrpState_VRRP_STATE_MASTER,
	}}}
}

const (
	master = agentv1.VrrpState_VRRP_STATE_MASTER
	backup = agentv1.VrrpState_VRRP_STATE_BACKUP
	fault  = agentv1.VrrpState_VRRP_STATE_FAULT
)

// pair is a lab with two nodes that are connected and well.
func pair(t *testing.T) (*lab, *agent, *agent) {
	t.Helper()
	l := newLab(t, "lb-master", "lb-backup")
	a, b := l.agent("lb-master").connect(), l.agent("lb-backup").connect()
	synctest.Wait()
	a.observe(well(master))
	b.observe(well(backup))
	synctest.Wait()
	return l, a, b
}

func TestObservationBecomesStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		down := timestamppb.Now()
		b.observe(&agentv1.Observation{Backends: []*agentv1.BackendObservation{{
			Pool: "web_servers", Backend: "web2", State: agentv1.ServerState_SERVER_STATE_DOWN, Weight: 1,
			Reason: "Layer4 connection problem", Since: down,
		}}})
		a.observe(&agentv1.Observation{
			Score: proto.Int32(-100), Reloads: proto.Uint64(3),
			Problems: &agentv1.ProblemSet{Problems: []string{"port 80 is taken by nginx: stop it"}},
		})
		synctest.Wait()
		s := l.status()
		up, isDown := tandemv1.BackendState_BACKEND_STATE_UP, tandemv1.BackendState_BACKEND_STATE_DOWN
		pools := []*tandemv1.PoolStatus{{
			Name: "clusters/default/pools/web_servers",
			Backends: []*tandemv1.BackendStatus{
				{Name: "clusters/default/pools/web_servers/backends/web1", State: up, Nodes: []*tandemv1.BackendNodeStatus{
					{Node: "lb-master", State: up, Weight: 1}, {Node: "lb-backup", State: up, Weight: 1},
				}},
				{Name: "clusters/default/pools/web_servers/backends/web2", State: isDown, Nodes: []*tandemv1.BackendNodeStatus{
					{Node: "lb-master", State: up, Weight: 1},
					{Node: "lb-backup", State: isDown, Weight: 1, Reason: "Layer4 connection problem", Since: down},
				}},
			},
		}}
		if d := cmp.Diff(pools, s.GetPools(), protocmp.Transform()); d != "" {
			t.Errorf("pools (-want +got):\n%s", d)
		}
		vip := s.GetVips()[0]
		if !slices.Equal(vip.GetHolders(), []string{"lb-master"}) || len(vip.GetNodes()) != 2 ||
			vip.GetNodes()[1].GetState() != tandemv1.VrrpState_VRRP_STATE_BACKUP || vip.GetSince() == nil {
			t.Errorf("vip = %v", vip)
		}
		n := l.node("lb-master")
		if n.GetScore() != -100 || n.GetReloads() != 3 || len(n.GetProblems()) != 1 ||
			n.GetHaproxy().GetState() != tandemv1.DaemonState_DAEMON_STATE_RUNNING || n.GetKeepalived().GetVersion() != "2.2.7" {
			t.Errorf("node = %v", n)
		}
		// What a node has said before does not count when it is gone.
		_ = b.disconnect()
		synctest.Wait()
		s = l.status()
		if web2 := s.GetPools()[0].GetBackends()[1]; web2.GetState() != up || len(web2.GetNodes()) != 1 {
			t.Errorf("web2 after lb-backup has gone = %v", web2)
		}
		_ = a.disconnect()
		synctest.Wait()
		s = l.status()
		if web1 := s.GetPools()[0].GetBackends()[0]; web1.GetState() != 0 || s.GetVips()[0].GetHolders() != nil || s.GetNodes()[0].GetHaproxy().GetState() != 0 {
			t.Errorf("status with nobody connected = %v", s)
		}
	})
}

// What is in effect on a node and not on its disk is never shown without
// saying so.
func TestNotPersistentIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		shown := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if n := l.node("lb-master"); n.GetNotPersistent() != want || n.GetApplied() != l.status().GetDesired() {
				t.Errorf("%s: not persistent is %v, want %v; applied %d", when, n.GetNotPersistent(), want, n.GetApplied())
			}
		}
		shown("at first", false)
		a.mu.Lock()
		a.diskFull = true
		a.mu.Unlock()
		l.change(state.CreateBackend("web_servers", "web9", &tandemv1.Backend{Address: "192.168.1.29", Port: 80}))
		shown("with the ack", true)
		a.observe(&agentv1.Observation{NotPersistent: proto.Bool(false)})
		shown("when the disk has space again", false)
		a.observe(&agentv1.Observation{NotPersistent: proto.Bool(true)})
		shown("when it is full again", true)
		_ = a.disconnect()
		shown("while the node is away", true)
		a.mu.Lock()
		a.diskFull = false
		a.mu.Unlock()
		a.connect()
		shown("with the hello", false)
		a.observe(&agentv1.Observation{NotPersistent: proto.Bool(true)})
		shown("when it is full once more", true)
		a.observe(well(master))
		shown("with a whole observation", false)
	})
}

// A removed backend leaves the status at once; made anew before its node has
// heard of either, it is known as before.
func TestBackendRemovedAndMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _ := pair(t)
		l.change(state.DeleteBackend("web_servers", "web2", ""))
		synctest.Wait()
		if n := len(l.status().GetPools()[0].GetBackends()); n != 1 {
			t.Errorf("%d backends, want 1", n)
		}
		l.change(state.CreateBackend("web_servers", "web2", &tandemv1.Backend{Address: "192.168.1.21", Port: 80}))
		synctest.Wait()
		if web2 := l.status().GetPools()[0].GetBackends()[1]; web2.GetState() != tandemv1.BackendState_BACKEND_STATE_UP {
			t.Errorf("web2 = %v", web2)
		}
	})
}

func TestHostileObservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		w, err := l.fleet.Watch(l.ctx, home)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			o := &agentv1.Observation{}
			for j := range 1000 {
				o.Backends = append(o.Backends, &agentv1.BackendObservation{Pool: "nowhere", Backend: fmt.Sprint(i, "-", j)})
			}
			a.observe(o)
		}
		bad := &timestamppb.Timestamp{Seconds: -1 << 62, Nanos: -5}
		a.observe(&agentv1.Observation{
			Haproxy: &agentv1.DaemonObservation{State: 77, Message: strings.Repeat("é", maxText), StartTime: bad},
			Backends: []*agentv1.BackendObservation{
				{Pool: "web_servers", Backend: "web1", State: 99, Reason: "\x1b]0;owned\x07", Since: bad},
				{Pool: strings.Repeat("x", 1<<16), Backend: "y"},
			},
			Instances: &agentv1.InstanceSet{Instances: []*agentv1.InstanceObservation{
				{Name: "web", Vip: "web", State: 42, Holds: true}, {Vip: strings.Repeat("v", 1<<16)}, {Vip: "unknown"},
			}},
			Problems: &agentv1.ProblemSet{Problems: make([]string, 100000)},
		})
		synctest.Wait()
		for m, err := w.take(); m != nil || err != nil; m, err = w.take() {
			if err != nil || m.GetDeleted() != "" {
				t.Fatalf("a watcher is told of what was never desired: %v, %v", m, err)
			}
		}
		n := l.fleet.clusters[home].nodes["lb-master"]
		if got := len(n.observed.backends); got > 2+maxStrays {
			t.Errorf("%d backends kept, want at most %d", got, 2+maxStrays)
		}
		s := l.status()
		if len(s.GetPools()) != 1 || len(s.GetVips()) != 1 {
			t.Errorf("status tells of what is not desired: %v", s)
		}
		if node := s.GetNodes()[0]; node.GetHaproxy().GetState() != 0 || len(node.GetHaproxy().GetMessage()) > maxText || len(node.GetProblems()) > maxProblems {
			t.Errorf("haproxy = %v, %d problems", node.GetHaproxy(), len(node.GetProblems()))
		}
		if web1 := s.GetPools()[0].GetBackends()[0].GetNodes()[0]; web1.GetReason() != " ]0;owned " || web1.GetState() != 0 {
			t.Errorf("web1 = %v", web1)
		}
		if _, err := protojson.Marshal(s); err != nil {
			t.Errorf("the status has no JSON form: %v", err)
		}
	})
}
