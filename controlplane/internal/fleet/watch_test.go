package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

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
