package fleet

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// reason is a stable word for scripts.
type reason string

const (
	reasonNodeConnected    reason = "NODE_CONNECTED"
	reasonNodeDisconnected reason = "NODE_DISCONNECTED"
	reasonConfigApplied    reason = "CONFIG_APPLIED"
	reasonConfigRefused    reason = "CONFIG_REFUSED"
	reasonConfigFailed     reason = "CONFIG_FAILED"
	reasonEventsLost       reason = "EVENTS_LOST"
	reasonNodeNote         reason = "NODE_NOTE"
	reasonLocalBegun       reason = "LOCAL_CHANGE_BEGUN"
	reasonLocalEnded       reason = "LOCAL_CHANGE_ENDED"
	reasonRecovered        reason = "CERTIFICATE_RECOVERED"
	reasonAlarmRaised      reason = "ALARM_RAISED"
	reasonAlarmCleared     reason = "ALARM_CLEARED"
	reasonFenced           reason = "VIP_FENCED"
	reasonUnfenced         reason = "VIP_UNFENCED"
)

// meaning is how an event of a reason is shown.
type meaning struct {
	kind     tandemv1.EventType
	severity tandemv1.EventSeverity
}

const (
	info    = tandemv1.EventSeverity_EVENT_SEVERITY_INFO
	warning = tandemv1.EventSeverity_EVENT_SEVERITY_WARNING
	failure = tandemv1.EventSeverity_EVENT_SEVERITY_ERROR
)

var meanings = map[reason]meaning{
	reasonNodeConnected:    {tandemv1.EventType_EVENT_TYPE_NODE, info},
	reasonNodeDisconnected: {tandemv1.EventType_EVENT_TYPE_NODE, warning},
	reasonConfigApplied:    {tandemv1.EventType_EVENT_TYPE_CONFIG, info},
	reasonConfigRefused:    {tandemv1.EventType_EVENT_TYPE_CONFIG, failure},
	reasonConfigFailed:     {tandemv1.EventType_EVENT_TYPE_CONFIG, failure},
	reasonEventsLost:       {tandemv1.EventType_EVENT_TYPE_NODE, warning},
	reasonNodeNote:         {tandemv1.EventType_EVENT_TYPE_NODE, info},
	reasonLocalBegun:       {tandemv1.EventType_EVENT_TYPE_CONFIG, warning},
	reasonLocalEnded:       {tandemv1.EventType_EVENT_TYPE_CONFIG, info},
	reasonRecovered:        {tandemv1.EventType_EVENT_TYPE_ACCESS, info},
	reasonAlarmRaised:      {tandemv1.EventType_EVENT_TYPE_NODE, failure},
	reasonAlarmCleared:     {tandemv1.EventType_EVENT_TYPE_NODE, info},
	reasonFenced:           {tandemv1.EventType_EVENT_TYPE_VRRP, failure},
	reasonUnfenced:         {tandemv1.EventType_EVENT_TYPE_VRRP, info},

	"BACKEND_UP":          {tandemv1.EventType_EVENT_TYPE_BACKEND, info},
	"BACKEND_NO_CHECK":    {tandemv1.EventType_EVENT_TYPE_BACKEND, info},
	"BACKEND_DRAIN":       {tandemv1.EventType_EVENT_TYPE_BACKEND, info},
	"BACKEND_MAINTENANCE": {tandemv1.EventType_EVENT_TYPE_BACKEND, info},
	"BACKEND_DOWN":        {tandemv1.EventType_EVENT_TYPE_BACKEND, warning},
	"BACKEND_UNKNOWN":     {tandemv1.EventType_EVENT_TYPE_BACKEND, warning},
	"VIP_INIT":            {tandemv1.EventType_EVENT_TYPE_VRRP, info},
	"VIP_BACKUP":          {tandemv1.EventType_EVENT_TYPE_VRRP, info},
	"VIP_MASTER":          {tandemv1.EventType_EVENT_TYPE_VRRP, info},
	"VIP_FAULT":           {tandemv1.EventType_EVENT_TYPE_VRRP, failure},
	"VIP_UNKNOWN":         {tandemv1.EventType_EVENT_TYPE_VRRP, warning},
	"HAPROXY_RUNNING":     {tandemv1.EventType_EVENT_TYPE_NODE, info},
	"HAPROXY_STOPPED":     {tandemv1.EventType_EVENT_TYPE_NODE, failure},
	"HAPROXY_MISSING":     {tandemv1.EventType_EVENT_TYPE_NODE, failure},
	"HAPROXY_IDLE":        {tandemv1.EventType_EVENT_TYPE_NODE, info},
	"HAPROXY_UNKNOWN":     {tandemv1.EventType_EVENT_TYPE_NODE, warning},
	"KEEPALIVED_RUNNING":  {tandemv1.EventType_EVENT_TYPE_NODE, info},
	"KEEPALIVED_STOPPED":  {tandemv1.EventType_EVENT_TYPE_NODE, failure},
	"KEEPALIVED_MISSING":  {tandemv1.EventType_EVENT_TYPE_NODE, failure},
	"KEEPALIVED_IDLE":     {tandemv1.EventType_EVENT_TYPE_NODE, info},
	"KEEPALIVED_UNKNOWN":  {tandemv1.EventType_EVENT_TYPE_NODE, warning},
}

