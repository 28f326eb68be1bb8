package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// follow collects a watch's steps, as a client would.
type follow struct {
	mu      sync.Mutex
	state   map[string]proto.Message
	steps   int
	synced  bool
	beats   int
	epoch   string
	desired uint64
	err     error
}

func (f *follow) run(ctx context.Context, w *Watcher) {
	for {
		m, err := w.Next(ctx)
		f.mu.Lock()
		if err != nil {
			f.err = err
			f.mu.Unlock()
			return
		}
		f.steps++
		if m.GetEpoch() != "" {
			f.epoch = m.GetEpoch()
		}
		switch k := m.GetChange().(type) {
		case *tandemv1.WatchStatusResponse_Desired:
			f.desired = k.Desired
		case *tandemv1.WatchStatusResponse_Node:
			f.state[k.Node.GetName()] = k.Node
		case *tandemv1.WatchStatusResponse_Vip:
			f.state[k.Vip.GetName()] = k.Vip
		case *tandemv1.WatchStatusResponse_Backend:
			f.state[k.Backend.GetName()] = k.Backend
		case *tandemv1.WatchStatusResponse_Alarm:
			f.state[k.Alarm.GetKey()] = k.Alarm
		case *tandemv1.WatchStatusResponse_Deleted:
			delete(f.state, k.Deleted)
		case *tandemv1.WatchStatusResponse_Synced:
			f.synced = true
		case *tandemv1.WatchStatusResponse_Heartbeat:
			f.beats++
		}
		f.mu.Unlock()
	}
}

// same fails unless the watch has led to what Status says.
func (f *follow) same(t *testing.T, s *tandemv1.ClusterStatus) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	want := make(map[string]proto.Message)
	for _, n := range s.GetNodes() {
		want[n.GetName()] = n
	}
	for _, v := range s.GetVips() {
		want[v.GetName()] = v
	}
	for _, p := range s.GetPools() {
		for _, b := range p.GetBackends() {
			want[b.GetName()] = b
		}
	}
	for _, a := range s.GetAlarms() {
		want[a.GetKey()] = a
	}
	// When a node was last heard of is no change that is told.
	ignore := protocmp.IgnoreFields(&tandemv1.NodeStatus{}, "last_seen")
	if d := cmp.Diff(want, f.state, protocmp.Transform(), ignore); d != "" {
		t.Errorf("watch differs from status (-status +watch):\n%s", d)
	}
	if f.desired != s.GetDesired() || f.epoch != s.GetEpoch() || !f.synced {
		t.Errorf("desired %d, epoch %q, synced %v; want %d, %q", f.desired, f.epoch, f.synced, s.GetDesired(), s.GetEpoch())
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		ctx, cancel := context.WithCancel(l.ctx)
		w, err := l.fleet.Watch(ctx, home)
		if err != nil {
			t.Fatal(err)
		}
		f := &follow{state: make(map[string]proto.Message)}
		l.all.Go(func() { f.run(ctx, w) })
		synctest.Wait()
		f.same(t, l.status())
		for i, act := range []func(){
			func() { l.change(weight(12)) },
			func() {
				a.observe(&agentv1.Observation{Backends: []*agentv1.BackendObservation{{Pool: "web_servers", Backend: "web1", State: 5}}})
			},
			func() {
				l.change(state.CreateBackend("web_servers", "web3", &tandemv1.Backend{Address: "192.168.1.22", Port: 80}))
			},
			func() { l.change(state.DeleteBackend("web_servers", "web2", "")) },
			func() { b.observe(&agentv1.Observation{Instances: holding(master)}) },
			func() { pass(time.Second) },
			func() { a.observe(&agentv1.Observation{Instances: holding(backup)}) },
			func() { _ = b.disconnect() },
			func() { pass(time.Minute) },
			func() { b.connect() },
			func() {
				l.change(state.CreateVip("more", &tandemv1.Vip{Addresses: []string{"192.168.1.101/24"}, Vrid: 52}))
			},
			func() { l.change(state.DeleteVip("more", "")) },
			func() {
				l.change(state.CreatePool("p", &tandemv1.Pool{}), state.CreateBackend("p", "b", &tandemv1.Backend{Address: "10.0.0.1", Port: 1}))
			},
			func() { l.change(state.DeletePool("p", "")) },
			func() { l.change(state.AddNode("lb-third", "uid-third")) },
			func() { l.change(state.DeleteNode("lb-third", "")) },
		} {
			act()
			synctest.Wait()
			f.same(t, l.status())
			if t.Failed() {
				t.Fatalf("after step %d", i)
			}
		}
		f.mu.Lock()
		beats := f.beats
		f.mu.Unlock()
		if beats < 4 {
			t.Errorf("%d heartbeats in a quiet minute", beats)
		}
		cancel()
		synctest.Wait()
		if !errors.Is(f.err, context.Canceled) || len(l.fleet.clusters[home].watchers) != 0 {
			t.Errorf("after its end: %v, %d watchers", f.err, len(l.fleet.clusters[home].watchers))
		}
	})
}

// A reader that reads late gets each name once, with its newest state, however
// much has happened.
func TestSlowWatcherIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		w, err := l.fleet.Watch(l.ctx, home)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint32(1000) {
			a.observe(&agentv1.Observation{Backends: []*agentv1.BackendObservation{
				{Pool: "web_servers", Backend: "web1", State: agentv1.ServerState_SERVER_STATE_UP, Weight: i},
			}})
			l.change(weight(i % 250))
		}
		synctest.Wait()
		f := &follow{state: make(map[string]proto.Message)}
		l.all.Go(func() { f.run(l.ctx, w) })
		synctest.Wait()
		f.same(t, l.status())
		if f.steps > 10 {
			t.Errorf("%d steps, want one a name", f.steps)
		}
	})
}

// One that never reads while names come and go is cut off, not served from
// ever more memory.
func TestWatcherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _ := pair(t)
		w, err := l.fleet.Watch(l.ctx, home)
		if err != nil {
			t.Fatal(err)
		}
		c := l.fleet.clusters[home]
		c.mu.Lock()
		for i := range maxQueued + 100 {
			c.mark(key{kindBackend, fmt.Sprint("web_servers/gone", i)})
		}
		c.mu.Unlock()
		if _, err := w.Next(l.ctx); !errors.Is(err, ErrSlow) {
			t.Errorf("Next = %v, want ErrSlow", err)
		}
	})
}
