package fleet

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// maxLocal bounds the local changes of one node.
const maxLocal = 4096

// Words of administrative states.
const (
	ready       = "ready"
	drained     = "drain"
	maintenance = "maintenance"
)

var adminStates = map[agentv1.AdminState]string{
	agentv1.AdminState_ADMIN_STATE_READY:       ready,
	agentv1.AdminState_ADMIN_STATE_DRAIN:       drained,
	agentv1.AdminState_ADMIN_STATE_MAINTENANCE: maintenance,
}

// Drift returns where a node departs from what is desired because somebody has
// changed it on the node itself; nil when it does not. ErrDisconnected while the
// node says nothing.
func (f *Fleet) Drift(cluster, node string) ([]*tandemv1.Drift, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node]
	if n == nil || !n.observed.reported {
		return nil, fmt.Errorf("node %s: %w", node, ErrDisconnected)
	}
	return c.drift(n), nil
}

// drift compares a node's local changes with what is desired now. The lock is
// held.
func (c *cluster) drift(n *node) []*tandemv1.Drift {
	var out []*tandemv1.Drift
	for _, l := range n.observed.local {
		d := c.driftOf(n, l)
		if d == nil || proto.Equal(d.GetDesired(), d.GetLocal()) {
			continue // the node drops it as soon as it has what is desired
		}
		d.Author, d.CreateTime, d.Reason = l.GetAuthor(), l.GetTime(), l.GetReason()
		out = append(out, d)
	}
	return out
}

// driftOf says what a local change and the head make of its subject; nil when
// its name can be none.
func (c *cluster) driftOf(n *node, l *agentv1.LocalChange) *tandemv1.Drift {
	switch k := l.GetKind().(type) {
	case *agentv1.LocalChange_Drain:
		return &tandemv1.Drift{
			Name:    state.NodeName(c.id, n.id).String(),
			Desired: nodeState(c.head.Node(n.id).GetDrain()),
			Local:   nodeState(k.Drain),
		}
	case *agentv1.LocalChange_Backend:
		return c.backendDrift(k.Backend)
	default:
		return nil // of a newer agent
	}
}

func nodeState(drain bool) *tandemv1.DriftState {
	if drain {
		return &tandemv1.DriftState{State: drained}
	}
	return &tandemv1.DriftState{State: ready}
}

func (c *cluster) backendDrift(l *agentv1.LocalBackend) *tandemv1.Drift {
	name := state.BackendName(c.id, l.GetPool(), l.GetBackend()).String()
	word, known := adminStates[l.GetState()]
	if _, err := state.ParseName(name); err != nil || !known {
		return nil
	}
	d := &tandemv1.Drift{Name: name, Local: &tandemv1.DriftState{State: word, Weight: l.Weight}}
	b := c.head.Backend(l.GetPool(), l.GetBackend())
	if b == nil {
		return d
	}
	d.Desired = &tandemv1.DriftState{State: state.EffectiveState(b), Weight: proto.Uint32(state.EffectiveWeight(b))}
	if l.Weight == nil {
		d.Local.Weight = d.Desired.Weight
	}
	return d
}

// boundedLocal copies the local changes that an agent tells of.
func boundedLocal(set *agentv1.LocalChangeSet) []*agentv1.LocalChange {
	var out []*agentv1.LocalChange
	for _, l := range set.GetChanges()[:min(len(set.GetChanges()), maxLocal)] {
		out = append(out, boundedChange(l))
	}
	return out
}

func boundedChange(l *agentv1.LocalChange) *agentv1.LocalChange {
	out := &agentv1.LocalChange{
		Author: bounded(l.GetAuthor(), maxWord),
		Time:   validTime(l.GetTime()),
		Reason: bounded(l.GetReason(), maxText),
	}
	switch k := l.GetKind().(type) {
	case *agentv1.LocalChange_Drain:
		out.Kind = &agentv1.LocalChange_Drain{Drain: k.Drain}
	case *agentv1.LocalChange_Backend:
		b := &agentv1.LocalBackend{
			Pool:    bounded(k.Backend.GetPool(), maxWord),
			Backend: bounded(k.Backend.GetBackend(), maxWord),
			State:   k.Backend.GetState(),
		}
		if k.Backend != nil && k.Backend.Weight != nil {
			b.Weight = proto.Uint32(k.Backend.GetWeight())
		}
		out.Kind = &agentv1.LocalChange_Backend{Backend: b}
	}
	return out
}

// localEvent tells that a local change has begun, or how it has ended.
func (c *cluster) localEvent(n *node, why reason, l *agentv1.LocalChange, how string) *tandemv1.Event {
	subject, what := state.NodeName(c.id, n.id), "node "+n.id+" "
	if b := l.GetBackend(); b != nil {
		subject = state.BackendName(c.id, b.GetPool(), b.GetBackend())
		what = fmt.Sprintf("backend %s/%s %s", b.GetPool(), b.GetBackend(), adminStates[b.GetState()])
		if b.Weight != nil {
			what += fmt.Sprintf(", weight %d", b.GetWeight())
		}
	} else {
		what += nodeState(l.GetDrain()).GetState()
	}
	message := fmt.Sprintf("%s, on %s itself, by %s", what, n.id, l.GetAuthor())
	if how != "" {
		message += ", is over: " + how
	} else if l.GetReason() != "" {
		message += ": " + l.GetReason()
	}
	return &tandemv1.Event{Reason: string(why), Message: message, Subject: c.subject(n, subject)}
}

// driftMessage names what has drifted, for an alarm.
func driftMessage(node string, drift []*tandemv1.Drift) string {
	const most = 3
	var words []string
	for _, d := range drift {
		subject := "node"
		if name, err := state.ParseName(d.GetName()); err == nil && name.Kind == state.KindBackend {
			subject = "backend " + name.Pool + "/" + name.ID
		}
		words = append(words, subject+" "+d.GetLocal().GetState())
	}
	if more := len(words) - most; more > 0 {
		words = append(words[:most], fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("%s departs from what is desired, as it was changed on the machine itself: %s", node, strings.Join(words, ", "))
}

func driftCure(node string) string {
	return fmt.Sprintf(`look with "lbctl node drift %[1]s", then make it desired with "lbctl node drift keep %[1]s" `+
		`or undo it with "lbctl node drift discard %[1]s"`, node)
}
