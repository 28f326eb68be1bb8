package handover

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/handover/kernel"
)

// vip is what the keeper knows of a VIP beside the view.
type vip struct {
	role Role
	// to is the holder while this node stands by, and the previous one while it is
	// the holder itself; nil: not known.
	to *peer
	// until is when the forwarding ends, while this node is the holder.
	until time.Duration
}

// peer is another node on an interface.
type peer struct {
	node   string
	at     host
	own    net.HardwareAddr // this node's
	mac    net.HardwareAddr // nil: it has never answered
	seen   time.Duration    // when it answered last
	silent bool             // it has not answered since
}

// answers tells whether a peer is there, as far as is known.
func (p *peer) answers(now time.Duration) bool {
	return p != nil && p.mac != nil && !p.silent && now-p.seen < armed
}

// way is what the kernel does now with packets to a VIP.
func (v *vip) way(role Role, serving bool, now time.Duration) kernel.Way {
	way := kernel.Way{New: serving && (role == Holder || role == Standby)}
	switch {
	case role == Standby && v.to.answers(now):
		way.Until = v.to.seen + armed
		// The proxy's end has ended its connections: that the holder tells clients
		// so is the fastest way to new ones.
		way.All = !serving
	case role == Holder && now < v.until && v.to != nil && !v.to.silent:
		way.Until = v.until
	}
	if way.Until != 0 {
		way.From, way.To = v.to.own, v.to.mac
	}
	return way
}

// follow takes in what this node is now, and tells whether that changed. A node
// that was armed and becomes the holder forwards from now on.
func (k *Keeper) follow(vips []VIP, now time.Duration) (moved bool) {
	there := make(map[string]bool)
	for n := range vips {
		view := &vips[n]
		there[view.Name] = true
		v := k.vips[view.Name]
		if v == nil {
			v = &vip{role: Unknown}
			k.vips[view.Name] = v
			k.resume(v, view, now)
		}
		if v.until != 0 && now >= v.until {
			v.until = 0
			k.Logger.Info("forwarding is over: what the previous holder had left is reset", "instance", view.Name, "node", v.to.node)
		}
		if v.role == view.Role {
			continue
		}
		moved = true
		switch {
		case view.Role == Holder && v.role == Standby && v.to.answers(now):
			v.until = now + view.Timeout
			k.Logger.Info("forwarding established connections to the previous holder",
				"instance", view.Name, "node", v.to.node, "for", view.Timeout)
		case view.Role != Holder:
			v.until = 0
		}
		v.role = view.Role
	}
	maps.DeleteFunc(k.vips, func(name string, _ *vip) bool { return !there[name] })
	return moved
}

// forwarding tells whether this node forwards for a VIP.
func (k *Keeper) forwarding() bool {
	for _, v := range k.vips {
		if v.until != 0 {
			return true
		}
	}
	return false
}

// ask finds out which nodes answer, and which of them holds a VIP that this node
// stands by for.
func (k *Keeper) ask(ctx context.Context, vips []VIP) {
	asked := make(map[*peer]bool)
	for n := range vips {
		view := &vips[n]
		v := k.vips[view.Name]
		switch {
		case view.Role == Standby:
			for _, p := range k.peersOf(view) {
				k.askOnce(ctx, p, asked)
			}
			v.to = k.holderOf(view)
		case view.Role == Holder && v.until != 0 && v.to != nil:
			before := v.to.silent
			if k.askOnce(ctx, v.to, asked); v.to.silent && !before {
				k.Logger.Warn("the previous holder answers no more: its connections are reset", "instance", view.Name, "node", v.to.node)
			}
		}
	}
}

// peersOf are the other nodes on a VIP's network, in order of their names, each by
// the first of its addresses, of IPv4 if it has one.
func (k *Keeper) peersOf(view *VIP) []*peer {
	var all []*peer
	for _, node := range slices.Sorted(maps.Keys(view.Peers)) {
		addresses := slices.Clone(view.Peers[node])
		slices.SortStableFunc(addresses, func(a, b netip.Addr) int {
			switch {
			case a.Is4() == b.Is4():
				return 0
			case a.Is4():
				return -1
			default:
				return 1
			}
		})
		if len(addresses) == 0 {
			continue
		}
		at := host{view.Interface, addresses[0]}
		if k.peers[at] == nil {
			k.peers[at] = &peer{node: node, at: at}
		}
		all = append(all, k.peers[at])
	}
	return all
}

// askOnce asks a peer whether it is there.
func (k *Keeper) askOnce(ctx context.Context, p *peer, asked map[*peer]bool) {
	if asked[p] {
		return
	}
	asked[p] = true
	var failed error
	for range attempts {
		mac, own, err := k.linkAddress(ctx, p.at)
		now, clock := kernel.Now()
		if failed = errors.Join(err, clock); failed == nil {
			p.mac, p.own, p.seen, p.silent = mac, own, now, false
			return
		}
	}
	p.silent = true
	k.Logger.Debug("a node does not answer", "node", p.node, "error", failed)
}

// holderOf is the node that holds a VIP that this one stands by for: the one that
// advertises it, or the only other one; nil: it is not known.
func (k *Keeper) holderOf(view *VIP) *peer {
	peers := k.peersOf(view)
	n := slices.IndexFunc(peers, func(p *peer) bool { return p.node == view.Holder })
	switch {
	case n >= 0:
		return peers[n]
	case view.Holder == "" && len(peers) == 1:
		return peers[0]
	default:
		return nil
	}
}

// linkAddress returns the link-layer addresses of a host and of this node's
// interface.
func (k *Keeper) linkAddress(ctx context.Context, h host) (to, from net.HardwareAddr, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return k.network.LinkAddress(ctx, h.Interface, h.Address)
}
