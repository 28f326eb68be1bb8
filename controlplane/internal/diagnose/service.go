package diagnose

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// serves judges whether a standby would serve what a VIP serves: its listeners, and
// their pools from there. The holder may be nil.
func (j *judgement) serves(v *tandemv1.Vip, h, n *Node) {
	running := n.HAProxy.GetState() == agentv1.DaemonState_DAEMON_STATE_RUNNING
	var pools []string
	for _, l := range j.Config.Listeners() {
		if !slices.ContainsFunc(l.GetBinds(), func(b *tandemv1.Bind) bool {
			return b.GetVip() == id(v.GetName()) || b.GetVip() == "" && b.GetAddress() == ""
		}) {
			continue
		}
		if running {
			j.listens(v, n, id(l.GetName()))
		}
		if !slices.Contains(pools, l.GetPool()) {
			pools = append(pools, l.GetPool())
		}
	}
	for _, pool := range pools {
		j.reaches(v, h, n, pool)
	}
}

// listens judges whether a listener accepts connections on a standby.
func (j *judgement) listens(v *tandemv1.Vip, n *Node, listener string) {
	var closed []string
	for _, b := range n.Diagnosis.GetBinds() {
		if b.GetFrontend() == listener && !b.GetListens() {
			closed = append(closed, net.JoinHostPort(cmp.Or(b.GetAddress(), "*"), strconv.Itoa(int(b.GetPort()))))
		}
	}
	if len(closed) > 0 {
		j.on(n, service, "LISTENER_CLOSED", fmt.Sprintf("listener %s is not open on %s: it would refuse the clients of VIP %s", listener, n.ID, id(v.GetName())),
			"no socket accepts connections at "+strings.Join(closed, ", "),
			fmt.Sprintf("lbctl status tells what HAProxy on %s failed at; on it: ss -ltn, journalctl -u haproxy", n.ID)).stops(v, n.ID)
	}
}

// reaches judges whether the backends of a pool can be reached from a standby.
func (j *judgement) reaches(v *tandemv1.Vip, h, n *Node, pool string) {
	ready := 0
	var lost []string // what is not reached, with the reason
	apart := 0        // of them, reached from the holder
	for _, b := range j.Config.Backends(pool) {
		if state.EffectiveState(b) != "ready" {
			continue
		}
		ready++
		is, why := n.reach(pool, id(b.GetName()))
		switch is {
		case reached, unclear:
		case unreached:
			lost = append(lost, fmt.Sprintf("%s: %s", id(b.GetName()), why))
			if from, _ := h.reach(pool, id(b.GetName())); from == reached {
				apart++
			}
		}
	}
	seen := "HAProxy's checks on " + n.ID
	if n.HAProxy.GetState() != agentv1.DaemonState_DAEMON_STATE_RUNNING {
		seen = "connections that the agent of " + n.ID + " tried"
	}
	evidence := fmt.Sprintf("%s: %s", seen, strings.Join(lost, "; "))
	if apart > 0 {
		evidence += fmt.Sprintf("; %s reaches %d of them", h.ID, apart)
	}
	cure := fmt.Sprintf("see routes, firewalls and the backends' own access rules; on %s: curl -v http://ADDRESS:PORT of one; lbctl status", n.ID)
	switch {
	case len(lost) == 0:
	case len(lost) == ready:
		j.on(n, service, "NO_BACKEND_REACHED", fmt.Sprintf("%s reaches no backend of pool %s: it could answer no client of VIP %s", n.ID, pool, id(v.GetName())), evidence, cure).stops(v, n.ID)
	case apart > 0:
		j.on(n, service, "BACKENDS_NOT_REACHED", fmt.Sprintf("%s does not reach all backends of pool %s that %s reaches", n.ID, pool, h.ID), evidence, cure).about(v)
	}
}

// reach is whether a node reaches a backend.
type reach int

const (
	unclear reach = iota
	reached
	unreached
)

// reach tells whether a node reaches a backend, by its own HAProxy's word or, where
// that has none, by its agent's try.
func (n *Node) reach(pool, backend string) (is reach, why string) {
	if n == nil {
		return unclear, ""
	}
	for _, s := range n.Diagnosis.GetServers() {
		if s.GetPool() == pool && s.GetBackend() == backend {
			if s.GetError() != "" {
				return unreached, s.GetError()
			}
			return reached, ""
		}
	}
	switch b := n.Backends[pool+"/"+backend]; b.GetState() {
	case agentv1.ServerState_SERVER_STATE_UP:
		return reached, ""
	case agentv1.ServerState_SERVER_STATE_DOWN:
		return unreached, cmp.Or(b.GetReason(), "down")
	default:
		return unclear, ""
	}
}
