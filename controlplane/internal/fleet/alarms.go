package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// moving is how long a VIP may have no holder or two: a takeover and the
	// reports of two nodes are not one moment. It keeps the alarm within a
	// second.
	moving = 800 * time.Millisecond
	// reconnecting is how long an agent may be away without an alarm.
	reconnecting = 3 * time.Second
	// settling is how long after its own start the controller waits for agents
	// before it judges anyone dead.
	settling = 15 * time.Second
	// lingering is how long an alarm stays raised at least after its cause that anybody
	// on the nodes' network can raise, or a single agent about a VIP, which no node's
	// budget of events bounds: what comes and goes is one alarm.
	lingering = 3 * time.Second
)

// alarm reasons, the worst first.
var alarmReasons = []string{
	"RESTORED", "TWO_HOLDERS", "NO_HOLDER", "HOLDER_UNKNOWN", "NOT_SERVED", "NO_BACKEND", "PROXY_DEAD", "KEEPALIVED_DEAD", "DUPLICATE_ADDRESS", "FOREIGN_VRRP_SPEAKER", "ADVERT_MISMATCH", "NOTHING_RECEIVED", "NOTHING_SENT", "PEER_SILENT", "FENCED", "TRACK_LOST", "CLONED_NODE", "NODE_AHEAD", "APPLY_FAILED", "VIP_CHANGE_WAITS", "NO_UNICAST_ADDRESS", "NODE_DISCONNECTED", "ALL_DRAINED", "DRIFT", "ADVERTISED_VIP",
}

// suspect is an alarm, raised or about to be.
type suspect struct {
	alarm  *tandemv1.Alarm
	from   time.Time
	delay  time.Duration
	raised bool
	gone   time.Time // since when its cause is over; zero: it is not
}

// lingers is how long the alarm of a cause that is over stays raised.
func (s *suspect) lingers(now time.Time) time.Duration {
	switch s.alarm.GetReason() {
	case "DUPLICATE_ADDRESS", "FOREIGN_VRRP_SPEAKER", "NOTHING_RECEIVED", "NOTHING_SENT", "NOT_SERVED", "ALL_DRAINED", "TRACK_LOST":
	default:
		return 0
	}
	if !s.raised {
		return 0
	}
	if s.gone.IsZero() {
		s.gone = now
	}
	return lingering - now.Sub(s.gone)
}

// judge raises and clears alarms. It returns how long nothing can change by
// time alone, 0 for ever.
func (c *cluster) judge(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.suspicions(now)
	var next time.Duration
	for k, s := range c.suspects {
		if found[k] == nil {
			if wait := s.lingers(now); wait > 0 {
				next = min(wait, cmp.Or(next, wait))
				continue
			}
			delete(c.suspects, k)
			if s.raised {
				c.mark(key{kindAlarm, k})
				c.alarmEvent(reasonAlarmCleared, s.alarm)
			}
		}
	}
	for k, f := range found {
		s := c.suspects[k]
		if s != nil {
			s.gone = time.Time{}
		}
		if s == nil {
			s = f
			s.from = now
			s.alarm.Since = timestamppb.New(now)
			c.suspects[k] = s
		} else if f.alarm.Since = s.alarm.GetSince(); !proto.Equal(f.alarm, s.alarm) {
			s.alarm = f.alarm
			if s.raised {
				c.mark(key{kindAlarm, k})
			}
		}
		if s.raised {
			continue
		}
		if wait := s.delay - now.Sub(s.from); wait > 0 {
			next = min(wait, cmp.Or(next, wait))
			continue
		}
		s.raised = true
		c.mark(key{kindAlarm, k})
		c.alarmEvent(reasonAlarmRaised, s.alarm)
	}
	for _, n := range c.nodes {
		if end, cloned := n.twins.at(now); cloned {
			next = min(end.Sub(now), cmp.Or(next, end.Sub(now)))
		}
	}
	return next
}

