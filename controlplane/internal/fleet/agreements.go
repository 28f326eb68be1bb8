package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/rollout"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const agreementsBucket = "vip-terms"

// agreements are the orders of a cluster's VIPs, by their ids.
type agreements map[string]rollout.Order

// Agreements remembers over restarts which terms are in force on the VIPs' nodes,
// and how far a change of them is.
type Agreements struct {
	records store.Records // nil: memory only

	mu  sync.Mutex // held for moments only
	all map[string]agreements
}

// OpenAgreements reads what is remembered.
func OpenAgreements(ctx context.Context, records store.Records) (*Agreements, error) {
	a := newAgreements(records)
	kept, err := records.List(ctx, agreementsBucket)
	if err != nil {
		return nil, fmt.Errorf("read the terms of the VIPs: %w", err)
	}
	for cluster, v := range kept {
		var of agreements
		if err := json.Unmarshal(v, &of); err != nil {
			return nil, fmt.Errorf("record %s/%s: %w", agreementsBucket, cluster, err)
		}
		a.all[cluster] = of
	}
	return a, nil
}

func newAgreements(records store.Records) *Agreements {
	return &Agreements{records: records, all: map[string]agreements{}}
}

// of returns what is remembered of a cluster; the caller does not change it.
func (a *Agreements) of(cluster string) agreements {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[cluster]
}

