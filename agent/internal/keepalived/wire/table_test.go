package wire

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

var (
	vip   = netip.MustParseAddr("192.168.1.100")
	other = netip.MustParseAddr("192.168.1.101")
	mine  = link.MAC{2, 0, 0, 0, 0, 1}
	peer  = link.MAC{2, 0, 0, 0, 0, 2}
	host  = link.MAC{2, 0, 0, 0, 0, 3}
	start = time.Unix(1000, 0)
)

const interval = 100 * time.Millisecond

func newTable() *table {
	t := &table{own: map[link.MAC]bool{mine: true}}
	t.watch([]Router{{Name: "web", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip, other}}}, start)
	return t
}

func advert(last byte, priority uint8) *vrrp.Advert {
	return &vrrp.Advert{Source: netip.AddrFrom4([4]byte{192, 168, 1, last}), Version: 3, VRID: 51, Priority: priority, Interval: interval}
}

// stray is an advertisement of the VIP's address as virtual router 52.
func stray() *vrrp.Advert { return parsed("8471c0a80164") }

// parsed is one of the virtual router 52 that ends in a checksum and an address.
func parsed(end string) *vrrp.Advert {
	packet, err := hex.DecodeString("45c0002000010000ff700000c0a8010ae00000123134e601000a" + end)
	if err != nil {
		panic(err)
	}
	a, err := vrrp.Parse(packet)
	if err != nil {
		panic(err)
	}
	return &a
}

// say is what is known, in short.
func say(h Heard) string {
	var words []string
	for _, s := range h.Speakers {
		words = append(words, fmt.Sprintf("%v:%d", s.Source, s.Priority))
	}
	for _, s := range h.Strays {
		words = append(words, fmt.Sprintf("%v as %d", s.Source, s.VRID))
	}
	for _, c := range h.Claims {
		words = append(words, fmt.Sprintf("%v on %v", c.Address, c.MAC))
	}
	if h.Asked {
		words = append(words, "asked")
	}
	return strings.Join(words, ", ")
}

