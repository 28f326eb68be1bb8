package fleet

import (
	"fmt"
	"strings"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// checking is how long the backends of a pool may all be down without an alarm: those
// that are new, or of a HAProxy that has just been started, wait for their checks.
const checking = 5 * time.Second

// suspectServed tells of a VIP that lives on a node only because it has to live
// somewhere. The lock is held.
func (c *cluster) suspectServed(v *tandemv1.Vip, add addSuspect) {
	id := lastID(v.GetName())
	h := c.vips[id]
	if h == nil || len(h.nodes) != 1 {
		return
	}
	proxies, drained := 0, true
	for _, x := range c.head.Nodes() {
		n := c.nodes[lastID(x.GetName())]
		if n == nil || n.session == nil || !n.observed.reported {
			return // it may be well
		}
		if !dead(n.observed.haproxy) {
			proxies++
		}
		drained = drained && c.drained(n)
	}
	if proxies == 0 {
		add("NOT_SERVED", v.GetName(), moving,
			fmt.Sprintf("VIP %s is held by %s, and HAProxy runs on no node: clients are refused", id, h.nodes[0]),
			"see why each HAProxy does not run; the agents start them again")
	}
	if drained {
		add("ALL_DRAINED", v.GetName(), moving,
			fmt.Sprintf("every node is drained, so VIP %s stays on %s: it has to live somewhere", id, h.nodes[0]),
			"lbctl node undrain one of them, before you switch the other one off")
	}
}

// suspectPool tells of a pool without a backend that takes requests, on some node.
// One that operators have taken out of service as a whole is none of that. The lock is
// held.
func (c *cluster) suspectPool(p *tandemv1.Pool, add addSuspect) {
	id := lastID(p.GetName())
	var nodes []string
	for _, x := range c.head.Nodes() {
		n := c.nodes[lastID(x.GetName())]
		if n != nil && n.observed.reported && !dead(n.observed.haproxy) && c.allDown(n, id) {
			nodes = append(nodes, n.id)
		}
	}
	if len(nodes) > 0 {
		add("NO_BACKEND", p.GetName(), checking,
			fmt.Sprintf("no backend of pool %s is up by the checks of %s: requests get an error there. VIPs do not move for that", id, strings.Join(nodes, " and ")),
			"see the reasons in lbctl status, and what the backends and their health check say")
	}
}

// allDown tells whether a node finds some backends of a pool down, and none up. It
// looks no further than the first that is up.
func (c *cluster) allDown(n *node, pool string) bool {
	down := false
	for _, b := range c.head.Backends(pool) {
		switch n.observed.backends[pool+"/"+lastID(b.GetName())].GetState() {
		case agentv1.ServerState_SERVER_STATE_DOWN:
			down = true
		case agentv1.ServerState_SERVER_STATE_MAINTENANCE, agentv1.ServerState_SERVER_STATE_DRAIN:
		default: // up, not checked, or not known yet
			return false
		}
	}
	return down
}
