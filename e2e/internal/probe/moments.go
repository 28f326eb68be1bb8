package probe

import (
	"slices"
	"time"
)

// Moments returns the least number of instants that account for all failures:
// at one of them each failed attempt was connected and waited for its answer.
// It returns -1 when an attempt failed in another way, or when there are more
// failures than the report holds.
//
// A VIP that moves resets what is under way in that instant, since its packets
// go to two nodes. One move is one moment, however many attempts it catches.
func (r *Report) Moments() int {
	if r.Failed() > len(r.Failures) {
		return -1
	}
	failures := slices.Clone(r.Failures)
	slices.SortFunc(failures, func(a, b Failure) int { return a.end().Compare(b.end()) })
	moments := 0
	var last time.Time // the latest instant that accounts for what ended first
	for _, f := range failures {
		if f.Phase != Answer {
			return -1
		}
		if moments == 0 || f.At.After(last) {
			moments, last = moments+1, f.end()
		}
	}
	return moments
}

func (f Failure) end() time.Time {
	return f.At.Add(time.Duration(f.AfterMS * float64(time.Millisecond)))
}
