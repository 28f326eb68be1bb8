// Package rollout decides which structure each node gets. Runtime is never its
// business: every node gets the newest at once.
package rollout

import (
	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// Target returns what a node shall have now that head is the newest
// configuration of its cluster: the newest structure, on all nodes at once.
func Target(head *state.Config, _ string) compile.Target {
	return compile.Target{Structure: head, Runtime: head}
}
