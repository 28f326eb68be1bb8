package fleet

import (
	"slices"
	"time"
)

const (
	// returns is how often a start of an agent must come back, within
	// twinMemory, after another one has taken its session: an agent that is
	// restarted is a new one, and the old one never comes back.
	returns = 2
	// twinMemory is how long a start that lost its session is remembered.
	twinMemory = time.Minute
	// twinGone is how long after the last return nobody is taken for a clone any
	// more. An agent that lost its session waits 15 s at most.
	twinGone = 30 * time.Second
	// maxTwins bounds the starts that are remembered.
	maxTwins = 16
)

// twins notices that two agents have one node's identity: they take its session
// from each other.
type twins struct {
	lost     []start     // that lost their session to another one
	returned []time.Time // when one of them came back
}

// start is one start of an agent.
type start struct {
	boot string
	at   time.Time
}

// superseded notes that a start has lost its session.
func (t *twins) superseded(boot string, now time.Time) {
	t.lost = slices.DeleteFunc(t.lost, func(s start) bool { return s.boot == boot || now.Sub(s.at) > twinMemory })
	t.lost = append(t.lost, start{boot, now})
	t.lost = t.lost[max(0, len(t.lost)-maxTwins):]
}

// begins notes that a start has a session. It has come back if another one has
// lost the session after it did.
func (t *twins) begins(boot string, now time.Time) {
	i := slices.IndexFunc(t.lost, func(s start) bool { return s.boot == boot && now.Sub(s.at) <= twinMemory })
	if i < 0 || i == len(t.lost)-1 {
		return // new, or the same again
	}
	t.returned = append(since(t.returned, now.Add(-twinMemory)), now)
	t.returned = t.returned[max(0, len(t.returned)-returns):]
}

// at tells whether they are at it now, and if so, when that may end.
func (t *twins) at(now time.Time) (end time.Time, yes bool) {
	if len(t.returned) < returns {
		return time.Time{}, false
	}
	end = t.returned[len(t.returned)-1].Add(twinGone)
	return end, now.Before(end)
}
