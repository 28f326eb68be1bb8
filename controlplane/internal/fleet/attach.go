package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	maxText       = 4096 // of what an agent says in words, bytes
	maxWord       = 128  // of versions and the like, bytes
	maxInterfaces = 64
	// maxCapabilities bounds those that an agent may tell.
	maxCapabilities = 64
	// maxSessions bounds the sessions that one node begins within sessionsTime.
	maxSessions  = 64
	sessionsTime = 10 * time.Second
)

// attach makes s the session of its node; an older one ends. It fails with
// ErrRevoked when the node is not part of the cluster.
func (c *cluster) attach(ctx context.Context, s *session, id Identity, hello *agentv1.Hello) error {
	// The ledger knows a node that has joined before the loop has heard of it.
	head, err := c.options.Ledger.Head(c.id)
	if err != nil || head.Node(id.Node) == nil || head.Node(id.Node).GetUid() != id.UID {
		return fmt.Errorf("node %q: %w", id.Node, ErrRevoked)
	}
	stored := c.options.Events.Position(c.id, id.UID)
	if err := c.options.Holds.note(ctx, id.UID, hello.GetApplied(), head.Revision()); err != nil {
		s.log.Error("a restart will not know whether the node is ahead of the controller", "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrShutdown
	}
	if s.closed {
		return ErrSuperseded
	}
	if c.head.Revision() > head.Revision() {
		// dropNodes has looked at a newer one meanwhile, and not at this session.
		if head = c.head; head.Node(id.Node).GetUid() != id.UID {
			return fmt.Errorf("node %q: %w", id.Node, ErrRevoked)
		}
	}
	n := c.nodes[id.Node]
	if n == nil || n.uid != id.UID {
		if n != nil {
			c.drop(n)
		}
		n = c.addNode(head.Node(id.Node), head)
	}
	now := time.Now()
	if n.begun = since(n.begun, now.Add(-sessionsTime)); len(n.begun) >= maxSessions {
		return fmt.Errorf("node %q: %w", id.Node, ErrTooOften)
	}
	n.begun = append(n.begun, now)
	if n.session != nil {
		n.session.cancel(ErrSuperseded)
		c.forget(n)
		n.twins.superseded(n.boot, now)
	}
	n.boot = bounded(hello.GetBootId(), maxWord)
	n.twins.begins(n.boot, now)
	s.node, s.began, n.session = n, now, s
	if n.given == (events.Position{}) {
		n.given, n.safe = stored, stored
	}
	c.introduce(s, n, hello)
	c.nodeEvent(n, reasonNodeConnected, "its agent "+n.agentVersion+" has connected", 0)
	c.mark(key{kindNode, n.id})
	c.stir.put(struct{}{})
	return nil
}

// introduce takes over what hello says. The lock is held.
func (c *cluster) introduce(s *session, n *node, h *agentv1.Hello) {
	n.seen.Store(time.Now().UnixNano())
	n.identity = boundedIdentity(h.GetIdentity())
	n.agentVersion = bounded(h.GetAgentVersion(), maxWord)
	n.capabilities = make(map[string]bool)
	for _, word := range h.GetCapabilities()[:min(len(h.GetCapabilities()), maxCapabilities)] {
		n.capabilities[bounded(word, maxWord)] = true
	}
	n.interfaces = make(map[string]string)
	for _, network := range slices.Sorted(maps.Keys(h.GetInterfaces())) {
		if len(n.interfaces) < maxInterfaces {
			n.interfaces[bounded(network, maxWord)] = bounded(h.GetInterfaces()[network], maxWord)
		}
	}
	s.resume = n.given
	c.acknowledge(n)
	s.applied = boundedVersion(h.GetApplied())
	if n.base != nil && !sameHash(n.base.Version(), s.applied) {
		n.base = nil
	}
	s.base = n.base
	n.applied, n.runtime = 0, 0
	if s.applied.GetHash() != "" && c.plausible(s.applied) {
		n.applied, n.runtime = whole(s.applied), s.applied.GetRuntime()
	}
	n.sent, n.failed, n.failure, n.refused = n.applied, 0, "", ""
	n.notPersistent = h.GetNotPersistent()
	n.told = s.applied
	c.compare(n)
	c.offer(n)
}

// detach notes that s has ended.
func (c *cluster) detach(s *session, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.closed = true
	n := s.node
	if n == nil || n.session != s {
		return
	}
	c.part(n, why)
}

// part leaves a node without a session. The lock is held.
func (c *cluster) part(n *node, why error) {
	n.session = nil
	c.forget(n)
	if errors.Is(why, ErrLost) {
		why = ErrLost // the transport's own words help nobody
	}
	c.nodeEvent(n, reasonNodeDisconnected, fmt.Sprintf("its session has ended: %v", why), 0)
	c.mark(key{kindNode, n.id})
	c.stir.put(struct{}{})
}

// plausible tells whether a version can be one of this cluster's. The lock is
// held.
func (c *cluster) plausible(v *agentv1.Version) bool {
	return v.GetEpoch() == c.head.Epoch() && v.GetRuntime() <= c.head.Revision()
}

// since returns the times from one on.
func since(times []time.Time, from time.Time) []time.Time {
	return slices.DeleteFunc(times, func(t time.Time) bool { return t.Before(from) })
}
