package cluster

import (
	"context"
	"errors"
	"os"
)

// PowerCut ends the node as a power cut does.
func (n *Node) PowerCut(ctx context.Context) error { return n.Host.PowerCut(ctx) }

// PowerBack starts the node again, with its agent alone, as after a boot with
// "runner: exec".
func (n *Node) PowerBack(ctx context.Context) error {
	return errors.Join(
		n.Host.PowerBack(ctx),
		os.MkdirAll(n.Host.Path(n.daemon("")), 0o755), // in /run
		n.Install("haproxy"),
		n.Install("keepalived"),
		n.StartAgent(ctx),
	)
}
