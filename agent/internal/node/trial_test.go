package node

import (
	"strings"
	"testing"
	"time"
)

// A HAProxy that keeps dying has to serve for longer each time before it is trusted,
// and one that has served for a while begins anew.
func TestTrial(t *testing.T) {
	var tr trial
	now := time.Unix(1000, 0)
	if proven := tr.serves(now); !proven.Equal(now) || tr.problem() != "" {
		t.Errorf("the first start counts at %v, problem %q", proven, tr.problem())
	}
	for n, want := range []time.Duration{0, 0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
		160 * time.Second, maxTrial, maxTrial} {
		now = now.Add(tr.length() + settled - time.Millisecond)
		tr.ended(now)
		tr.ended(now) // told twice
		if said := tr.problem(); (said == "") != (want == 0) || !strings.HasSuffix(said, want.String()) && want > 0 {
			t.Errorf("after %d ends the problem is %q", n+1, said)
		}
		now = now.Add(time.Hour) // it does not start
		for range 2 {
			if got := tr.serves(now).Sub(now); got != want {
				t.Errorf("after %d ends it counts after %v, want %v", n+1, got, want)
			}
		}
	}
	now = now.Add(maxTrial + settled)
	tr.ended(now)
	if got := tr.serves(now).Sub(now); got != 0 || tr.problem() != "" {
		t.Errorf("after a good run it counts after %v, problem %q", got, tr.problem())
	}
}

// A trial that an earlier agent left begins anew, and one that passes it is forgiven.
func TestATrialThatIsFound(t *testing.T) {
	var tr trial
	now := time.Unix(1000, 0)
	tr.found()
	if got := tr.serves(now).Sub(now); got != firstTrial || tr.problem() == "" {
		t.Errorf("it counts after %v, problem %q", got, tr.problem())
	}
	tr.ended(now.Add(firstTrial + settled))
	if got := tr.serves(now).Sub(now); got != 0 {
		t.Errorf("after a good run it counts after %v", got)
	}
}
