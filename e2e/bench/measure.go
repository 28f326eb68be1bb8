package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// measurement takes figures of a side, one of each row a round. It may leave the
// side unwell.
type measurement struct {
	key  string // what --only names it by
	rows []row
	take func(ctx context.Context, r *runner, s side) ([]float64, error)
}

// row is one line of the table.
type row struct {
	name, unit string
	// goal that the worst round of ours is to keep; noGoal: there is none.
	goal float64
	note string
}

const noGoal = -1

// Goals of the design, in milliseconds but for the last two.
const (
	proxyGoal  = 100 // HAProxy killed on the VIP's holder
	nodeGoal   = 350 // node cut off or powered off
	weighGoal  = 50
	shareGoal  = 0.5 // % of a core
	memoryGoal = 30  // MB
)

// measurements in the order of a round.
var measurements = []measurement{
	{"proxy-killed", []row{ms("HAProxy killed, it can be started again", proxyGoal, "")}, outages(step{killProxy, master})},
	{"proxy-gone", []row{ms("HAProxy killed, it cannot be started", proxyGoal, neverMoves)}, gone},
	{"proxy-frozen", []row{ms("HAProxy frozen (SIGSTOP)", noGoal, neverMoves)}, frozen},
	{"vrrp-stopped", []row{ms("keepalived stopped (SIGTERM)", noGoal, "")}, outages(step{stopVRRP, backup})},
	{"vrrp-killed", []row{ms("keepalived killed, all its processes", noGoal, "")}, outages(step{killVRRP, backup})},
	{"node-killed", []row{ms("node of the VIP without power", nodeGoal, ""), ms("node of the VIP back", noGoal, "")}, outages(step{powerCut, backup}, step{powerBack, master})},
	{"port-down", []row{ms("port of the VIP's holder down", nodeGoal, ""), ms("port of the VIP's holder up again", noGoal, "")}, outages(step{cut, backup}, step{plug, master})},
	{"mute", []row{ms("VIP's holder sends nothing (one-way cut)", nodeGoal, ""), ms("VIP's holder sends again", noGoal, "")}, outages(step{mute, backup}, step{heal, master})},
	{"deaf", []row{ms("VIP's holder receives nothing (one-way cut)", noGoal, ""), ms("VIP's holder receives again", noGoal, "")}, outages(step{deaf, ""}, step{heal, master})},
	{"planned", []row{
		ms("planned move and back: outage", noGoal, "to about 40 ms; what it costs each kind of connection is below"),
		lost("planned move and back: new connections lost"),
		lost("planned move and back: idle connections lost"),
		lost("planned move and back: requests in flight lost"),
		lost("planned move and back: downloads lost"),
		lost("planned move and back: WebSockets lost"),
	}, planned},
	{"reloads", []row{lost("requests lost in 10 reloads, 50 keep-alive clients")}, reloads},
	{"weights", []row{{"weight change until every answer follows it, both nodes", "ms", weighGoal,
		"to about 15 ms; ours: one API call; the guide's: both files edited and reloaded by a script"}}, weights},
	{"idle", []row{
		{fmt.Sprintf("agent at rest with %d backends: processor", idleBackends), "%", shareGoal, "of one core, the worse of the two nodes; the guide's pair has no agent"},
		{fmt.Sprintf("agent at rest with %d backends: resident memory", idleBackends), "MB", memoryGoal, ""},
	}, idle},
}

// patience is how long an outage is watched at most. The longest of the guide's that
// end do after three advertisements of a second and a skew.
const patience = 5 * time.Second

var neverMoves = fmt.Sprintf("the guide's VIP never moves; its figure is where the measurement was ended (%d ms)", patience.Milliseconds())

func ms(name string, goal float64, note string) row { return row{name, "ms", goal, note} }

// lost is a row of requests, of which none may be lost.
func lost(name string) row { return row{name, "requests", 0, ""} }

// choose returns the measurements that are named, all if none is.
func choose(only []string) ([]measurement, error) {
	if len(only) == 0 {
		return measurements, nil
	}
	var chosen []measurement
	var known []string
	for _, m := range measurements {
		known = append(known, m.key)
		if slices.Contains(only, m.key) {
			chosen = append(chosen, m)
		}
	}
	for _, key := range only {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("no measurement %q: there are %s", key, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// wait lets time pass that is part of what is measured.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