// alarms returns what is raised, the worst first. The lock is held.
func (c *cluster) alarms() []*tandemv1.Alarm {
	var out []*tandemv1.Alarm
	for _, k := range slices.Sorted(maps.Keys(c.suspects)) {
		if s := c.suspects[k]; s.raised {
			out = append(out, s.alarm)
		}
	}
	slices.SortStableFunc(out, func(a, b *tandemv1.Alarm) int {
		return cmp.Compare(slices.Index(alarmReasons, a.GetReason()), slices.Index(alarmReasons, b.GetReason()))
	})
	return out
}

// suspicions returns what is wrong now, by key. The lock is held.
func (c *cluster) suspicions(now time.Time) map[string]*suspect {
	found := make(map[string]*suspect)
	add := func(reason, subject string, delay time.Duration, message, cure string) {
		k := reason + " " + subject
		found[k] = &suspect{delay: delay, alarm: &tandemv1.Alarm{
			Key: k, Reason: reason, Subject: subject, Message: message, Cure: cure,
		}}
	}
	c.suspectRestored(add)
	for _, x := range c.head.Nodes() {
		if n := c.nodes[lastID(x.GetName())]; n != nil {
			c.suspectNode(n, now, add)
		}
	}
	for _, v := range c.head.Vips() {
		c.suspectVip(v, add)
		c.suspectWire(v, add)
		c.suspectFenced(v, add)
		c.suspectTerms(v, add)
		c.suspectMute(v, add)
		c.suspectAdvertised(v, add)
		c.suspectServed(v, add)
		c.suspectTracks(v, add)
	}
	for _, p := range c.head.Pools() {
		c.suspectPool(p, add)
	}
	return found
}

type addSuspect func(reason, subject string, delay time.Duration, message, cure string)

func (c *cluster) suspectNode(n *node, now time.Time, add addSuspect) {
	subject := state.NodeName(c.id, n.id).String()
	if n.session == nil {
		delay := reconnecting
		if n.seen.Load() == 0 {
			delay = max(delay, settling-now.Sub(c.started))
		}
		add("NODE_DISCONNECTED", subject, delay,
			fmt.Sprintf("the agent of %s is not connected: what the node does now is not known", n.id),
			"check that the machine is up and that lb-agent runs and reaches the controller; traffic does not depend on it")
	}
	if drift := c.drift(n); len(drift) > 0 {
		add("DRIFT", subject, 0, driftMessage(n.id, drift), driftCure(n.id))
	}
	switch {
	case n.failed != 0 && n.reason == agentv1.NackReason_NACK_REASON_OLD_VERSION:
		add("NODE_AHEAD", subject, 0, n.failure, aheadCure)
	case n.failed != 0 && n.fault() == nil:
		add("APPLY_FAILED", subject, 0,
			fmt.Sprintf("%s does not have revision %d in effect: %s", n.id, n.failed, n.failure), applyCure(n.reason, c.options.Version))
	}
	if _, cloned := n.twins.at(now); cloned {
		add("CLONED_NODE", subject, 0,
			fmt.Sprintf("agents take the session of %s from each other: two machines have its identity", n.id),
			"find the copied machine, stop its lb-agent, remove its state directory and join it with a token of its own")
	}
	if dead(n.observed.haproxy) {
		add("PROXY_DEAD", subject, 0,
			fmt.Sprintf("HAProxy on %s is %s: %s", n.id, daemonWord(n.observed.haproxy), n.observed.haproxy.GetMessage())+n.without(n.observed.haproxy),
			daemonCure(n.observed.haproxy, "haproxy"))
	}
	if dead(n.observed.keepalived) && len(c.head.Vips()) > 0 {
		add("KEEPALIVED_DEAD", subject, 0,
			fmt.Sprintf("keepalived on %s is %s, so it cannot hold a VIP: %s", n.id, daemonWord(n.observed.keepalived), n.observed.keepalived.GetMessage())+n.without(n.observed.keepalived),
			daemonCure(n.observed.keepalived, "keepalived"))
	}
}