// agentEvent logs one event, unless that was done before. It returns false when
// the log is full: the event is to come again. The lock is held.
func (c *cluster) agentEvent(n *node, boot string, e *agentv1.Event) bool {
	at := events.Position{Boot: boot, Sequence: e.GetSequence()}
	known := n.given.Boot == boot
	if known && at.Sequence <= n.given.Sequence {
		return true
	}
	lost := e.GetGap()
	if known && lost == 0 {
		lost = at.Sequence - n.given.Sequence - 1
	}
	out := c.about(n, reasonEventsLost, fmt.Sprintf("%d events of this node were lost", lost))
	if e.GetGap() == 0 {
		if lost > 0 && !c.queue(n, events.Position{Boot: boot, Sequence: at.Sequence - 1}, out) {
			return false
		}
		out = c.translate(n, e)
		out.Time = e.GetTime()
	}
	return c.queue(n, at, out)
}

// queue logs an event of a node that its agent can send again. It returns false
// when the log is full. The lock is held.
func (c *cluster) queue(n *node, at events.Position, e *tandemv1.Event) bool {
	from := events.Source{Node: n.uid, Position: at}
	if !c.options.Events.AppendFrom(c.id, from, complete(n, e), func() { c.durable(n, at) }) {
		return false
	}
	n.given = at
	return true
}

// durable notes that a node's events are on disk up to a position, and has its
// session say so. The log's goroutine calls it, in the order of the positions.
func (c *cluster) durable(n *node, at events.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.safe = at
	c.acknowledge(n)
}

// acknowledge has a node's session tell which events are safe. The lock is
// held.
func (c *cluster) acknowledge(n *node) {
	if ack := eventAck(n.safe); n.session != nil && ack != nil {
		n.session.safe.put(ack)
	}
}

// eventAck is a position in the words of the protocol, nil for none.
func eventAck(p events.Position) *agentv1.EventAck {
	if p == (events.Position{}) {
		return nil
	}
	return &agentv1.EventAck{BootId: p.Boot, Sequence: p.Sequence}
}

// translate says what happened on a node in the words of the API. e is bounded.
func (c *cluster) translate(n *node, e *agentv1.Event) *tandemv1.Event {
	switch k := e.GetKind().(type) {
	case *agentv1.Event_Backend:
		return c.backendEvent(n, k.Backend)
	case *agentv1.Event_Instance:
		return c.instanceEvent(n, k.Instance)
	case *agentv1.Event_Haproxy:
		return c.daemonEvent(n, "HAPROXY", "HAProxy", k.Haproxy)
	case *agentv1.Event_Keepalived:
		return c.daemonEvent(n, "KEEPALIVED", "keepalived", k.Keepalived)
	case *agentv1.Event_LocalBegun:
		return c.localEvent(n, reasonLocalBegun, k.LocalBegun, "")
	case *agentv1.Event_LocalEnded:
		return c.localEvent(n, reasonLocalEnded, k.LocalEnded.GetChange(), k.LocalEnded.GetHow())
	case *agentv1.Event_Note:
		return c.about(n, reasonNodeNote, k.Note)
	default:
		return c.about(n, reasonNodeNote, "something happened that this controller does not know: upgrade lb-controller")
	}
}

