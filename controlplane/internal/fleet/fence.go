package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Two nodes that hold a VIP see nothing of each other, or one of them does not see
// the other: only the controller sees both. It keeps one of them away by a fence, a
// lease that it renews while the cause lasts and the other one answers, and has that one
// announce itself. When the controller dies, or the one that holds the VIP does, the
// lease ends.

const (
	// fenceLease is how long a fence outlives the controller's last word.
	fenceLease = 3 * time.Second
	// fenceEvery is how often it is renewed.
	fenceEvery = time.Second
	// orderTimeout bounds an order to a node.
	orderTimeout = time.Second
)

// ground is why a node and not the other one is fenced off.
type ground string

const (
	byGateway  ground = "its gateway does not answer it"
	byClients  ground = "no client's question for the VIP reaches it"
	byPriority ground = "it has the lower priority"
)

// fenceKey names a fence.
type fenceKey struct{ vip, loser string }

// fence is a VIP that is kept away from a node.
type fence struct {
	survivor string
	ground   ground
	due      time.Time // to be renewed
	under    bool      // an order for it is still on its way
}

// order is a command to a node about a VIP.
type order struct {
	node, vip string
	command   *agentv1.Command
	fence     *fence // nil, or the one that it sets or renews
	then      *order // when it is carried out
}

// referee fences off the nodes that hold a VIP beside the one that should, and lifts
// fences that are no longer needed. It returns what is to be told to the nodes, and
// when to look again, 0 for never. It is called after judge.
func (c *cluster) referee(now time.Time) (orders []order, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fences := len(c.fences)
	for k, f := range c.fences {
		why := c.lift(k, f)
		switch {
		case why != "":
			delete(c.fences, k)
			c.fenceEvent(reasonUnfenced, k.vip, fmt.Sprintf("%s is no longer kept off VIP %s: %s", k.loser, k.vip, why))
			orders = append(orders, order{node: k.loser, vip: k.vip, command: fenceCommand(k.vip, 0)})
		case !now.Before(f.due):
			f.due = now.Add(fenceEvery)
			if f.under {
				continue // a node with many fences takes its time
			}
			orders = append(orders, keepOff(k, f, nil))
		}
	}
	for _, v := range c.head.Vips() {
		orders = append(orders, c.contest(v, now)...)
	}
	if len(c.fences) != fences {
		c.stir.put(struct{}{}) // a fence is an alarm
	}
	for _, f := range c.fences {
		next = cmp.Or(min(next, f.due.Sub(now)), f.due.Sub(now))
	}
	return orders, next
}

// contest fences off all but one of the nodes that have held a VIP together for so
// long that it is an alarm. An agent that knows no fences is left alone.
func (c *cluster) contest(v *tandemv1.Vip, now time.Time) (orders []order) {
	s := c.suspects["TWO_HOLDERS "+v.GetName()]
	if s == nil || !s.raised {
		return nil
	}
	vip := lastID(v.GetName())
	claimants := c.claimants(vip)
	if len(claimants) < 2 {
		return nil
	}
	survivor := claimants[0]
	for _, n := range claimants[1:] {
		if loser, _ := weigh(survivor, n, vip); loser == survivor {
			survivor = n
		}
	}
	for _, n := range claimants {
		k := fenceKey{vip, n.id}
		if n == survivor || c.fences[k] != nil || !n.capabilities[capability(fenceCommand(vip, 0))] {
			continue
		}
		_, why := weigh(survivor, n, vip)
		f := &fence{survivor: survivor.id, ground: why, due: now.Add(fenceEvery)}
		c.fences[k] = f
		c.fenceEvent(reasonFenced, vip, fmt.Sprintf("%s and %s both hold VIP %s: %s is kept off it, since %s", survivor.id, n.id, vip, n.id, why))
		announce := &order{node: survivor.id, vip: vip, command: &agentv1.Command{
			Kind: &agentv1.Command_Announce{Announce: &agentv1.AnnounceCommand{Vip: vip}},
		}}
		orders = append(orders, keepOff(k, f, announce))
	}
	return orders
}

// keepOff has the loser fenced off for a lease, once the survivor has answered that
// it is there and may hold the VIP: one that has lost its power is noticed by that.
func keepOff(k fenceKey, f *fence, then *order) order {
	f.under = true
	return order{node: f.survivor, vip: k.vip, command: fenceCommand(k.vip, 0),
		then: &order{node: k.loser, vip: k.vip, command: fenceCommand(k.vip, fenceLease), fence: f, then: then}}
}

// claimants are the nodes with an instance of a VIP that another node has, too.
func (c *cluster) claimants(vip string) []*node {
	nodes := c.reporting(vip)
	return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool {
		return !slices.ContainsFunc(n.observed.instances[vip], func(i *agentv1.InstanceObservation) bool {
			return advertises(n, vip, i.GetName()) && slices.ContainsFunc(nodes, func(other *node) bool {
				return other != n && advertises(other, vip, i.GetName())
			})
		})
	})
}

// weigh tells which of two nodes is to lose a VIP, and why.
func weigh(a, b *node, vip string) (loser *node, why ground) {
	x, y := a.reach(vip), b.reach(vip)
	switch {
	case x.silent && y.answers:
		return a, byGateway
	case y.silent && x.answers:
		return b, byGateway
	case x.asked != y.asked && y.asked:
		return a, byClients
	case x.asked != y.asked:
		return b, byClients
	case x.priority < y.priority:
		return a, byPriority
	default:
		return b, byPriority
	}
}

