package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Why a VIP is not moved. After none of them it has moved, but for ErrNotSeen, and for
// ErrUnanswered of its holder.
var (
	// ErrNoHolder means that no node holds the VIP, or more than one, or that the
	// holder is not known.
	ErrNoHolder = errors.New("it is not held by one node")
	// ErrNoTaker means that no other node, or not the one that was asked for, can
	// hold the VIP.
	ErrNoTaker = errors.New("no other node can take it")
	// ErrRefused means that the holder's agent did not give the VIP up.
	ErrRefused = errors.New("its holder did not give it up")
	// ErrNotSeen means that the holder gave the VIP up and nobody was seen with it
	// within the time.
	ErrNotSeen = errors.New("nobody is seen to hold it yet")
)

// Move is a VIP to move to another node.
type Move struct {
	Cluster, VIP string
	// To is the node that shall hold it; empty: the best other one.
	To string
	// Lease is how long the present holder keeps away from it, 1s to 1h.
	Lease time.Duration
	// Author and Reason are for the event.
	Author, Reason string
}

// Moved says where a VIP went.
type Moved struct {
	// From held it, To holds it now: the same one if it was there before.
	From, To string
	// Took is the time from the command until To was seen to hold it.
	Took time.Duration
}

// seenEvery is how often Failover looks for the new holder, whose report is one
// message away.
const seenEvery = 5 * time.Millisecond

// Failover moves a VIP and returns when another node holds it. It fails with one
// of the errors above, with one of Command or with the end of ctx.
func (f *Fleet) Failover(ctx context.Context, m Move) (*Moved, error) {
	c, err := f.cluster(m.Cluster)
	if err != nil {
		return nil, err
	}
	takeover := c.takeover(m.VIP)
	ctx, cancel := context.WithTimeout(ctx, max(commandTimeout, takeover+orderTimeout))
	defer cancel()
	from, err := c.movable(m.VIP, m.To)
	if err != nil || from == m.To {
		return &Moved{From: from, To: from}, about(m, err)
	}
	began := time.Now()
	result, err := f.Command(ctx, m.Cluster, from, &agentv1.Command{Kind: &agentv1.Command_Failover{Failover: &agentv1.FailoverCommand{
		Vip: m.VIP, Lease: durationpb.New(m.Lease), Author: m.Author, Reason: m.Reason,
	}}})
	if errors.Is(err, ErrUnanswered) {
		// Whether it gave the VIP up, whoever takes it will tell.
		bounded, cancel := context.WithTimeout(ctx, takeover)
		defer cancel()
		if to, unseen := c.taken(bounded, m.VIP, from); unseen == nil {
			return &Moved{From: from, To: to, Took: time.Since(began)}, nil
		}
		return nil, about(m, fmt.Errorf("it may have moved: see \"lbctl status\": %w", err))
	}
	if err != nil {
		return nil, about(m, err)
	}
	if words := result.GetError(); words != "" {
		return nil, about(m, fmt.Errorf("%w: node %s: %s", ErrRefused, from, words))
	}
	to, err := c.taken(ctx, m.VIP, from)
	if err != nil {
		return nil, about(m, err)
	}
	return &Moved{From: from, To: to, Took: time.Since(began)}, nil
}

// takeover is how long a holder waits at most for another node to take a VIP from it:
// the agent's own bound, four of its intervals and a second.
func (c *cluster) takeover(vip string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.head.Vip(vip)
	if v == nil {
		return 0
	}
	return 4*state.EffectiveAdvertInterval(c.head, v) + time.Second
}

func about(m Move, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("VIP %s: %w", m.VIP, err)
}

// taken waits until one node other than from is seen to hold a VIP.
func (c *cluster) taken(ctx context.Context, vip, from string) (string, error) {
	poll := time.NewTicker(seenEvery)
	defer poll.Stop()
	for {
		if to := c.soleHolder(vip); to != "" && to != from {
			return to, nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%w, after node %s has given it up: %w", ErrNotSeen, from, context.Cause(ctx))
		}
	}
}

// soleHolder is the one node that holds a VIP, both families of it; empty when
// there is none such.
func (c *cluster) soleHolder(vip string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.vips[vip]
	if h == nil || len(h.nodes) != 1 || !vipNodeStatus(h.nodes[0], c.nodes[h.nodes[0]].observed.instances[vip]).GetHolds() {
		return ""
	}
	return h.nodes[0]
}