// fault is the daemon whose absence alone keeps a node from having a revision in effect,
// which is an alarm of its own; nil: there is none such.
func (n *node) fault() *agentv1.DaemonObservation {
	for _, d := range []*agentv1.DaemonObservation{n.observed.haproxy, n.observed.keepalived} {
		if d.GetState() == agentv1.DaemonState_DAEMON_STATE_MISSING && n.reason == agentv1.NackReason_NACK_REASON_FAILED &&
			d.GetMessage() != "" && strings.HasPrefix(n.failure, d.GetMessage()) {
			return d
		}
	}
	return nil
}

// without says what revision a node does not have in effect without that daemon.
func (n *node) without(d *agentv1.DaemonObservation) string {
	if n.failed == 0 || n.fault() != d {
		return ""
	}
	return fmt.Sprintf("; revision %d is not in effect there", n.failed)
}

func dead(d *agentv1.DaemonObservation) bool {
	return d.GetState() == agentv1.DaemonState_DAEMON_STATE_STOPPED || d.GetState() == agentv1.DaemonState_DAEMON_STATE_MISSING
}

func daemonWord(d *agentv1.DaemonObservation) string {
	return lower(stateWord(d.GetState(), agentv1.DaemonState_name, "DAEMON_STATE_"))
}

func daemonCure(d *agentv1.DaemonObservation, name string) string {
	if d.GetState() == agentv1.DaemonState_DAEMON_STATE_MISSING {
		return "install " + name + " on the node; the agent notices"
	}
	return "read its message and the log of " + name + " on the node; the agent starts it again"
}

func applyCure(r agentv1.NackReason, version string) string {
	switch r {
	case agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD:
		return "upgrade lb-agent on the node to " + version + ", the controller's version: it is older than the configuration"
	case agentv1.NackReason_NACK_REASON_REFUSED:
		return "correct what the message names, or undo the change"
	default:
		return "remove the cause that the message names on the node, or undo the change"
	}
}

// suspectAdvertised warns of a controller that is reached through a VIP which it
// manages itself: when the VIP has no holder, nobody reaches who could mend it.
func (c *cluster) suspectAdvertised(v *tandemv1.Vip, add addSuspect) {
	for _, text := range v.GetAddresses() {
		address, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		for _, controller := range c.options.Controllers {
			if at, err := netip.ParseAddrPort(controller); err == nil && at.Addr() == address.Addr() {
				add("ADVERTISED_VIP", v.GetName(), 0,
					fmt.Sprintf("the controller is advertised as %s, an address of VIP %s, which it manages: without a holder of the VIP nobody reaches the controller to mend that",
						at.Addr(), lastID(v.GetName())),
					"start lb-controller with --advertise and an address of its own machine, and give the agents that one")
			}
		}
	}
}

// alarmEvent logs what becomes of an alarm. One about a node is the node's to
// pay for, as its agent can raise and clear it as often as it likes. The lock is
// held.
func (c *cluster) alarmEvent(why reason, a *tandemv1.Alarm) {
	message := a.GetReason() + ": " + a.GetMessage()
	if why == reasonAlarmCleared {
		message = a.GetReason() + " is over"
	}
	if name, err := state.ParseName(a.GetSubject()); err == nil && name.Kind == state.KindNode {
		if n := c.nodes[name.ID]; n != nil && !c.affords(n) {
			return
		}
	}
	if why == reasonAlarmRaised {
		c.log.Warn("alarm", "reason", a.GetReason(), "subject", a.GetSubject(), "message", a.GetMessage())
	}
	c.append(nil, &tandemv1.Event{Reason: string(why), Subject: a.GetSubject(), Message: message})
}

// stateWord returns the last word of an enum value, such as DOWN; UNKNOWN for
// one that means nothing here.
func stateWord[E ~int32](e E, names map[int32]string, prefix string) string {
	word, ok := names[int32(e)]
	if !ok || int32(e) == 0 {
		return "UNKNOWN"
	}
	return strings.TrimPrefix(word, prefix)
}

func lower(word string) string { return strings.ReplaceAll(strings.ToLower(word), "_", " ") }
