package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Configurations are held back from all nodes while a restored store waits for
// an operator, and from one node that is ahead of the store: its agent has a
// revision of this epoch that the store did not have when the agent said so. The
// store is then an older copy, put back without "lb-controller restore", and
// what the node has under a number is not what the store has, or will have.

// offer hands a node its target, unless it is held back. The lock is held.
func (c *cluster) offer(n *node) {
	if n.base == nil || n.target == nil || !proto.Equal(n.base.Version(), n.target.Version()) {
		n.settled = false
	}
	switch {
	case n.ahead != 0:
		n.failed, n.reason = c.head.Revision(), agentv1.NackReason_NACK_REASON_OLD_VERSION
		n.failure = fmt.Sprintf("the node has had revision %d of this store, which the controller had not: "+
			"the controller's data directory was put back to an older copy, and the node gets nothing from it", n.ahead)
	case n.session != nil && n.target != nil && c.restored == nil:
		n.session.targets.put(n.target)
	}
}

// release sends what was held back for an operator's word.
func (c *cluster) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restored = nil
	clear(c.unknown)
	for _, n := range c.nodes {
		c.offer(n)
	}
}

// maxUnknown bounds how many nodes that a restored store does not know are named.
const maxUnknown = 100

// Unknown notes a node with a certificate of this controller, which a restored
// store that waits does not know: it joined after the backup, or was removed or
// replaced before it.
func (f *Fleet) Unknown(id Identity) {
	c, err := f.cluster(id.Cluster)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restored != nil && !c.unknown[id.Node] && len(c.unknown) < maxUnknown {
		c.unknown[bounded(id.Node, maxWord)] = true
		c.stir.put(struct{}{})
	}
}

// compare notes whether a node that has said hello is ahead. The lock is held.
func (c *cluster) compare(n *node) {
	has := n.told.GetRuntime()
	switch {
	case n.told.GetEpoch() == c.head.Epoch() && has > c.head.Revision():
		n.ahead = has
		c.log.Error("a node is ahead of the controller, whose data directory was put back to an older copy: the node's configuration is held",
			"node", n.id, "node_revision", has, "revision", c.head.Revision(), "epoch", c.head.Epoch())
	case n.told.GetEpoch() != c.head.Epoch() || has < n.ahead:
		n.ahead = 0 // the node was put back itself
	}
	if n.ahead != 0 {
		n.sent, n.applied, n.runtime = 0, 0, 0 // what it has by these numbers is another store's
	}
}

const (
	aheadCure = "stop the controller and start it on the newest copy of its data directory; without one, stop it, run " +
		"\"lb-controller restore --as-is --data-dir DIR\", start it, and run \"lbctl restore confirm\""
	confirmCure = "see what the nodes have, and how it differs; look through the operator tokens (GET /v1/tokens) and \"lbctl node list\", since what " +
		"was removed after the backup is there again; then run \"lbctl restore confirm\""
	unknownCure = "; after that, for each machine that has joined after the backup, \"lbctl node token create NODE\" (\"lbctl node replace NODE\" " +
		"where NODE is there), with the token in its join_token_file: until it has joined anew it gives its VIPs up"
)

// suspectRestored tells that the controller waits, and what the nodes have.
func (c *cluster) suspectRestored(add addSuspect) {
	if c.restored == nil {
		return
	}
	what := "an older copy of its data directory"
	if !c.restored.Backup.IsZero() {
		what = "a backup of " + c.restored.Backup.UTC().Format(time.RFC3339)
	}
	var have []string
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; n != nil {
			have = append(have, n.id+" "+c.standing(n))
		}
	}
	message := fmt.Sprintf("the controller was restored from %s, at revision %d, and waits for an operator: it accepts no change and sends no configuration; the nodes keep serving what they have",
		what, c.head.Revision())
	if len(have) > 0 {
		message += ": " + strings.Join(have, ", ")
	}
	cure := confirmCure
	if len(c.unknown) > 0 {
		message += ". Not known to it, as they joined after the backup, or were removed or replaced before it: " +
			strings.Join(slices.Sorted(maps.Keys(c.unknown)), ", ")
		cure += unknownCure
	}
	add("RESTORED", state.ClusterName(c.id).String(), 0, message, cure)
}

// standing says what a node has, beside the restored revision.
func (c *cluster) standing(n *node) string {
	has, of := n.told.GetRuntime(), c.head.Revision()
	switch {
	case n.session == nil:
		return "is not connected"
	case n.told.GetHash() == "":
		return "has no configuration"
	case n.told.GetEpoch() != c.restored.Epoch:
		return fmt.Sprintf("has revision %d of another store (epoch %s)", has, bounded(n.told.GetEpoch(), maxWord))
	case has > of:
		return fmt.Sprintf("is ahead with revision %d, and will lose what the %d after %d changed", has, has-of, of)
	case has < of:
		return fmt.Sprintf("is behind with revision %d", has)
	}
	return fmt.Sprintf("has revision %d, too", has)
}
