package fleet

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// A node whose power or network is gone has a session for seconds still, and counts by
// what it said last: the VIP that its peer has taken over has two holders by that, and
// the peer does not hear the one that advertises. So whoever an alarm about the holder
// of a VIP depends on is asked, before it is raised and while it lasts, whether he is
// there. Who does not answer has no session any more: what he does is not known, and
// nothing follows from it but what the others hear.

const (
	// answering is how long an agent may take to say that it is there: less than moving,
	// so that no last word raises an alarm.
	answering = 700 * time.Millisecond
	// pingEvery is how often it is asked while the doubt lasts.
	pingEvery = time.Second
	// overslept is how late the controller is by itself when it looks for answers: those
	// that have come while it had no turn may not have been read.
	overslept = 500 * time.Millisecond
	// slowest is the longest time that an answer may take to be one of a slow agent.
	slowest = 3 * time.Second
)

// doubtful are the alarms that the last word of a node which is gone would raise.
var doubtful = []string{"TWO_HOLDERS", "NO_HOLDER", "PEER_SILENT"}

// doubt returns the sessions of those who are to be asked whether they are there, and
// when to look again, 0 for never. It is called after judge.
func (c *cluster) doubt(now time.Time) (ask []*session, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	doubted := make(map[*node]bool)
	for _, s := range c.suspects {
		if slices.Contains(doubtful, s.alarm.GetReason()) {
			for _, n := range c.reporting(lastID(s.alarm.GetSubject())) {
				doubted[n] = true
			}
		}
	}
	for _, n := range c.nodes {
		if !doubted[n] && (n.session == nil || !n.silenced) {
			n.asked = time.Time{}
			continue
		}
		wait := n.patience() - now.Sub(n.asked)
		switch {
		case n.asked.IsZero() || n.answered() && now.Sub(n.asked) >= pingEvery:
			n.asked = now
			ask, wait = append(ask, n.session), n.patience()
		case n.answered():
			wait = pingEvery - now.Sub(n.asked)
		}
		wait = max(wait, time.Millisecond)
		next = min(wait, cmp.Or(next, wait))
	}
	return ask, next
}

// answered tells whether a node has said anything since it was asked.
func (n *node) answered() bool { return n.seen.Load() >= n.asked.UnixNano() }

// patience is how long a node may take to answer: twice as long as one that is slow has
// lately taken. One that is back after it did not answer in time, and so is slow or was
// away, is asked which it is, and may take its time for that: it would else lose each
// session anew.
func (n *node) patience() time.Duration {
	if n.silenced {
		return slowest
	}
	return max(answering, 2*n.latency)
}

// dismiss ends the sessions of nodes that have not answered. It is called before judge.
func (c *cluster) dismiss(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		s, late := n.session, now.Sub(n.asked)-n.patience()
		if s == nil || n.asked.IsZero() || n.answered() || late < 0 {
			continue
		}
		n.asked = time.Time{}
		if late >= overslept {
			continue // it is asked again
		}
		n.silenced = true
		s.cancel(ErrSilent)
		c.part(n, ErrSilent)
	}
}

// ping asks agents whether they are there. Any answer is one, also that of an agent that
// does not know the question, and it counts when it comes in (see handle).
func (c *cluster) ping(ctx context.Context, sessions []*session, pinging *sync.WaitGroup) {
	for _, s := range sessions {
		pinging.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, slowest)
			defer cancel()
			began := time.Now()
			if _, err := s.ask(ctx, &agentv1.Command{Kind: &agentv1.Command_Ping{Ping: &agentv1.PingCommand{}}}); err == nil {
				c.took(s, time.Since(began))
			}
		})
	}
}

// took notes how long an answer of a node has taken. One that was slow is expected to be so
// again, for a while.
func (c *cluster) took(s *session, latency time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.node.latency, s.node.silenced = max(latency, s.node.latency/2), false
}
