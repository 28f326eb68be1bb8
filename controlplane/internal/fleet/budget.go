package fleet

import "time"

const (
	// burst is how many events of one node the log takes at once: more than an
	// agent's spool holds. Beyond it the log takes eventRate a second: the log
	// belongs to all nodes, and what is kept of it is bounded.
	burst     = 1 << 14
	eventRate = 100
)

// budget is how many events a node may have logged now.
type budget struct {
	spent float64
	at    time.Time
}

// take takes at most n out and returns how many it has taken.
func (b *budget) take(n int, now time.Time) int {
	b.spent = max(0, b.spent-eventRate*now.Sub(b.at).Seconds())
	b.at = now
	n = min(n, int(burst-b.spent))
	b.spent += float64(n)
	return n
}

// put puts back what was taken and not used.
func (b *budget) put(n int) { b.spent -= float64(n) }
