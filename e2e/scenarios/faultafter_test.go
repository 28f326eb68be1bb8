package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// interval is the time in which something was not as it should be.
type interval struct {
	from, to time.Time
	what     string
}

// verify holds that all was well from five seconds after each fault until the
// next one, and that the event log tells what happened.
func (r *faultRun) verify() {
	r.t.Helper()
	ctx := labtest.Deadline(r.t, time.Minute)
	changes, err := r.watch.Changes(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	wrong := notHeldOnce(changes, time.Now())
	for _, c := range r.clients {
		c.mu.Lock()
		wrong = append(wrong, c.outages...)
		c.mu.Unlock()
	}
	for _, p := range r.past {
		for _, w := range wrong {
			from, to := latest(w.from, p.ended.Add(recovery)), earliest(w.to, p.mended)
			if d := to.Sub(from); d > handing {
				r.t.Errorf("fault %d, %s: for %s, longer after its end than %s: %s", p.index, p.fault, d, recovery, w.what)
			}
		}
	}
	r.verifyEvents(ctx)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// notHeldOnce returns the times in which an address was held by no node, or by
// two.
func notHeldOnce(changes []lab.AddressChange, now time.Time) []interval {
	var wrong []interval
	holders := map[netip.Addr]int{}
	open := map[netip.Addr]interval{}
	for _, c := range changes {
		if was, ok := open[c.Address]; ok {
			was.to = c.At
			wrong = append(wrong, was)
			delete(open, c.Address)
		}
		if c.Held {
			holders[c.Address]++
		} else {
			holders[c.Address]--
		}
		if n := holders[c.Address]; n != 1 {
			open[c.Address] = interval{c.At, now, fmt.Sprintf("%d nodes hold %s", n, c.Address)}
		}
	}
	for _, still := range open {
		wrong = append(wrong, still)
	}
	return wrong
}

func TestNotHeldOnce(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	changes := []lab.AddressChange{
		{At: at(0), Host: "a", Address: one, Held: true},
		{At: at(1), Host: "b", Address: other, Held: true},
		{At: at(5), Host: "b", Address: one, Held: true},
		{At: at(6), Host: "a", Address: one},
		{At: at(10), Host: "b", Address: one},
		{At: at(11), Host: "b", Address: other},
		{At: at(12), Host: "a", Address: one, Held: true},
	}
	var got []string
	for _, w := range notHeldOnce(changes, at(20)) {
		got = append(got, fmt.Sprintf("%v to %v: %s", w.from.Sub(start), w.to.Sub(start), w.what))
	}
	want := []string{"5s to 6s: 2 nodes hold 192.0.2.1", "10s to 12s: 0 nodes hold 192.0.2.1", "11s to 20s: 0 nodes hold 192.0.2.2"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
