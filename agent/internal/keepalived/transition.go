package keepalived

import (
	"cmp"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/track"
)

// Transition is an instance's step into another state.
type Transition struct {
	// Name of the instance, and VIP its VIP's id; empty: not known any more.
	Name, VIP string
	// State after it; InstanceUnknown: there is nobody left to say.
	State InstanceState
	// Priority at that time; 0: not known.
	Priority int
	// Reason where it is known, for people.
	Reason string
}

// Reasons of what the observer learns late.
const (
	whileAway  = "while the agent was down"
	foundSo    = "found so by the agent that has started"
	noticeLost = "found so, its notice was lost"
)

// proxyTrouble is the reason of a holder that gives up because its proxy is dead.
const proxyTrouble = "HAProxy does not work"

// step notes that an instance goes into another state.
func (o *observer) step(w *watched, state InstanceState, priority int, reason string) {
	if w.State != state {
		o.transitions = append(o.transitions, Transition{w.name, w.vip, state, priority, reason})
	}
}

// why tells why an instance that says so itself goes into another state, as far
// as this node knows.
func (o *observer) why(w *watched, state InstanceState, now time.Time) string {
	switch {
	case state == InstanceFault && o.scores.fences[w.name] != nil:
		return "fenced, as another node holds it, too"
	case state == InstanceFault && o.scores.cuts[w.name] != nil:
		return "kept off, since " + o.scores.cuts[w.name].why
	case state == InstanceFault && o.scores.healthy:
		return linkTrouble(w.iface) // where that is not w.over, keepalived does not mind the other
	case state == InstanceFault:
		return cmp.Or(linkTrouble(w.iface), proxyTrouble)
	case state != InstanceBackup || w.State != InstanceMaster:
		return ""
	case !o.scores.healthy:
		return proxyTrouble
	case o.scores.away[w.name].value(now) != 0:
		return "a failover was asked for"
	case w.lostTracks() != "":
		return w.lostTracks()
	case o.scores.drain:
		return "the node is drained"
	default:
		return "another node has a higher priority"
	}
}

// whyFound tells how a state was learnt that no notice told.
func (o *observer) whyFound(w *watched) string {
	switch {
	case w.State != InstanceUnknown:
		return noticeLost
	case o.adopted:
		return foundSo
	default:
		return ""
	}
}

// linkTrouble tells what is wrong with an interface; empty: nothing.
func linkTrouble(name string) string {
	if err := track.Trouble(name); err != nil {
		return err.Error()
	}
	return ""
}

// miss takes what keepalived said while no agent listened.
func (o *observer) miss(said []byte) {
	for line := range strings.Lines(string(said)) {
		n, err := parseNotice(strings.TrimSuffix(line, "\n"))
		if err != nil {
			continue // the FIFO was full in the middle of a line
		}
		if state, ok := noticeStates[n.word]; ok {
			o.transitions = append(o.transitions, Transition{Name: n.instance, State: state, Priority: n.priority, Reason: whileAway})
		}
	}
}

// noticeStates are the words of notices that tell a state.
var noticeStates = map[string]InstanceState{
	"MASTER": InstanceMaster, "BACKUP": InstanceBackup, "FAULT": InstanceFault, "STOP": InstanceInit, "DELETED": InstanceInit,
}
