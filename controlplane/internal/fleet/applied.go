package fleet

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// What sessions report of the way of a configuration to a node. A session that
// is no longer the node's newest is not listened to.

// whole is the newest revision of which nothing is held back from a node that has
// this version.
func whole(v *agentv1.Version) uint64 { return min(v.GetStructure(), v.GetRuntime()) }

// sent notes that a version is on its way.
func (c *cluster) sent(s *session, v *agentv1.Version) {
	c.with(s, func(n *node) { n.sent = v.GetRuntime() })
}

// current notes that the node has a version in effect that was not sent to it
// in this session.
func (c *cluster) current(s *session, v *agentv1.Version) {
	c.with(s, func(n *node) {
		n.sent, n.applied, n.runtime, n.base = v.GetRuntime(), whole(v), v.GetRuntime(), s.base
		c.settledAt(n, v)
		c.stir.put(struct{}{})
	})
}

// settledAt notes that a session has nothing more to send than a version that is in
// effect. The lock is held.
func (c *cluster) settledAt(n *node, v *agentv1.Version) {
	n.settled = n.base != nil && n.target != nil && proto.Equal(v, n.target.Version())
}

// acked notes that a version is in effect.
func (c *cluster) acked(s *session, a *agentv1.Ack, v *agentv1.Version, changes bool) {
	c.with(s, func(n *node) {
		if !c.plausible(v) {
			c.log.Warn("a node acknowledged a version that was never made", "node", n.id, "revision", v.GetRuntime())
			return
		}
		n.applied, n.runtime, n.base, n.notPersistent = whole(v), v.GetRuntime(), s.base, a.GetNotPersistent()
		c.settledAt(n, v)
		// What waits for other nodes holds applied back, and mends no failure.
		if n.failed != 0 && (n.applied >= n.failed || v.GetRuntime() > n.failed || v.GetHash() == n.refused) {
			n.failed, n.failure, n.refused = 0, "", ""
		}
		c.stir.put(struct{}{})
		if changes {
			how := "without a reload"
			if a.GetReloaded() {
				how = "with a reload"
			}
			c.nodeEvent(n, reasonConfigApplied, fmt.Sprintf("revision %d is in effect, %s, after %s",
				n.applied, how, a.GetDuration().AsDuration()), n.applied)
		}
	})
}

// nacked notes that a version could not be put in effect.
func (c *cluster) nacked(s *session, k *agentv1.Nack, v *agentv1.Version) {
	message := bounded(k.GetMessage(), maxText)
	if k.GetRetrying() {
		message += " (the agent goes on trying)"
	}
	reason := reasonConfigFailed
	if k.GetReason() != agentv1.NackReason_NACK_REASON_FAILED {
		reason = reasonConfigRefused
	}
	c.fail(s, v, k.GetReason(), reason, message)
}

// stillFailed notes that a version is, but for its number, the one that the
// node could not apply.
func (c *cluster) stillFailed(s *session, v *agentv1.Version) {
	c.with(s, func(n *node) { n.failed = v.GetRuntime() })
}

func (c *cluster) fail(s *session, v *agentv1.Version, why agentv1.NackReason, reason reason, message string) {
	c.with(s, func(n *node) {
		n.failed, n.failure, n.reason, n.refused = v.GetRuntime(), message, why, v.GetHash()
		c.nodeEvent(n, reason, fmt.Sprintf("revision %d is not in effect, the last good one serves: %s", n.failed, message), n.failed)
		c.stir.put(struct{}{})
	})
}

// with runs f on the session's node, under the lock, if the session is the
// node's newest, and tells watchers of the node.
func (c *cluster) with(s *session, f func(*node)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.node.session != s {
		return
	}
	f(s.node)
	c.mark(key{kindNode, s.node.id})
}
