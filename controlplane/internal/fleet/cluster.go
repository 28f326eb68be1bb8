package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/rollout"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// cluster is one cluster's nodes and what they report. Its lock is held for
// memory only, never across I/O or while anyone waits.
type cluster struct {
	id      string
	options *Options
	log     hclog.Logger
	started time.Time
	stir    mailbox[struct{}] // something that alarms depend on has changed

	moved mailbox[struct{}] // a node's own addresses have changed

	compiler compile.Compiler     // used by run only
	peers    []*keepalivedv1.Peer // likewise
	agreed   agreements           // likewise

	mu        sync.Mutex
	closed    bool
	head      *state.Config
	restored  *store.Restored // nil: the store waits for nobody
	unknown   map[string]bool // ids of nodes that a restored store does not know
	nodes     map[string]*node
	vips      map[string]*holders
	arranged  arrangement
	suspects  map[string]*suspect
	fences    map[fenceKey]*fence
	inquiries inquiries
	watchers  map[*Watcher]struct{}
	rendered  map[string]*tandemv1.BackendStatus // by "pool/backend", until it changes
	backends  int                                // in head
	live      int                                // names that a watch tells of
}

// node is what is known of one node. The cluster's lock guards it, but for
// seen.
type node struct {
	id, uid string
	since   uint64       // revision that it is known to be part of the cluster at
	seen    atomic.Int64 // when its agent last said anything, Unix nanoseconds

	session *session         // nil: not connected
	told    *agentv1.Version // what its agent had in effect when it last said hello
	ahead   uint64           // revision that it has of this epoch and the store had not; 0: none
	target  *compile.Config
	base    *compile.Config   // in effect, if that is known
	settled bool              // base is target, and nothing older is on its way
	turned  map[string]uint64 // by VIP: revision at which its part in it last changed

	sent, applied, failed uint64 // revisions
	runtime               uint64 // newest of which all is in effect but what waits for other nodes
	failure               string
	refused               string // hash of what failed; "" if that did not get to the node
	reason                agentv1.NackReason
	notPersistent         bool // applied would not survive a reboot of the node

	given events.Position // last event that was given to the log
	safe  events.Position // last event that is on disk

	identity     *agentv1.IdentityState // nil: not told
	agentVersion string
	capabilities map[string]bool
	interfaces   map[string]string
	observed     observed

	ordered  chan struct{} // holds an entry while it is given an order about a VIP
	asked    time.Time     // when it was last asked whether it is there; zero: nobody doubts that
	latency  time.Duration // that its answers to that have lately had
	silenced bool          // it has not answered in time, and no session of it has since

	boot     string      // of the agent that has, or had last, the session
	begun    []time.Time // when sessions began lately
	twins    twins
	budget   budget
	unlogged uint64 // events about it that its budget did not allow
}

func newCluster(o *Options, head *state.Config) *cluster {
	c := &cluster{
		id: head.ID(), options: o, log: o.Logger.With("cluster", head.ID()),
		started:  time.Now(),
		stir:     newMailbox[struct{}](),
		moved:    newMailbox[struct{}](),
		agreed:   o.Agreements.of(head.ID()),
		head:     head,
		restored: o.Ledger.Restored(),
		unknown:  make(map[string]bool),
		nodes:    make(map[string]*node),
		vips:     make(map[string]*holders),
		suspects: make(map[string]*suspect),
		fences:   make(map[fenceKey]*fence),
		watchers: make(map[*Watcher]struct{}),
		rendered: make(map[string]*tandemv1.BackendStatus),
	}
	for _, n := range head.Nodes() {
		c.addNode(n, head)
	}
	c.count()
	return c
}

// run publishes every new configuration to the nodes and judges what they
// report, until the cluster is deleted or ctx ends.
func (c *cluster) run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	defer c.close()
	sub, err := c.options.Ledger.Subscribe(c.id)
	if err != nil {
		return
	}
	defer sub.Close()
	confirmed := c.options.Ledger.Confirmed()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	moved, again := c.moved, time.NewTimer(peersEvery)
	defer again.Stop()
	step := time.NewTimer(0)
	defer step.Stop()
	var pending *state.Config // newest, until it is on disk how the nodes go over to it
	begun, told := false, false
	advance := func() {
		head := cmp.Or(pending, c.head)
		changed, next, ok := c.arrange(ctx, head)
		if next > 0 {
			step.Reset(next)
		}
		begun = begun || ok
		switch {
		case ok && (changed || pending != nil):
			pending = nil
			c.gather(head)
			c.publish(head)
		case told && begun && c.gather(c.head):
			c.publish(c.head)
		}
		told = told && !begun
	}
	for {
		select {
		case head, ok := <-sub.C:
			if !ok {
				c.forgetAll(ctx)
				return
			}
			pending = head
			advance()
		case <-moved:
			c.settle(ctx)
			told = true
			advance()
			moved = nil
			again.Reset(peersEvery)
		case <-again.C:
			moved = c.moved
		case <-confirmed:
			confirmed = nil
			c.release()
		case <-c.stir:
			advance()
		case <-step.C:
			advance()
		case <-alarm.C:
		case <-ctx.Done():
			return
		}
		c.dismiss(time.Now())
		next := c.judge(time.Now())
		asked, answered := c.doubt(time.Now())
		c.ping(ctx, asked, &sending)
		orders, renew := c.referee(time.Now())
		c.send(ctx, orders, &sending)
		for _, wait := range []time.Duration{answered, renew} {
			if wait > 0 {
				next = min(wait, cmp.Or(next, wait))
			}
		}
		if next > 0 {
			alarm.Reset(next)
		}
	}
}

