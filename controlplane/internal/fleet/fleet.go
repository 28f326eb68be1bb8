// Package fleet holds the sessions of the nodes' agents: it brings every node
// to its target, and gathers what the nodes report into one status a cluster.
//
// Desired, sent, applied and observed are kept apart: desired is the ledger's
// head, sent and applied are what a session has seen go out and come back, and
// observed is what a connected node says now. Observed state is memory; the
// agents' first reports fill it again after a restart.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// ErrUnknownCluster means that there is no such cluster, or not yet.
var ErrUnknownCluster = errors.New("the cluster does not exist")

// Ledger is where desired configurations come from.
type Ledger interface {
	Clusters() []string
	Head(cluster string) (*state.Config, error)
	Subscribe(cluster string) (*ledger.Subscription[*state.Config], error)
	SubscribeClusters() *ledger.Subscription[[]string]
	// Restored tells where the store comes from while it waits for an operator;
	// Confirmed is closed when it does not, or no longer.
	Restored() *store.Restored
	Confirmed() <-chan struct{}
}

// Events is where events go.
type Events interface {
	// Append queues an event, or drops it and tells of that. It never blocks.
	Append(cluster string, e *tandemv1.Event)
	// AppendFrom queues an event that its node can send again, each once, and
	// never blocks; false: the queue is full, and nothing has happened. Later it
	// calls written, if there is one, when the event is durable.
	AppendFrom(cluster string, from events.Source, e *tandemv1.Event, written func()) bool
	// Position is that of the newest event that is durable of a node, by its
	// identity.
	Position(cluster, node string) events.Position
}

var (
	_ Ledger = (*ledger.Ledger)(nil)
	_ Events = (*events.Log)(nil)
)

// Options of a Fleet.
type Options struct {
	// Ledger and Events are needed.
	Ledger Ledger
	Events Events
	// Holds remembers which nodes are held; nil: none is after a restart.
	Holds *Holds
	// Addresses remembers the nodes' own addresses; nil: in memory only.
	Addresses *Addresses
	// Agreements remembers the terms of the VIPs; nil: in memory only.
	Agreements *Agreements
	// Logger; nil: none.
	Logger hclog.Logger
	// Version of the controller, told to agents.
	Version string
	// Controllers are the addresses, host:port, told to agents.
	Controllers []string
	// Outdated tells whether an agent gets something else by a renewal of its
	// certificate; nil: never. It must not block.
	Outdated func(*agentv1.IdentityState) bool
}

// Fleet serves the agents of all clusters.
type Fleet struct {
	options Options
	log     hclog.Logger

	mu       sync.Mutex
	clusters map[string]*cluster
}

// New returns a fleet in which every node is still to connect.
func New(o Options) *Fleet {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Outdated == nil {
		o.Outdated = func(*agentv1.IdentityState) bool { return false }
	}
	if o.Addresses == nil {
		o.Addresses = newAddresses(nil)
	}
	if o.Agreements == nil {
		o.Agreements = newAgreements(nil)
	}
	f := &Fleet{options: o, log: o.Logger, clusters: make(map[string]*cluster)}
	for _, id := range o.Ledger.Clusters() {
		if head, err := o.Ledger.Head(id); err == nil {
			f.clusters[id] = newCluster(&f.options, head)
		}
	}
	return f
}

// Run keeps every cluster's nodes on their targets until ctx ends. Then it
// ends all sessions and watches and returns nil.
func (f *Fleet) Run(ctx context.Context) error {
	list := f.options.Ledger.SubscribeClusters()
	defer list.Close()
	clusters := list.C
	var loops sync.WaitGroup
	defer loops.Wait()
	running := make(map[string]bool)
	ended := make(chan string)
	start := func(id string) {
		c := f.add(id)
		if c == nil || running[id] {
			return
		}
		running[id] = true
		loops.Go(func() {
			c.run(ctx)
			f.remove(c)
			select {
			case ended <- id:
			case <-ctx.Done():
			}
		})
	}
	for {
		select {
		case ids, ok := <-clusters:
			if !ok {
				clusters = nil // the ledger has ended; ctx is about to
			}
			for _, id := range ids {
				start(id)
			}
		case id := <-ended:
			// Deleted, and perhaps made anew meanwhile.
			delete(running, id)
			start(id)
		case <-ctx.Done():
			return nil
		}
	}
}

// add returns a cluster, made if it is new; nil if the ledger has none.
func (f *Fleet) add(id string) *cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.clusters[id]; c != nil {
		return c
	}
	head, err := f.options.Ledger.Head(id)
	if err != nil {
		return nil
	}
	c := newCluster(&f.options, head)
	f.clusters[id] = c
	return c
}

func (f *Fleet) remove(c *cluster) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.clusters, c.id)
}

func (f *Fleet) cluster(id string) (*cluster, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.clusters[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("cluster %q: %w", id, ErrUnknownCluster)
}

// Status returns what really is in a cluster. The message's parts are shared:
// the caller must not change it. ErrUnknownCluster if there is none.
func (f *Fleet) Status(cluster string) (*tandemv1.ClusterStatus, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	return c.status(), nil
}

// Watch follows the status of a cluster until ctx ends. ErrUnknownCluster if
// there is none.
func (f *Fleet) Watch(ctx context.Context, cluster string) (*Watcher, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	return c.watch(ctx)
}