// reach is who reaches a node.
type reach struct {
	answers, silent bool // the gateway
	asked           bool
	priority        uint32
}

func (n *node) reach(vip string) (r reach) {
	for _, i := range n.observed.instances[vip] {
		r.answers = r.answers || i.GetGateway() == agentv1.GatewayState_GATEWAY_STATE_ANSWERS
		r.silent = r.silent || i.GetGateway() == agentv1.GatewayState_GATEWAY_STATE_SILENT
		r.asked = r.asked || i.GetAsked()
		r.priority = max(r.priority, i.GetPriority())
	}
	return r
}

// lift tells why a fence is needed no longer; empty: it is.
func (c *cluster) lift(k fenceKey, f *fence) string {
	survivor, loser := c.nodes[f.survivor], c.nodes[k.loser]
	switch {
	case c.head.Vip(k.vip) == nil:
		return "there is no such VIP any more"
	case loser == nil || loser.session == nil:
		return "it is not connected, so that its lease ends"
	case survivor == nil || survivor.session == nil:
		return fmt.Sprintf("%s is not connected, and may not hold the VIP any more", f.survivor)
	case !slices.ContainsFunc(survivor.observed.instances[k.vip], func(i *agentv1.InstanceObservation) bool {
		return advertises(survivor, k.vip, i.GetName())
	}):
		return f.survivor + " does not hold the VIP any more"
	}
	x, y := survivor.reach(k.vip), loser.reach(k.vip)
	switch {
	case x.silent && y.answers:
		return fmt.Sprintf("the gateway of %s does not answer", f.survivor)
	case f.ground == byGateway && !y.silent:
		return "its gateway answers it"
	case f.ground == byClients && y.asked:
		return "clients reach it"
	case dead(survivor.observed.haproxy) && !dead(loser.observed.haproxy):
		return "HAProxy on " + f.survivor + " does not work"
	case f.ground == byPriority && !slices.ContainsFunc(loser.observed.instances[k.vip], func(i *agentv1.InstanceObservation) bool { return !hears(i) }):
		return "it hears " + f.survivor
	}
	return ""
}

// suspectFenced tells of the nodes that are kept off a VIP, and say so themselves.
func (c *cluster) suspectFenced(v *tandemv1.Vip, add addSuspect) {
	vip := lastID(v.GetName())
	for k, f := range c.fences {
		if k.vip == vip && c.nodes[k.loser].fencedOff(vip) {
			add("FENCED", v.GetName(), 0,
				fmt.Sprintf("%s is kept off VIP %s, which %s holds, since %s and both would hold it", k.loser, vip, f.survivor, f.ground),
				"let the nodes hear each other's VRRP advertisements (protocol 112): the fence falls by itself then")
		}
	}
}

// fencedOff tells whether a node has said that it is kept off a VIP.
func (n *node) fencedOff(vip string) bool {
	return n != nil && slices.ContainsFunc(n.observed.instances[vip], (*agentv1.InstanceObservation).GetFenced)
}

func (c *cluster) fenceEvent(why reason, vip, message string) {
	c.log.Warn(message)
	c.append(nil, &tandemv1.Event{Reason: string(why), Subject: state.VipName(c.id, vip).String(), Message: message})
}

func fenceCommand(vip string, lease time.Duration) *agentv1.Command {
	return &agentv1.Command{Kind: &agentv1.Command_Fence{Fence: &agentv1.FenceCommand{Vip: vip, Lease: durationpb.New(lease)}}}
}

// send gives orders to the nodes. Each gets one at a time, since an agent takes a
// few, and none waits for another; an order about a fence that waits for its turn is
// no reason for a second one.
func (c *cluster) send(ctx context.Context, orders []order, sending *sync.WaitGroup) {
	for _, o := range orders {
		sending.Go(func() {
			for next := &o; next != nil; next = next.then {
				if err := c.order(ctx, next); err != nil {
					if !errors.Is(err, errLifted) && ctx.Err() == nil {
						c.log.Warn("a node does not do what it is told about a VIP", "node", next.node, "vip", next.vip, "error", err)
					}
					break
				}
			}
			c.given(&o)
		})
	}
}

// errLifted means that a fence was lifted while an order for it waited.
var errLifted = errors.New("the fence is lifted")

// order gives one order when it is the node's turn. It takes orderTimeout from then.
func (c *cluster) order(ctx context.Context, o *order) error {
	done, err := c.turnOf(ctx, o.node)
	if err != nil {
		return err
	}
	defer done()
	if !c.stands(o) {
		return errLifted
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	result, err := c.ask(ctx, o.node, o.command)
	if err == nil && result.GetOutcome() != agentv1.CommandOutcome_COMMAND_OUTCOME_DONE {
		err = errors.New(result.GetError())
	}
	return err
}

// turnOf waits until no other order is under way to a node, and returns what ends the
// turn.
func (c *cluster) turnOf(ctx context.Context, node string) (done func(), err error) {
	c.mu.Lock()
	n := c.nodes[node]
	c.mu.Unlock()
	if n == nil {
		return nil, ErrDisconnected
	}
	select {
	case n.ordered <- struct{}{}:
		return func() { <-n.ordered }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// stands tells whether an order is still to be given: a fence may be lifted while the
// survivor is asked, or while it waits.
func (c *cluster) stands(o *order) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return o.fence == nil || c.fences[fenceKey{o.vip, o.node}] == o.fence
}

// given lets the fence of an order that was given, or not, be renewed.
func (c *cluster) given(o *order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; o != nil; o = o.then {
		if o.fence != nil {
			o.fence.under = false
		}
	}
}