// keep makes what is remembered of a cluster durable.
func (a *Agreements) keep(ctx context.Context, cluster string, of agreements) error {
	if a.records != nil {
		v, err := json.Marshal(of)
		if err != nil {
			return err
		}
		if err := a.records.Put(ctx, agreementsBucket, cluster, v); err != nil {
			return fmt.Errorf("record %s/%s: %w", agreementsBucket, cluster, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[cluster] = of
	return nil
}

// forget ends what is remembered of a cluster that is deleted.
func (a *Agreements) forget(ctx context.Context, cluster string) error {
	a.mu.Lock()
	delete(a.all, cluster)
	a.mu.Unlock()
	if a.records == nil {
		return nil
	}
	if err := a.records.Delete(ctx, agreementsBucket, cluster); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("record %s/%s: %w", agreementsBucket, cluster, err)
	}
	return nil
}

// retryAgreements is the pause after a write that failed.
const retryAgreements = time.Second

// arrangement is how a cluster's nodes take part in VIPs whose terms change.
type arrangement struct {
	parts map[string]map[string]compile.Part // by node and VIP
	waits map[string]string                  // by VIP: what its change waits for
	// speakers of the VIPs that are, or are to be, advertised by unicast.
	speakers map[string]compile.Speakers
}

// arrange takes the next steps of the VIPs whose terms change. It returns whether
// nodes are to be given something else, and when to be called again at the latest;
// 0: with the next change of what is known. While ok is false nodes must be given
// nothing of head: what they do then is not on disk. Only run calls it.
func (c *cluster) arrange(ctx context.Context, head *state.Config) (changed bool, next time.Duration, ok bool) {
	orders, now, next := c.steps(head)
	if !maps.EqualFunc(orders, c.agreed, sameOrder) {
		if err := c.options.Agreements.keep(ctx, c.id, orders); err != nil {
			if ctx.Err() == nil {
				c.log.Error("nodes keep what they have until it is on disk which VRRP terms are in force",
					"revision", head.Revision(), "error", err)
			}
			return false, retryAgreements, false
		}
	}
	c.agreed = orders
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = c.turn(head, now.parts) || !maps.Equal(now.speakers, c.arranged.speakers)
	if changed || !maps.Equal(now.waits, c.arranged.waits) {
		c.arranged = now
		for id := range c.nodes {
			c.mark(key{kindNode, id})
		}
	}
	return changed, next, true
}

// turn notes whose parts change with head, and tells whether any does. The lock is
// held.
func (c *cluster) turn(head *state.Config, parts map[string]map[string]compile.Part) (changed bool) {
	for _, all := range []map[string]map[string]compile.Part{parts, c.arranged.parts} {
		for id, of := range all {
			for vip := range of {
				was, had := c.arranged.parts[id][vip]
				if part, has := parts[id][vip]; has == had && part == was {
					continue
				}
				changed = true
				if n := c.nodes[id]; n != nil {
					n.turned[vip] = head.Revision()
				}
			}
		}
	}
	return changed
}

// sameOrder tells whether two orders are the same on disk.
func sameOrder(a, b rollout.Order) bool {
	return a.Agreed == b.Agreed && a.Since == b.Since && a.Keeper == b.Keeper && a.Switching == b.Switching && a.Goal == b.Goal
}

// steps takes the steps on copies.
func (c *cluster) steps(head *state.Config) (orders agreements, now arrangement, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	orders = make(agreements, len(head.Vips()))
	now.speakers = c.options.Addresses.speakers(head, c.agreed)
	for _, v := range head.Vips() {
		id := lastID(v.GetName())
		wanted := compile.TermsOf(head, v, now.speakers[id])
		o, ok := c.agreed[id]
		if !ok {
			o = rollout.Order{Agreed: wanted}
		}
		if o.Agreed.Unicast && o.Agreed.Speakers == "" && wanted.Speakers == "" && c.options.Addresses.told(head) {
			o.Agreed.Unicast = false // no node has it yet, and none would: better by multicast than nowhere
		}
		if o.Switching || o.Agreed != wanted {
			if o.Since == 0 {
				// The latest wins: the revision may have come and gone unseen.
				o.Since = min(c.head.Revision()+1, head.Revision())
				if o.Agreed.DifferInSpeakers(wanted) {
					o.Since = head.Revision() + 1 // what the nodes tell is of no revision
				}
			}
			parts, waits, again := o.Step(time.Now(), head.Revision(), wanted, c.standings(head, v, wanted))
			now.add(id, parts, waits)
			if again > 0 && (next == 0 || again < next) {
				next = again
			}
		}
		orders[id] = o
	}
	for id, o := range c.agreed {
		if _, ok := orders[id]; !ok && c.remembers(head, id) {
			orders[id] = o // it may be made again
		}
	}
	return orders, now, next
}

func (a *arrangement) add(vip string, parts map[string]compile.Part, waits string) {
	for node, p := range parts {
		if a.parts == nil {
			a.parts = make(map[string]map[string]compile.Part)
		}
		if a.parts[node] == nil {
			a.parts[node] = make(map[string]compile.Part)
		}
		a.parts[node][vip] = p
	}
	if waits != "" {
		if a.waits == nil {
			a.waits = make(map[string]string)
		}
		a.waits[vip] = waits
	}
}

// suspectTerms tells of a change that waits for nodes. The lock is held.
func (c *cluster) suspectTerms(v *tandemv1.Vip, add addSuspect) {
	vip := lastID(v.GetName())
	if waits := c.arranged.waits[vip]; waits != "" {
		add("VIP_CHANGE_WAITS", v.GetName(), reconnecting, fmt.Sprintf("VIP %s keeps the VRRP settings that it had: %s", vip, waits),
			"all nodes of a VIP change its VRID, network, VRRP version, password, virtual MAC address, unicast addresses, or the interval of VRRPv2 at once, or two would hold it: "+
				"bring the node's agent back; \"lbctl node remove NODE\" if it is gone for good, and switched off")
	}
}

// suspectMute tells of nodes that a VIP which is advertised by unicast does without.
// The lock is held.
func (c *cluster) suspectMute(v *tandemv1.Vip, add addSuspect) {
	vip := lastID(v.GetName())
	speakers, unicast := c.arranged.speakers[vip]
	if c.arranged.waits[vip] != "" {
		return // which tells of it
	}
	var mute []string
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; unicast && n != nil && n.session != nil && !speakers.Has(x.GetUid()) {
			mute = append(mute, n.id)
		}
	}
	if len(mute) > 0 {
		add("NO_UNICAST_ADDRESS", v.GetName(), reconnecting, fmt.Sprintf("VIP %s is advertised by unicast and does without %s, of which no address to advertise from is known", vip, strings.Join(mute, " and ")),
			fmt.Sprintf("give the interface of network %s an address of the node's own, of each family that the VIP has (IPv6: a link-local one), or map the network in the agent's configuration file", state.EffectiveVrrpNetwork(v)))
	}
}

// waiting says what the newest revision waits for on a node, "" if for nothing but
// its own answer. The lock is held.
func (c *cluster) waiting(n *node) string {
	var all []string
	for _, vip := range slices.Sorted(maps.Keys(c.arranged.parts[n.id])) {
		if waits := c.arranged.waits[vip]; waits != "" {
			all = append(all, fmt.Sprintf("VIP %s keeps the VRRP settings that it had: %s", vip, waits))
		}
	}
	return strings.Join(all, "; ")
}

// standings are what is known of a VIP's nodes, which are to have the wanted terms.
// The lock is held.
func (c *cluster) standings(head *state.Config, v *tandemv1.Vip, wanted compile.Terms) []rollout.Standing {
	vip := lastID(v.GetName())
	all := make([]rollout.Standing, 0, len(head.Nodes()))
	for _, x := range head.Nodes() {
		s := rollout.Standing{Node: lastID(x.GetName()), Priority: state.EffectivePriority(head, v, x),
			Mute: wanted.Unicast && !wanted.Speakers.Has(x.GetUid())}
		if n := c.nodes[s.Node]; n != nil && n.uid == x.GetUid() {
			s.Connected = n.session != nil
			s.Volatile = n.notPersistent
			s.Failed = n.failed != 0 && n.failed == head.Revision()
			s.Known = n.base != nil || n.told != nil && n.told.GetHash() == "" && n.applied == 0
			s.Terms, s.Has = n.base.Terms(vip)
			// A later revision was made after the turn. Changes that never end would
			// otherwise never let a node have the newest one.
			s.Current = n.settled || n.base != nil && n.runtime > n.turned[vip]
			s.Holds = c.vips[vip] != nil && slices.Contains(c.vips[vip].nodes, s.Node)
		}
		all = append(all, s)
	}
	return all
}

// remembers tells whether a node may still have a VIP that was removed. The lock is
// held.
func (c *cluster) remembers(head *state.Config, vip string) bool {
	return slices.ContainsFunc(head.Nodes(), func(x *tandemv1.Node) bool {
		n := c.nodes[lastID(x.GetName())]
		if n == nil || n.base == nil {
			return n == nil || n.told == nil || n.told.GetHash() != "" // not heard yet, or it has something
		}
		_, has := n.base.Terms(vip)
		return has
	})
}
