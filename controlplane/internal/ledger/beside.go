package ledger

import (
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// beside knows which clusters have a node on the controller's own machine. It is
// learnt from the agents' sessions, anew after each start.
type beside struct {
	ports []state.Reserved

	mu    sync.Mutex
	nodes map[string]string // by cluster
}

// Beside says that a node of a cluster is on the controller's machine: from now
// on the cluster cannot have the controller's ports.
func (b *beside) Beside(cluster, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[cluster] = node
}

// reserved returns the ports that a cluster cannot have.
func (b *beside) reserved(cluster string) []state.Reserved {
	b.mu.Lock()
	defer b.mu.Unlock()
	node, ok := b.nodes[cluster]
	if !ok {
		return nil
	}
	out := make([]state.Reserved, 0, len(b.ports))
	for _, p := range b.ports {
		p.Owner += " on " + node
		out = append(out, p)
	}
	return out
}