// forgetAll ends what is on disk about the cluster, which is deleted: another one of
// its name has nothing to do with it.
func (c *cluster) forgetAll(ctx context.Context) {
	for _, n := range c.head.Nodes() {
		c.options.Addresses.note(n.GetUid(), nil)
	}
	err := errors.Join(c.options.Agreements.forget(ctx, c.id), c.options.Addresses.save(ctx))
	if err != nil && ctx.Err() == nil {
		c.log.Error("records of the deleted cluster stay in the store", "error", err)
	}
}

// publish makes head the desired configuration and hands each node its target.
func (c *cluster) publish(head *state.Config) {
	targets := make(map[string]*compile.Config, len(head.Nodes()))
	var failure error
	for _, n := range head.Nodes() {
		id := lastID(n.GetName())
		target, err := c.compiler.Node(rollout.Target(head, c.peers, c.arranged.speakers, c.arranged.parts[id]), id)
		if err != nil {
			failure = err
			c.log.Error("cannot compile a node's configuration", "node", id, "revision", head.Revision(), "error", err)
		}
		targets[id] = target
	}
	c.compiler.Forget(func(node string) bool { _, ok := targets[node]; return ok })

	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.head
	c.head = head
	c.dropNodes()
	for _, n := range head.Nodes() {
		c.aim(c.addNode(n, head), targets[lastID(n.GetName())], failure)
	}
	for id, n := range c.nodes {
		if len(n.observed.local) > 0 {
			c.mark(key{kindNode, id}) // its drift depends on the head
		}
	}
	c.count()
	c.markHead(before)
}

// aim gives a node its newest target. The lock is held.
func (c *cluster) aim(n *node, target *compile.Config, failure error) {
	if target == nil {
		n.failed = c.head.Revision()
		n.failure = fmt.Sprintf("the controller could not compile it: %v", failure)
		return
	}
	n.target = target
	c.offer(n)
}

// dropNodes forgets the nodes that head does not have, and cuts them off. The
// lock is held.
func (c *cluster) dropNodes() {
	for id, n := range c.nodes {
		x := c.head.Node(id)
		if x != nil && x.GetUid() == n.uid || n.since > c.head.Revision() {
			continue
		}
		c.drop(n)
		c.mark(key{kindNode, id})
	}
}

// drop forgets a node that is no member, and cuts it off. The lock is held.
func (c *cluster) drop(n *node) {
	if n.session != nil {
		n.session.cancel(ErrRevoked)
		c.forget(n)
	}
	delete(c.nodes, n.id)
	if c.options.Addresses.note(n.uid, nil) {
		c.moved.put(struct{}{})
	}
}

// addNode returns what is known of a node of head. The lock is held.
func (c *cluster) addNode(x *tandemv1.Node, head *state.Config) *node {
	id := lastID(x.GetName())
	n := c.nodes[id]
	if n == nil {
		n = &node{id: id, uid: x.GetUid(), since: head.Revision(), ahead: c.options.Holds.of(x.GetUid()),
			turned: make(map[string]uint64), ordered: make(chan struct{}, 1)}
		c.nodes[id] = n
		c.mark(key{kindNode, id})
	}
	return n
}

// count counts what bounds depend on. The lock is held.
func (c *cluster) count() {
	c.backends = 0
	for _, p := range c.head.Pools() {
		c.backends += len(c.head.Backends(lastID(p.GetName())))
	}
	c.live = c.backends + len(c.head.Nodes()) + len(c.head.Vips())
}

// close ends all sessions and watches.
func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, n := range c.nodes {
		if n.session != nil {
			n.session.cancel(ErrShutdown)
		}
	}
	for w := range c.watchers {
		w.fail(ErrClosed)
	}
}

// lastID returns the last id of a resource name.
func lastID(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
