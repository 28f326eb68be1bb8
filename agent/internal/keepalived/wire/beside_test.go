package wire

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

var ownAt = netip.MustParseAddr("192.168.1.10")

// newApart is a table of a node that is to yield after a while, where the other node is known.
func newApart(mac link.MAC, yields time.Duration) *table {
	t := &table{own: map[link.MAC]bool{mac: true}, mac: mac}
	t.watch([]Router{{
		Name: "web", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip, other}, Holds: true,
		Peers: []netip.Addr{nodeAt, ownAt}, Apart: true, Yields: yields,
	}}, start)
	return t
}

// settle has two nodes hold an address that hear each other until one of them yields, as
// long after it is told so as it takes, and returns which of them still have it after a while.
func settle(a, b *table, lag time.Duration, until time.Duration) (first, second bool) {
	nodes, addresses := []*table{a, b}, []netip.Addr{ownAt, nodeAt}
	holds, left := []bool{true, true}, make([]time.Time, 2)
	for n, t := range nodes {
		t.claim(addresses[1-n], nodes[1-n].mac, start)
	}
	for now := start; now.Before(start.Add(until)); now = now.Add(time.Millisecond) {
		for n, t := range nodes {
			r := t.routers[0]
			if due := r.nextBeside(now); !due.IsZero() && !now.Before(due) && r.askBeside(now) != nil && holds[1-n] {
				t.claim(vip, nodes[1-n].mac, now)
			}
			if t.besideOf(r).Yield && left[n].IsZero() {
				left[n] = now.Add(lag)
			}
			if !left[n].IsZero() && !now.Before(left[n]) && t.besideOf(r).Yield {
				holds[n] = false
			}
		}
	}
	return holds[0], holds[1]
}

// Of two nodes that have the addresses one yields: that which is to do so earlier, or with
// the lower link-layer address.
func TestOneOfTwoYields(t *testing.T) {
	for name, test := range map[string]struct {
		first, second time.Duration
		macs          [2]link.MAC
		want          bool // the first one keeps it
	}{
		"the second earlier":           {2 * time.Second, time.Second, [2]link.MAC{mine, peer}, true},
		"the first earlier":            {time.Second, 2 * time.Second, [2]link.MAC{mine, peer}, false},
		"a bit earlier, the lower MAC": {1700 * time.Millisecond, 2 * time.Second, [2]link.MAC{peer, mine}, false},
		"at the same time":             {time.Second, time.Second, [2]link.MAC{mine, peer}, false},
		"at the same time, reversed":   {time.Second, time.Second, [2]link.MAC{peer, mine}, true},
	} {
		a, b := newApart(test.macs[0], test.first), newApart(test.macs[1], test.second)
		if first, second := settle(a, b, 60*time.Millisecond, 5*time.Second); first != test.want || second == test.want {
			t.Errorf("%s: the first has it: %v, the second: %v", name, first, second)
		}
	}
}

// forAll is one that answers for whoever is asked for.
var forAll = link.MAC{2, 0, 0, 0, 0, 0x99}

// Who has the addresses beside this node is told when that lasts, and until it answers no
// more; a stranger is nobody to yield to.
func TestWhoHasTheAddressesBeside(t *testing.T) {
	const yields = time.Second
	for name, test := range map[string]struct {
		answers time.Duration // for how long
		yields  time.Duration
		who     link.MAC
		after   time.Duration
		want    Beside
	}{
		"nobody":                  {0, yields, peer, 5 * time.Second, Beside{}},
		"one that hands over":     {200 * time.Millisecond, yields, peer, 300 * time.Millisecond, Beside{}},
		"one that stays":          {time.Minute, yields, peer, 600 * time.Millisecond, Beside{Node: nodeAt}},
		"one that stays longer":   {time.Minute, yields, peer, 1200 * time.Millisecond, Beside{nodeAt, true}},
		"one that has just gone":  {2 * time.Second, yields, peer, 2*time.Second + 50*time.Millisecond, Beside{nodeAt, true}},
		"one that has gone":       {2 * time.Second, yields, peer, 2*time.Second + 150*time.Millisecond, Beside{}},
		"where nobody looks":      {time.Minute, 0, peer, 5 * time.Second, Beside{}},
		"a stranger":              {time.Minute, yields, host, 5 * time.Second, Beside{}},
		"a gateway for everybody": {time.Minute, yields, forAll, 5 * time.Second, Beside{}},
	} {
		table := newApart(mine, test.yields)
		table.gateway = forAll
		table.claim(nodeAt, peer, start)
		if test.who == forAll { // the node is gone
			table.claim(nodeAt, forAll, start)
		}
		r := table.routers[0]
		asked := 0
		for now := start; now.Before(start.Add(test.after)); now = now.Add(time.Millisecond) {
			if due := r.nextBeside(now); due.IsZero() || now.Before(due) {
				continue
			}
			asked++
			if r.askBeside(now) != nil && now.Sub(start) < test.answers {
				table.claim(vip, test.who, now)
			}
		}
		if got := table.besideOf(r); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
		if quiet := test.want == (Beside{}) && test.answers != 2*time.Second && test.answers != 200*time.Millisecond; quiet && asked > 1 {
			t.Errorf("%s: asked %d times", name, asked)
		}
	}
}

// An agent that had no turn for a while has not missed an answer that waits.
func TestNobodyIsGoneByAPause(t *testing.T) {
	table := newApart(mine, time.Second)
	table.claim(nodeAt, peer, start)
	now := start
	for range 20 {
		if r := table.routers[0]; r.askBeside(now) == nil {
			t.Fatal("it counts as gone")
		}
		now = now.Add(2 * time.Second) // with the answer in the socket
		table.claim(vip, peer, now)
	}
}

// What was heard before this node had the addresses says nothing of who has them since.
func TestWhoHadTheAddressesBefore(t *testing.T) {
	table := newApart(mine, 0)
	table.claim(nodeAt, peer, start)
	table.claim(vip, peer, start)
	routers := []Router{table.routers[0].Router}
	routers[0].Yields = time.Second
	table.watch(routers, start.Add(time.Hour))
	r := table.routers[0]
	if due := r.nextBeside(start.Add(time.Hour)); due.IsZero() || !r.beside.since.IsZero() {
		t.Errorf("%v, %+v", due, r.beside)
	}
}