// movable returns the node that holds a VIP, which is to itself if that is asked
// for, when another one can take it from there.
func (c *cluster) movable(vip, to string) (from string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var holding []string
	if h := c.vips[vip]; h != nil {
		holding = h.nodes
	}
	switch len(holding) {
	case 0:
		return "", fmt.Errorf("%w: none is known to: see \"lbctl status\"", ErrNoHolder)
	case 1:
		from = holding[0]
	default:
		return "", fmt.Errorf("%w, but by %s: see \"lbctl status\"", ErrNoHolder, strings.Join(holding, " and "))
	}
	if to == from {
		return from, nil
	}
	best, reasons := c.takers(vip, from)
	switch {
	case to != "" && reasons[to] != "":
		return from, fmt.Errorf("node %s cannot take it from %s: %s: %w", to, from, reasons[to], ErrNoTaker)
	case to != "" && best != to:
		return from, fmt.Errorf("node %s would take it from %s, with a higher priority than %s: drain %[1]s, or raise the priority of %[3]s: %[4]w", best, from, to, ErrNoTaker)
	case best == "":
		var words []string
		for _, x := range c.head.Nodes() {
			if node := lastID(x.GetName()); reasons[node] != "" {
				words = append(words, node+" "+reasons[node])
			}
		}
		if len(words) == 0 {
			words = append(words, "the cluster has one node")
		}
		return from, fmt.Errorf("%w from %s: %s", ErrNoTaker, from, strings.Join(words, "; "))
	}
	return from, nil
}

// takers returns the node that keepalived would give a VIP to, empty if there is
// none, and why others cannot take it. The lock is held.
func (c *cluster) takers(vip, from string) (best string, reasons map[string]string) {
	reasons = make(map[string]string)
	var highest uint32
	for _, x := range c.head.Nodes() {
		node := lastID(x.GetName())
		if node == from {
			continue
		}
		if why := c.unfit(node, vip, from); why != "" {
			reasons[node] = why
			continue
		}
		if priority := vipNodeStatus(node, c.nodes[node].observed.instances[vip]).GetPriority(); best == "" || priority > highest {
			best, highest = node, priority
		}
	}
	return best, reasons
}

// unfit says in words why a node cannot take a VIP from its holder; empty: it
// can. The lock is held.
func (c *cluster) unfit(node, vip, from string) string {
	n, holder := c.nodes[node], c.nodes[from]
	switch {
	case n == nil || n.session == nil || !n.observed.reported:
		return "is not connected"
	case c.drained(n):
		return "is drained"
	case n.observed.haproxy.GetState() != agentv1.DaemonState_DAEMON_STATE_RUNNING:
		return "has no HAProxy that runs"
	case n.observed.keepalived.GetState() != agentv1.DaemonState_DAEMON_STATE_RUNNING:
		return "has no keepalived that runs"
	case len(n.observed.instances[vip]) == 0:
		return "does not have it from its agent yet"
	case slices.ContainsFunc(n.observed.instances[vip], func(i *agentv1.InstanceObservation) bool {
		return i.GetState() != agentv1.VrrpState_VRRP_STATE_BACKUP
	}):
		return "does not stand by for it: its keepalived is in state " +
			strings.ToLower(strings.TrimPrefix(vipNodeStatus(node, n.observed.instances[vip]).GetState().String(), "VRRP_STATE_"))
	case lacks(c.head.Vip(vip), n, holder) != "":
		return "has lost what the VIP needs: " + lacks(c.head.Vip(vip), n, holder)
	case n.base == nil || holder.base == nil || n.base.Version().GetStructure() != holder.base.Version().GetStructure():
		return fmt.Sprintf("has another configuration in effect than %s (revisions %d and %d)", from, n.applied, holder.applied)
	}
	return ""
}

// drained tells whether a node is drained, by the controller or on the machine
// itself. The lock is held.
func (c *cluster) drained(n *node) bool {
	drain := c.head.Node(n.id).GetDrain()
	for _, l := range n.observed.local {
		if k, ok := l.GetKind().(*agentv1.LocalChange_Drain); ok {
			drain = k.Drain
		}
	}
	return drain
}
