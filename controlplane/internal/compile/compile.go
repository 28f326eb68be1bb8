// Package compile turns what is desired of a cluster into what each node shall
// do: keyed resources in which everything is resolved. It is pure. It knows
// what has changed by the identity of messages, so that one change among
// 10,000 backends costs little.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// ErrNoNode means that the node is not part of the target's runtime.
var ErrNoNode = errors.New("the node is not part of the cluster")

// Target is what a node shall have: the structure that its rollout stage gives
// it (settings, VIPs, listeners, pools) and the newest runtime (backends,
// overrides, drains).
type Target struct {
	Structure, Runtime *state.Config
	// Peers are the own addresses of all nodes; one that has told nothing is there
	// without a network. A node gets those of the others if it has told its own: its
	// agent knows the field then.
	Peers []*keepalivedv1.Peer
	// Speakers are where the VIPs that are advertised by unicast are, by their ids.
	Speakers map[string]Speakers
	// Parts are how the node takes part in VIPs, by their ids, where that is not
	// what the structure says: then it does not have the whole structure yet, and
	// its version says so.
	Parts map[string]Part
}

// whole is the newest revision whose structure the node has all of.
func (t Target) whole() uint64 {
	newest := t.Structure.Revision()
	for _, p := range t.Parts {
		newest = min(newest, p.Since-1)
	}
	return newest
}

// Config is the resolved configuration of one node. It never changes, and
// shares with others what it has in common with them.
type Config struct {
	version *agentv1.Version
	shared  *proxy
	own     []*part // keepalived's
}

// Version names the configuration; its hash depends on nothing but the content.
func (c *Config) Version() *agentv1.Version { return c.version }

// Has tells whether the configuration holds a resource of that key.
func (c *Config) Has(key string) bool {
	for _, p := range c.parts() {
		if p.has(key) {
			return true
		}
	}
	return false
}

// NodeConfig returns the whole configuration as one message. Its resources are
// shared.
func (c *Config) NodeConfig() *agentv1.NodeConfig {
	upserts, _ := Diff(nil, c)
	return &agentv1.NodeConfig{Version: c.version, Resources: upserts}
}

func (c *Config) parts() []*part {
	if c == nil {
		return nil
	}
	return append(c.shared.parts[:len(c.shared.parts):len(c.shared.parts)], c.own...)
}

// Compiler compiles the configurations of the nodes of one cluster. What it
// remembers of the last target makes the next one cheap and never changes its
// result. One goroutine at a time uses it.
type Compiler struct {
	proxy proxyMemo
	vrrp  map[string]*vrrpMemo
}

// Node returns the configuration of a node. It fails with ErrNoNode, or when
// the target breaks a rule that state holds.
func (c *Compiler) Node(t Target, node string) (*Config, error) {
	n := t.Runtime.Node(node)
	if n == nil {
		return nil, fmt.Errorf("node %q: %w", node, ErrNoNode)
	}
	shared, err := c.proxy.compile(t)
	if err != nil {
		return nil, err
	}
	if c.vrrp == nil {
		c.vrrp = make(map[string]*vrrpMemo)
	}
	memo := c.vrrp[node]
	if memo == nil {
		memo = &vrrpMemo{}
		c.vrrp[node] = memo
	}
	own, err := memo.compile(t, node, n)
	if err != nil {
		return nil, err
	}
	return &Config{
		version: &agentv1.Version{
			Epoch:     t.Runtime.Epoch(),
			Structure: t.whole(),
			Runtime:   t.Runtime.Revision(),
			Hash:      combine(shared.hash, hashParts(own)),
		},
		shared: shared,
		own:    own,
	}, nil
}

// Forget drops what is remembered of nodes that keep does not name.
func (c *Compiler) Forget(keep func(node string) bool) {
	for node := range c.vrrp {
		if !keep(node) {
			delete(c.vrrp, node)
		}
	}
}

func combine(hashes ...[sha256.Size]byte) string {
	h := sha256.New()
	for _, sum := range hashes {
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
