package fleet

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// lab is a fleet with simulated agents.
type lab struct {
	t      testing.TB
	ledger *heads
	log    *journal
	fleet  *Fleet
	ctx    context.Context //nolint:containedctx // ends with the test's controller
	end    context.CancelFunc
	all    sync.WaitGroup

	holds       *Holds
	addresses   *Addresses
	agreements  *Agreements
	controllers []string // addresses that the controller is advertised by
}

const home = "default"

// newLab starts a fleet for a cluster with the nodes given, one VIP, one pool
// with two backends and a listener. It ends with the test.
func newLab(t testing.TB, nodes ...string) *lab {
	t.Helper()
	l := &lab{t: t, ledger: newHeads(), log: &journal{}}
	changes := []state.Change{
		state.CreateCluster(&tandemv1.Cluster{}),
		state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
		state.CreatePool("web_servers", &tandemv1.Pool{}),
		state.CreateBackend("web_servers", "web1", &tandemv1.Backend{Address: "192.168.1.20", Port: 80}),
		state.CreateBackend("web_servers", "web2", &tandemv1.Backend{Address: "192.168.1.21", Port: 80}),
		state.CreateListener("web_frontend", &tandemv1.Listener{
			Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}, Pool: "web_servers",
		}),
	}
	for _, n := range nodes {
		changes = append(changes, state.AddNode(n, "uid-"+n))
	}
	l.ledger.set(l.apply(state.New(home, "epoch-1", 0), changes...))
	l.start()
	t.Cleanup(func() { l.stop() })
	return l
}

// start starts the controller's part, stop ends it and waits.
func (l *lab) start() {
	l.fleet = New(Options{Ledger: l.ledger, Events: l.log, Version: "test", Holds: l.holds, Addresses: l.addresses, Agreements: l.agreements, Controllers: l.controllers})
	l.ctx, l.end = context.WithCancel(context.Background())
	fleet, ctx := l.fleet, l.ctx
	l.all.Go(func() {
		if err := fleet.Run(ctx); err != nil {
			l.t.Errorf("Run: %v", err)
		}
	})
}

func (l *lab) stop() {
	l.end()
	l.all.Wait()
}

func (l *lab) apply(c *state.Config, changes ...state.Change) *state.Config {
	l.t.Helper()
	for _, change := range changes {
		next, _, err := c.Apply(change, state.Env{Now: time.Unix(1700000000, 0), Author: "test"})
		if err != nil {
			l.t.Fatal(err)
		}
		c = next
	}
	return c
}

// change makes changes and publishes the last.
func (l *lab) change(changes ...state.Change) *state.Config {
	l.t.Helper()
	head, err := l.ledger.Head(home)
	if err != nil {
		l.t.Fatal(err)
	}
	head = l.apply(head, changes...)
	l.ledger.set(head)
	return head
}

// weight is a change of web1's weight.
func weight(w uint32) state.Change {
	return state.SetOverride(&tandemv1.Override{
		Name: "clusters/default/pools/web_servers/backends/web1/override", Weight: &w,
	}, nil)
}

func (l *lab) status() *tandemv1.ClusterStatus {
	l.t.Helper()
	s, err := l.fleet.Status(home)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) node(id string) *tandemv1.NodeStatus {
	l.t.Helper()
	for _, n := range l.status().GetNodes() {
		if lastID(n.GetName()) == id {
			return n
		}
	}
	l.t.Fatalf("no status of node %s", id)
	return nil
}

// pass lets time go by in a synctest bubble, and everything settle.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
