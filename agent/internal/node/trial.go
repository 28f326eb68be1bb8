package node

import (
	"fmt"
	"time"
)

const (
	// forgiven is how many times in a row HAProxy may end and count in full again as
	// soon as it serves.
	forgiven = 2
	// firstTrial is for how long it must serve after one end more; each further one
	// doubles that, up to maxTrial.
	firstTrial = 5 * time.Second
	maxTrial   = 5 * time.Minute
	// settled is for how long it must then have counted in full for its next end not
	// to be one more in a row.
	settled = 20 * time.Second
)

// trial decides from when on a HAProxy that serves again counts in full, so that one
// which keeps dying does not take the VIPs back for a moment each time.
type trial struct {
	ends  int       // in a row
	serve time.Time // since when it serves; zero: it does not
}

// found is called when an earlier agent has left a trial, which begins anew: there were
// more ends than are forgiven, and nobody knows how many.
func (t *trial) found() { t.ends = forgiven + 1 }

// serves is called when HAProxy begins to serve, and returns from when on that counts
// in full.
func (t *trial) serves(now time.Time) (proven time.Time) {
	if t.serve.IsZero() {
		t.serve = now
	}
	return t.serve.Add(t.length())
}

// ended is called when it does not serve any more.
func (t *trial) ended(now time.Time) {
	if t.serve.IsZero() {
		return // it did not serve before
	}
	if now.Sub(t.serve) >= t.length()+settled {
		t.ends = 0
	}
	t.ends++
	t.serve = time.Time{}
}

// length of the trial after the ends so far.
func (t *trial) length() time.Duration {
	if t.ends <= forgiven {
		return 0
	}
	length := firstTrial
	for range t.ends - forgiven - 1 {
		length = min(2*length, maxTrial)
	}
	return length
}

// problem says why VIPs stay away, for people; empty: they do not.
func (t *trial) problem() string {
	if t.length() == 0 {
		return ""
	}
	text := fmt.Sprintf("HAProxy has ended or hung %d times, each time soon after it began to serve: VIPs stay away from this node "+
		"as long as another one serves, until HAProxy has served for %v", t.ends, t.length())
	if t.serve.IsZero() {
		return text
	}
	return text + fmt.Sprintf(", which is at %s", t.serve.Add(t.length()).UTC().Format("15:04:05 UTC"))
}
