package fleet

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// controller is a fleet over a real ledger and a real event log.
type controller struct {
	ledger *ledger.Ledger
	events *events.Log
	fleet  *Fleet
	ctx    context.Context //nolint:containedctx // ends with the test's controller
	stop   func()
}

func startController(t *testing.T, dir string) *controller {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	store, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	book, err := ledger.Open(ctx, store, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := events.Open(filepath.Join(dir, "events.db"), events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{ledger: book, events: log, ctx: ctx, fleet: New(Options{Ledger: book, Events: log})}
	var parts errgroup.Group
	for _, run := range []func(context.Context) error{book.Run, log.Run, c.fleet.Run} {
		parts.Go(func() error { return run(ctx) })
	}
	c.stop = func() {
		cancel()
		if err := parts.Wait(); err != nil {
			t.Errorf("a part of the controller failed: %v", err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	return c
}

func (c *controller) commit(t *testing.T, change state.Change) uint64 {
	t.Helper()
	r, err := c.ledger.Commit(c.ctx, home, ledger.Request{Change: change, Author: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r.Config.Revision()
}

// until waits until the node's status is as wanted.
func (c *controller) until(t *testing.T, what string, good func(*tandemv1.NodeStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	w, err := c.fleet.Watch(ctx, home)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		if n := m.GetNode(); n != nil && good(n) {
			return
		}
	}
}

// eventually waits until a condition holds that nobody tells of.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if holds() {
			return
		}
	}
	t.Fatalf("waited 10 s in vain until %s", what)
}

// With everything on disk, as the controller has it: a change reaches the
// node, and after a restart of the controller the node is found current.
func TestControllerRestarts(t *testing.T) {
	dir := t.TempDir()
	c := startController(t, dir)
	for _, change := range []state.Change{
		state.AddNode("lb-master", "uid-lb-master"),
		state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
		state.CreatePool("web_servers", &tandemv1.Pool{}),
		state.CreateBackend("web_servers", "web1", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
		state.UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", StatsPage: &tandemv1.StatsPage{
			Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}},
		}}, nil),
	} {
		c.commit(t, change)
	}
	revision := c.commit(t, weight(7))
	l := &lab{t: t, fleet: c.fleet, ctx: c.ctx}
	a := l.agent("lb-master").connect()
	applied := func(n *tandemv1.NodeStatus) bool { return n.GetConnected() && n.GetApplied() == revision }
	c.until(t, "the change is applied", applied)
	a.report(a.boot, backendEvent(1, agentv1.ServerState_SERVER_STATE_DOWN))
	eventually(t, "the event is acknowledged", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.acks) == 1
	})
	c.stop()
	if err := <-a.served; err == nil {
		t.Error("Serve = nil")
	}
	l.all.Wait()

	c = startController(t, dir)
	l.fleet, l.ctx = c.fleet, c.ctx
	updates, bytes := a.counts()
	a.connect()
	c.until(t, "the node is connected", applied)
	eventually(t, "the node is known to be current", func() bool {
		nodes := c.fleet.clusters[home]
		nodes.mu.Lock()
		defer nodes.mu.Unlock()
		return nodes.nodes["lb-master"].base != nil
	})
	if u, b := a.counts(); u != updates || b != bytes {
		t.Errorf("%d updates and %d bytes after the restart, want %d and %d", u, b, updates, bytes)
	}
	revision = c.commit(t, weight(8))
	c.until(t, "the next change is applied", applied)
	if u, b := a.counts(); u != updates+1 || b-bytes > 200 {
		t.Errorf("%d updates and %d bytes for one weight", u-updates, b-bytes)
	}
	list, err := c.events.List(home, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(e *tandemv1.Event) bool { return e.GetReason() == "BACKEND_DOWN" && e.GetSubject() == web1 }) {
		t.Errorf("the event is not in the log: %v", list)
	}
	c.stop()
	l.all.Wait()
}
