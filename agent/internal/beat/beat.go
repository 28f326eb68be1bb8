// Package beat has those who look at something again and again do so at the same
// moments. An agent at rest does little each time: to wake up and to go to sleep again
// is most of what it costs, and is shared by all who wake at once.
package beat

import "time"

// Every is how often there is a beat. A second has four.
const Every = 250 * time.Millisecond

// begun is a beat.
var begun = time.Now()

// From returns the first beat that is not before a time.
func From(t time.Time) time.Time {
	over := t.Sub(begun) % Every
	switch {
	case over > 0:
		return t.Add(Every - over)
	default: // it is before begun, or a beat
		return t.Add(-over)
	}
}

// After returns the beat that is nearest to a time from then, which is not less than
// Every: whoever is late now and then is not late for ever.
func After(then time.Time, d time.Duration) time.Time { return From(then.Add(d - Every/2)) }

// In returns how long it is until After now.
func In(d time.Duration) time.Duration {
	now := time.Now()
	return After(now, d).Sub(now)
}
