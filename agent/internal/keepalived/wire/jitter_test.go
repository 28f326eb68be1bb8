package wire

import (
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

// arriving has advertisements arrive, each so much later than the interval after the one
// before, and returns the time of the last one.
func arriving(t *table, at time.Time, a *vrrp.Advert, from link.MAC, late ...time.Duration) time.Time {
	for _, l := range late {
		at = at.Add(interval + l)
		t.arrived(a, from, at)
	}
	return at
}

func repeated(n int, late ...time.Duration) (all []time.Duration) {
	for range n {
		all = append(all, late...)
	}
	return all
}

const ms = time.Millisecond

func TestJitter(t *testing.T) {
	for name, test := range map[string]struct {
		arrive func(*table) (end time.Time)
		want   Jitter
	}{
		"nobody":   {func(*table) time.Time { return start }, Jitter{}},
		"a moment": {func(t *table) time.Time { return arriving(t, start, advert(11, 230), peer, repeated(20, 4*ms)...) }, Jitter{}},
		"punctual": {func(t *table) time.Time { return arriving(t, start, advert(11, 230), peer, repeated(201, 0)...) }, Jitter{0, 0, 20 * time.Second}},
		"early too": {func(t *table) time.Time {
			return arriving(t, start, advert(11, 230), peer, repeated(101, -4*ms, 4*ms)...)
		}, Jitter{4 * ms, 4 * ms, 20 * time.Second}},
		"one late, which the next one makes up": {func(t *table) time.Time {
			return arriving(t, start, advert(11, 230), peer, append(repeated(200, 0), 150*ms, -90*ms)...)
		}, Jitter{1200 * time.Microsecond, 150 * ms, 20 * time.Second}},
		"taken for dead": {func(t *table) time.Time {
			return arriving(t, start, advert(11, 230), peer, append(repeated(200, 0), 500*ms, 0)...)
		}, Jitter{0, 0, 20 * time.Second}},
		"a router that was given up and back": {func(t *table) time.Time {
			end := arriving(t, start, advert(11, 230), peer, repeated(200, 0)...)
			end = arriving(t, end, advert(11, 0), peer, 0)
			return arriving(t, end, advert(11, 230), peer, 150*ms, 0)
		}, Jitter{0, 0, 20 * time.Second}},
		"another machine": {func(t *table) time.Time {
			end := arriving(t, start, advert(11, 230), peer, repeated(200, 0)...)
			return arriving(t, end, advert(12, 220), host, 150*ms, 0)
		}, Jitter{0, 0, 20 * time.Second}},
		"this node's own, another router, another interval": {func(t *table) time.Time {
			end := arriving(t, start, advert(11, 230), mine, repeated(200, 9*ms)...)
			foreign, slow := advert(11, 230), advert(11, 230)
			foreign.VRID, slow.Interval = 52, time.Second
			arriving(t, start, foreign, peer, repeated(200, 9*ms)...)
			arriving(t, start, slow, peer, repeated(200, 9*ms)...)
			return end
		}, Jitter{}},
		"only the last ten minutes": {func(t *table) time.Time {
			end := arriving(t, start, advert(11, 230), peer, append(repeated(200, 0), 150*ms)...)
			return arriving(t, end, advert(11, 230), peer, repeated(6700, 0)...)
		}, Jitter{0, 0, 10 * time.Minute}},
		"nobody for long": {func(t *table) time.Time {
			return arriving(t, start, advert(11, 230), peer, repeated(200, 0)...).Add(12 * time.Minute)
		}, Jitter{}},
	} {
		table := newTable()
		end := test.arrive(table)
		if got := table.routers[0].punctual.jitter(end); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// What is measured is news once a minute, and when it has become worse.
func TestJitterIsToldNowAndThen(t *testing.T) {
	table := newTable()
	at, news, last := start, 0, Jitter{}
	look := func() {
		if now := table.routers[0].punctual.jitter(at); now != last {
			news, last = news+1, now
		}
	}
	for n := range 6000 {
		at = arriving(table, at, advert(11, 230), peer, time.Duration(n%3)*ms/10)
		look()
	}
	if news < 2 || news > 12 {
		t.Errorf("news %d times in ten minutes", news)
	}
	at = arriving(table, at, advert(11, 230), peer, 90*ms)
	look()
	if last.Worst != 90*ms {
		t.Errorf("what is worse is not told: %+v", last)
	}
}