func TestHeard(t *testing.T) {
	const claim = "192.168.1.100 on 02:00:00:00:00:03"
	for name, test := range map[string]struct {
		packets func(*table, func(after time.Duration) time.Time)
		after   time.Duration
		want    string
	}{
		"nobody": {func(*table, func(time.Duration) time.Time) {}, 0, ""},
		"the peer": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
		}, 399 * time.Millisecond, "192.168.1.11:220"},
		"a peer that has fallen silent": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
		}, 400 * time.Millisecond, ""},
		"a peer that gives up": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
			t.advert(advert(11, 0), peer, at(10*time.Millisecond))
		}, 20 * time.Millisecond, ""},
		"this node itself": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(10, 220), mine, at(0))
			t.claim(vip, mine, at(0))
			t.ask(vip, mine, at(0))
		}, time.Second, ""},
		"another router": {func(t *table, at func(time.Duration) time.Time) {
			a := advert(11, 220)
			a.VRID = 52
			t.advert(a, peer, at(0))
		}, 0, ""},
		"the other family's router": {func(t *table, at func(time.Duration) time.Time) {
			a := advert(11, 220)
			a.Source = netip.MustParseAddr("fe80::2")
			t.advert(a, peer, at(0))
		}, 0, ""},
		"two programs of one machine": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
			a := advert(11, 100)
			a.Version, a.Interval = 2, time.Second
			t.advert(a, peer, at(0))
			t.advert(advert(11, 221), peer, at(300*time.Millisecond))
			t.advert(a, peer, at(300*time.Millisecond))
		}, 301 * time.Millisecond, "192.168.1.11:221, 192.168.1.11:100"},
		"one of which gives up": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
			a := advert(11, 100)
			a.Version, a.Interval = 2, time.Second
			t.advert(a, peer, at(0))
			t.advert(advert(11, 0), peer, at(time.Millisecond))
		}, 2 * time.Millisecond, "192.168.1.11:100"},
		"a machine that has the address as another router": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(stray(), peer, at(0))
		}, 399 * time.Millisecond, "192.168.1.10 as 52"},
		"another address as another router": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(parsed("8472c0a80163"), peer, at(0))
		}, 0, ""},
		"one that has fallen silent": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(stray(), peer, at(0))
		}, 400 * time.Millisecond, ""},
		"one that gives up": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(stray(), peer, at(0))
			a := stray()
			a.Priority = 0
			t.advert(a, peer, at(10*time.Millisecond))
		}, 20 * time.Millisecond, ""},
		"two of one address": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
			t.advert(advert(11, 254), host, at(0))
		}, 0, "192.168.1.11:220, 192.168.1.11:254"},
		"one that says that it is silent for long": {func(t *table, at func(time.Duration) time.Time) {
			a := advert(11, 100)
			a.Version, a.Interval = 2, 255*time.Second
			t.advert(a, peer, at(0))
		}, longest - time.Millisecond, "192.168.1.11:100"},
		"and is": {func(t *table, at func(time.Duration) time.Time) {
			a := advert(11, 100)
			a.Version, a.Interval = 2, 255*time.Second
			t.advert(a, peer, at(0))
		}, longest, ""},
		"a host with the address": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, host, at(0))
		}, 400 * time.Millisecond, claim},
		"one that may be the peer": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, host, at(0))
		}, 399 * time.Millisecond, ""},
		"one that is over": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, host, at(0))
		}, claimLife, ""},
		"one that goes on": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, host, at(0))
			t.claim(vip, host, at(2*time.Second))
		}, claimLife, claim},
		"the peer, which has it": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), host, at(0))
			t.claim(vip, host, at(399*time.Millisecond))
		}, time.Second, ""},
		"the peer, advert last": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, host, at(0))
			t.advert(advert(11, 220), host, at(300*time.Millisecond))
		}, time.Second, ""},
		"a peer that advertises no more and keeps it": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), host, at(0))
			t.claim(vip, host, at(500*time.Millisecond))
		}, time.Second, claim},
		"the router's own link-layer address": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(vip, link.MAC{0, 0, 0x5e, 0, 1, 51}, at(0))
		}, time.Second, ""},
		"another address": {func(t *table, at func(time.Duration) time.Time) {
			t.claim(netip.MustParseAddr("192.168.1.1"), host, at(0))
			t.ask(netip.MustParseAddr("192.168.1.1"), host, at(0))
		}, time.Second, ""},
		"a client that asks": {func(t *table, at func(time.Duration) time.Time) {
			t.ask(other, host, at(0))
		}, askedLife - time.Millisecond, "asked"},
		"a client that asked": {func(t *table, at func(time.Duration) time.Time) {
			t.ask(vip, host, at(0))
		}, askedLife, ""},
		"the peer asks": {func(t *table, at func(time.Duration) time.Time) {
			t.advert(advert(11, 220), peer, at(0))
			t.ask(vip, peer, at(0))
		}, 500 * time.Millisecond, ""},
	} {
		table, last := newTable(), start
		test.packets(table, func(after time.Duration) time.Time {
			last = start.Add(after)
			table.forget(last)
			return last
		})
		now := start.Add(test.after)
		table.forget(now)
		if got := say(table.routers[0].heard(now)); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// next is when what is known changes, and not later.
func TestNext(t *testing.T) {
	table := newTable()
	table.advert(advert(11, 220), peer, start)
	table.claim(vip, host, start)
	table.ask(vip, host, start)
	table.advert(stray(), host, start.Add(50*time.Millisecond))
	now, was := start, ""
	for steps := 0; ; steps++ {
		next := table.next(now)
		if next.IsZero() {
			break
		}
		if !next.After(now) || steps > 10 {
			t.Fatalf("next is %v at %v", next, now)
		}
		if got := say(table.routers[0].heard(next.Add(-1))); steps > 0 && got != was {
			t.Errorf("%q changed to %q before %v", was, got, next)
		}
		now = next
		table.forget(now)
		was = say(table.routers[0].heard(now))
	}
	if was != "" || now != start.Add(askedLife) {
		t.Errorf("%q at the end, %v", was, now.Sub(start))
	}
	if r := table.routers[0]; len(r.speakers)+len(r.strays)+len(r.claims) > 0 {
		t.Errorf("it is kept: %+v", r)
	}
}

// Whatever a hostile network says, what is kept is bounded, and a peer that goes on
// advertising is not pushed out by those that do not.
func TestBounded(t *testing.T) {
	table := newTable()
	for n := range 10000 {
		now := start.Add(time.Duration(n) * time.Millisecond)
		from := link.MAC{2, 9, byte(n >> 8), byte(n), 0, 9}
		if n%5 == 0 {
			table.advert(advert(11, 220), peer, now)
		}
		a := advert(0, 254)
		a.Source = netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		table.advert(a, from, now)
		table.advert(stray(), from, now)
		table.claim(vip, from, now)
		table.forget(now)
		r := table.routers[0]
		if len(r.speakers) > maxSpeakers || len(r.strays) > maxSpeakers || len(r.claims) > maxClaims {
			t.Fatalf("%d speakers, %d strays, %d claims", len(r.speakers), len(r.strays), len(r.claims))
		}
		if !strings.Contains(say(r.heard(now)), "192.168.1.11:220") {
			t.Fatalf("the peer is lost after %d: %s", n, say(r.heard(now)))
		}
	}
}

// What is known of a router that stays, stays.
func TestWatchKeeps(t *testing.T) {
	table := newTable()
	table.advert(advert(11, 220), peer, start)
	r := table.routers[0].Router
	r.Holds = true
	table.watch([]Router{r, {Name: "more", VRID: 52, Interval: interval, Addresses: []netip.Addr{other}}}, start)
	if got := say(table.routers[0].heard(start)); got != "192.168.1.11:220" {
		t.Errorf("%q", got)
	}
	r.VRID = 53
	table.watch([]Router{r}, start)
	if got := say(table.routers[0].heard(start)); got != "" {
		t.Errorf("another virtual router has %q", got)
	}
}

// Who spoke before the interval changed does not count beside what it says now, which
// would be a mismatch that is none.
func TestSpeakersAreLearntAnewByInterval(t *testing.T) {
	table := newTable()
	r := table.routers[0].Router
	r.Interval = time.Second
	table.watch([]Router{r}, start)
	slow := advert(11, 220)
	slow.Interval = time.Second
	table.advert(slow, peer, start)
	r.Interval = interval
	table.watch([]Router{r}, start)
	table.advert(advert(11, 220), peer, start.Add(interval))
	if got := table.routers[0].heard(start.Add(interval)).Speakers; len(got) != 1 || got[0].Interval != interval {
		t.Errorf("%+v", got)
	}
}

// That nobody is heard says something only after as long as a peer may be silent.
func TestListensWhenAPeerWouldHaveBeenHeard(t *testing.T) {
	table := newTable()
	patience := table.routers[0].patience()
	again := table.routers[0].Router
	again.Holds = true
	slow := again
	slow.Interval = 2 * interval
	for name, test := range map[string]struct {
		before func()
		after  time.Duration
		want   bool
	}{
		"too early":                  {func() {}, patience - 1, false},
		"in time":                    {func() {}, patience, true},
		"what stays stays":           {func() { table.watch([]Router{again}, start.Add(patience)) }, patience, true},
		"another interval":           {func() { table.watch([]Router{slow}, start.Add(patience)) }, patience, false},
		"after it could not listen":  {func() { table.begin(start.Add(patience)) }, patience, false},
		"one that is heard at once":  {func() { table.advert(advert(11, 220), peer, start) }, 0, true},
		"one that was heard at once": {func() { table.advert(advert(11, 220), peer, start) }, patience - 1, true},
	} {
		table = newTable()
		test.before()
		if got := table.routers[0].heard(start.Add(test.after)).Listens; got != test.want {
			t.Errorf("%s: it listens: %v", name, got)
		}
	}
}

// Where nobody advertises, who has an address is a node if it has a node's own, too.
func TestNodesOfARouterThatIsAdvertisedElsewhere(t *testing.T) {
	node := netip.MustParseAddr("192.168.1.11")
	for name, test := range map[string]struct {
		packets func(*table)
		after   time.Duration
		want    string
	}{
		"a host":           {func(t *table) { t.claim(vip, host, start); t.claim(node, peer, start) }, unknown, "192.168.1.100 on 02:00:00:00:00:03"},
		"too early":        {func(t *table) { t.claim(vip, host, start) }, unknown - 1, ""},
		"a node":           {func(t *table) { t.claim(node, peer, start); t.claim(vip, peer, start) }, unknown, ""},
		"a node, told by":  {func(t *table) { t.claim(vip, peer, start); t.claim(node, peer, start) }, unknown, ""},
		"a node that asks": {func(t *table) { t.claim(node, peer, start); t.ask(vip, peer, start) }, 0, ""},
		"a client":         {func(t *table) { t.claim(node, peer, start); t.ask(vip, host, start) }, 0, "asked"},
		"a node that is none any more": {func(t *table) {
			t.claim(node, peer, start)
			r := t.routers[0].Router
			r.Peers = nil
			t.watch([]Router{r}, start)
			t.claim(vip, peer, start)
		}, unknown, "192.168.1.100 on 02:00:00:00:00:02"},
	} {
		table := &table{own: map[link.MAC]bool{mine: true}}
		table.watch([]Router{{Name: "web", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}, Apart: true, Peers: []netip.Addr{node}}}, start)
		test.packets(table)
		if got := say(table.routers[0].heard(start.Add(test.after))); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
