// Package rollout decides which structure each node gets. Runtime is never its
// business: every node gets the newest at once.
package rollout

import (
	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Target returns what the nodes shall have now that head is the newest
// configuration of their cluster: the newest structure, on all nodes at once.
// peers are the nodes' own addresses, speakers those that advertise VIPs by unicast;
// parts how one node takes part in VIPs whose terms change.
func Target(head *state.Config, peers []*keepalivedv1.Peer, speakers map[string]compile.Speakers, parts map[string]compile.Part) compile.Target {
	return compile.Target{Structure: head, Runtime: head, Peers: peers, Speakers: speakers, Parts: parts}
}