func (c *cluster) backendEvent(n *node, b *agentv1.BackendObservation) *tandemv1.Event {
	word := stateWord(b.GetState(), agentv1.ServerState_name, "SERVER_STATE_")
	message := fmt.Sprintf("backend %s/%s is %s", b.GetPool(), b.GetBackend(), lower(word))
	if b.GetReason() != "" {
		message += ": " + b.GetReason()
	}
	return &tandemv1.Event{
		Reason: "BACKEND_" + word, Message: message,
		Subject: c.subject(n, state.BackendName(c.id, b.GetPool(), b.GetBackend())),
	}
}

func (c *cluster) instanceEvent(n *node, i *agentv1.InstanceObservation) *tandemv1.Event {
	word := stateWord(i.GetState(), agentv1.VrrpState_name, "VRRP_STATE_")
	return &tandemv1.Event{
		Reason:  "VIP_" + word,
		Message: fmt.Sprintf("VRRP instance %s is %s with priority %d", i.GetName(), word, i.GetPriority()),
		Subject: c.subject(n, state.VipName(c.id, i.GetVip())),
	}
}

func (c *cluster) daemonEvent(n *node, prefix, daemon string, d *agentv1.DaemonObservation) *tandemv1.Event {
	word := stateWord(d.GetState(), agentv1.DaemonState_name, "DAEMON_STATE_")
	message := daemon + " is " + lower(word)
	if d.GetMessage() != "" {
		message += ": " + d.GetMessage()
	}
	return &tandemv1.Event{Reason: prefix + "_" + word, Message: message, Subject: state.NodeName(c.id, n.id).String()}
}

// subject returns a name that an agent has made up of ids, or the node's when
// it cannot be a name.
func (c *cluster) subject(n *node, name state.Name) string {
	if _, err := state.ParseName(name.String()); err != nil {
		name = state.NodeName(c.id, n.id)
	}
	return name.String()
}

// about returns an event about a node.
func (c *cluster) about(n *node, why reason, message string) *tandemv1.Event {
	return &tandemv1.Event{Reason: string(why), Message: message, Subject: state.NodeName(c.id, n.id).String()}
}

// nodeEvent logs what the controller itself has seen of a node, unless there
// is too much of it: an agent can bring such events about as often as it likes.
// The lock is held.
func (c *cluster) nodeEvent(n *node, why reason, message string, revision uint64) {
	if !c.affords(n) {
		return
	}
	e := c.about(n, why, message)
	e.Revision = revision
	c.append(n, e)
}

// affords tells whether an event about a node may be logged, and logs first how
// many were left out before. The lock is held.
func (c *cluster) affords(n *node) bool {
	if n.budget.take(1, time.Now()) == 0 {
		n.unlogged++
		return false
	}
	if n.unlogged > 0 {
		c.append(n, c.about(n, reasonEventsLost, fmt.Sprintf("%d events about this node were left out: there were too many", n.unlogged)))
		n.unlogged = 0
	}
	return true
}

// append logs an event that the controller has seen, of a node or, nil, of
// none.
func (c *cluster) append(n *node, e *tandemv1.Event) {
	c.options.Events.Append(c.id, complete(n, e))
}

// complete fills in what follows from an event's reason and its node.
func complete(n *node, e *tandemv1.Event) *tandemv1.Event {
	m := meanings[reason(e.GetReason())]
	e.Type, e.Severity = m.kind, m.severity
	if n != nil {
		e.Node = n.id
	}
	if e.GetTime() == nil {
		e.Time = timestamppb.New(time.Now())
	}
	return e
}
