package ledger

import (
	"maps"
	"slices"
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// beside knows which nodes are on the controller's own machine. It is learnt from
// the agents' sessions, anew after each start.
type beside struct {
	ports []state.Reserved

	mu    sync.Mutex
	nodes map[string]map[string]string // uids by node, by cluster
}

// Beside says whether the node that has the identity uid is on the controller's
// machine: as long as it is a member its cluster cannot have the controller's
// ports.
func (b *beside) Beside(cluster, node, uid string, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case is && b.nodes[cluster] == nil:
		b.nodes[cluster] = map[string]string{node: uid}
	case is:
		b.nodes[cluster][node] = uid
	case b.nodes[cluster][node] == uid:
		delete(b.nodes[cluster], node)
	}
}

// reserved returns the ports that a cluster cannot have.
func (b *beside) reserved(c *state.Config) []state.Reserved {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(b.nodes[c.ID()])) {
		if c.Node(node).GetUid() != b.nodes[c.ID()][node] {
			continue // it was removed or replaced
		}
		out := make([]state.Reserved, 0, len(b.ports))
		for _, p := range b.ports {
			p.Owner += " on " + node
			out = append(out, p)
		}
		return out
	}
	return nil
}
