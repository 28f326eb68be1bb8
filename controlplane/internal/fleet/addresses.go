package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

const (
	addressesBucket = "node-addresses"
	// maxAddresses bounds the addresses that are kept of one network.
	maxAddresses = 16
	// maxPeers bounds a cluster in which the nodes are told each other's addresses:
	// what all are told grows with the square of their number.
	maxPeers = 64
	// peersEvery bounds how often a cluster's nodes are told of new addresses, so
	// that one whose addresses change all the time costs the others little.
	peersEvery = time.Second
)

// Addresses remembers over restarts the addresses that the nodes have on their
// networks, as their agents tell. They are part of no revision: nobody has
// decided them.
type Addresses struct {
	records store.Records // nil: memory only

	mu    sync.Mutex                     // held for moments only
	nodes map[string]map[string][]string // by uid and network
	dirty map[string]bool                // uids that are not stored yet
}

// OpenAddresses reads what is remembered.
func OpenAddresses(ctx context.Context, records store.Records) (*Addresses, error) {
	a := newAddresses(records)
	all, err := records.List(ctx, addressesBucket)
	if err != nil {
		return nil, fmt.Errorf("read the nodes' addresses: %w", err)
	}
	for uid, v := range all {
		var networks map[string][]string
		if err := json.Unmarshal(v, &networks); err != nil {
			return nil, fmt.Errorf("record %s/%s: %w", addressesBucket, uid, err)
		}
		a.nodes[uid] = networks
	}
	return a, nil
}

func newAddresses(records store.Records) *Addresses {
	return &Addresses{records: records, nodes: map[string]map[string][]string{}, dirty: map[string]bool{}}
}

// note takes what a node tells of itself, nil when it is no more, and returns
// whether that is new.
func (a *Addresses) note(uid string, networks map[string][]string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, known := a.nodes[uid]
	if known == (networks != nil) && maps.EqualFunc(was, networks, slices.Equal) {
		return false
	}
	if networks == nil {
		delete(a.nodes, uid)
	} else {
		a.nodes[uid] = networks
	}
	a.dirty[uid] = true
	return true
}

// peers returns what the nodes of a configuration have, in the order of its
// nodes and of the networks' names. A node whose agent has told nothing is there
// without a network.
func (a *Addresses) peers(head *state.Config) []*keepalivedv1.Peer {
	if len(head.Nodes()) > maxPeers {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*keepalivedv1.Peer
	for _, n := range head.Nodes() {
		networks := a.nodes[n.GetUid()]
		if len(networks) == 0 {
			all = append(all, &keepalivedv1.Peer{Node: lastID(n.GetName())})
		}
		for _, network := range slices.Sorted(maps.Keys(networks)) {
			all = append(all, &keepalivedv1.Peer{Node: lastID(n.GetName()), Network: network, Addresses: networks[network]})
		}
	}
	return all
}

// speakers chooses where the VIPs that are advertised by unicast are, by their ids;
// agreed is what is in force.
func (a *Addresses) speakers(head *state.Config, agreed agreements) map[string]compile.Speakers {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]compile.Speakers)
	for _, v := range head.Vips() {
		if !state.EffectiveUnicast(head, v) {
			continue
		}
		told := make(map[string][]string)
		for _, n := range head.Nodes() {
			told[n.GetUid()] = a.nodes[n.GetUid()][state.EffectiveVrrpNetwork(v)]
		}
		vip := lastID(v.GetName())
		all[vip] = compile.SpeakersOf(v, told, agreed[vip].Agreed.Speakers)
	}
	return all
}

// told tells whether a node of a configuration has told what addresses it has.
func (a *Addresses) told(head *state.Config) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(head.Nodes(), func(n *tandemv1.Node) bool { return a.nodes[n.GetUid()] != nil })
}

// save makes durable what is new. What fails is tried again by the next save.
func (a *Addresses) save(ctx context.Context) error {
	a.mu.Lock()
	values := make(map[string][]byte, len(a.dirty))
	for uid := range a.dirty {
		values[uid] = nil
		if networks, ok := a.nodes[uid]; ok {
			values[uid], _ = json.Marshal(networks) // of text: never fails
		}
	}
	clear(a.dirty)
	a.mu.Unlock()
	if a.records == nil {
		return nil
	}
	var failed []error
	for uid, v := range values {
		if err := a.store(ctx, uid, v); err != nil {
			failed = append(failed, fmt.Errorf("record %s/%s: %w", addressesBucket, uid, err))
			a.mu.Lock()
			a.dirty[uid] = true
			a.mu.Unlock()
		}
	}
	return errors.Join(failed...)
}

func (a *Addresses) store(ctx context.Context, uid string, v []byte) error {
	if v != nil {
		return a.records.Put(ctx, addressesBucket, uid, v)
	}
	if err := a.records.Delete(ctx, addressesBucket, uid); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// observeNetworks takes in a node's own addresses. The lock is held.
func (c *cluster) observeNetworks(n *node, set *agentv1.NetworkSet) {
	if c.options.Addresses.note(n.uid, boundedNetworks(set)) {
		c.moved.put(struct{}{})
	}
}

// boundedNetworks copies what can be addresses of a node.
func boundedNetworks(set *agentv1.NetworkSet) map[string][]string {
	networks := make(map[string][]string)
	for _, o := range set.GetNetworks()[:min(len(set.GetNetworks()), maxInterfaces)] {
		own := []string{}
		for _, text := range o.GetAddresses()[:min(len(o.GetAddresses()), maxAddresses)] {
			a, err := netip.ParseAddr(text)
			if err == nil && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
				own = append(own, a.String())
			}
		}
		networks[bounded(o.GetNetwork(), maxWord)] = own
	}
	return networks
}

// settle keeps what the nodes have told of their addresses.
func (c *cluster) settle(ctx context.Context) {
	if err := c.options.Addresses.save(ctx); err != nil && ctx.Err() == nil {
		c.log.Error("a restart will not know a node's addresses until its agent has connected", "error", err)
	}
}

// gather brings the peers up to date for head, and tells whether they are others
// than before.
func (c *cluster) gather(head *state.Config) bool {
	peers := c.options.Addresses.peers(head)
	if slices.EqualFunc(peers, c.peers, func(a, b *keepalivedv1.Peer) bool { return proto.Equal(a, b) }) {
		return false
	}
	c.peers = peers
	return true
}
