package handover

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/handover/kernel"
)

var (
	own   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	other = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

const now = time.Hour

// there is a peer that answered so long ago, and perhaps not since.
func there(ago time.Duration, silent bool) *peer {
	return &peer{node: "lb-backup", own: own, mac: other, seen: now - ago, silent: silent}
}

func TestWayOfEachRole(t *testing.T) {
	forwards := func(until time.Duration, all bool) kernel.Way {
		return kernel.Way{Until: until, All: all, New: !all, From: own, To: other}
	}
	for name, test := range map[string]struct {
		vip     vip
		role    Role
		failing bool
		want    kernel.Way
	}{
		"a standby is armed for a while":       {vip{to: there(time.Second, false)}, Standby, false, forwards(now-time.Second+armed, false)},
		"one whose holder is gone":             {vip{to: there(time.Second, true)}, Standby, false, kernel.Way{New: true}},
		"one that has not asked for long":      {vip{to: there(armed, false)}, Standby, false, kernel.Way{New: true}},
		"one that knows no holder":             {vip{}, Standby, false, kernel.Way{New: true}},
		"one whose holder has never answered":  {vip{to: &peer{}}, Standby, false, kernel.Way{New: true}},
		"a standby without a proxy gives back": {vip{to: there(0, false)}, Standby, true, forwards(now+armed, true)},
		"a holder forwards":                    {vip{to: there(armed, false), until: now + 1}, Holder, false, forwards(now+1, false)},
		"until the previous one is gone":       {vip{to: there(0, true), until: now + 1}, Holder, false, kernel.Way{New: true}},
		"until it is over":                     {vip{to: there(0, false), until: now}, Holder, false, kernel.Way{New: true}},
		"a holder of old does not":             {vip{to: there(0, false)}, Holder, false, kernel.Way{New: true}},
		"a holder keeps what it has":           {vip{to: there(0, false), until: now + 1}, Holder, true, kernel.Way{Until: now + 1, From: own, To: other}},
		"neither takes nothing new":            {vip{to: there(0, false), until: now + 1}, Neither, false, kernel.Way{}},
		"nor one of which nothing is known":    {vip{to: there(0, false), until: now + 1}, Unknown, false, kernel.Way{}},
	} {
		if got := test.vip.way(test.role, !test.failing, now); !got.Equal(test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// newKeeper returns one that has nothing to do with the kernel.
func newKeeper(dir string) *Keeper {
	k := New(Options{RunDir: dir, Logger: hclog.NewNullLogger()})
	k.load()
	return k
}

func web(role Role) []VIP {
	return []VIP{{Name: "web", Interface: "eth0", Timeout: time.Minute, Role: role,
		Peers: map[string][]netip.Addr{"lb-backup": {netip.MustParseAddr("fd09::2"), netip.MustParseAddr("10.9.0.2")}}}}
}

// Only a node that was armed forwards when it becomes the holder: connections that
// are not its own are the previous holder's then, and not of nobody.
func TestForwardingBeginsWithAMove(t *testing.T) {
	for name, test := range map[string]struct {
		roles []Role
		to    *peer
		until time.Duration
	}{
		"from an armed standby":   {[]Role{Standby, Holder}, there(0, false), now + time.Minute},
		"and back":                {[]Role{Standby, Holder, Standby}, there(0, false), 0},
		"and here again":          {[]Role{Standby, Holder, Standby, Holder}, there(0, false), now + time.Minute},
		"from one that is not":    {[]Role{Standby, Holder}, there(0, true), 0},
		"from one without a peer": {[]Role{Standby, Holder}, nil, 0},
		"at the start":            {[]Role{Holder}, there(0, false), 0},
		"after a fault":           {[]Role{Neither, Holder}, there(0, false), 0},
		"to a fault":              {[]Role{Standby, Holder, Neither}, there(0, false), 0},
	} {
		k := newKeeper(t.TempDir())
		for _, role := range test.roles {
			if !k.follow(web(role), now) || k.follow(web(role), now) {
				t.Errorf("%s: a move to %s is not told once", name, role)
			}
			k.vips["web"].to = test.to
		}
		if got := k.vips["web"].until; got != test.until {
			t.Errorf("%s: it forwards until %v, want %v", name, got, test.until)
		}
	}
}

func TestForwardingIsOver(t *testing.T) {
	k := newKeeper(t.TempDir())
	k.follow(web(Standby), now)
	k.vips["web"].to = there(0, false)
	k.follow(web(Holder), now)
	k.follow(web(Holder), now+time.Minute-1)
	if k.vips["web"].until != now+time.Minute {
		t.Error("it is over too early")
	}
	k.follow(web(Holder), now+time.Minute)
	if k.vips["web"].until != 0 {
		t.Error("it is not over")
	}
	k.follow(nil, now)
	if len(k.vips) != 0 {
		t.Error("a VIP that is gone is remembered")
	}
}

// An agent that starts anew goes on with what its predecessor has begun, and with
// nothing that has ended.
func TestForwardingOutlivesTheAgent(t *testing.T) {
	for name, test := range map[string]struct {
		role  Role
		after time.Duration
		until time.Duration
	}{
		"it goes on":        {Holder, time.Second, now + time.Minute},
		"it has ended":      {Holder, time.Minute, 0},
		"the VIP has moved": {Standby, time.Second, 0},
	} {
		dir := t.TempDir()
		k := newKeeper(dir)
		k.follow(web(Standby), now)
		k.vips["web"].to = there(0, false)
		k.follow(web(Holder), now)
		k.saved.Interfaces["eth0"] = true
		if err := k.save(); err != nil {
			t.Fatal(err)
		}
		next := newKeeper(dir)
		next.follow(web(test.role), now+test.after)
		v := next.vips["web"]
		if v.until != test.until || !next.saved.Interfaces["eth0"] {
			t.Errorf("%s: it forwards until %v, interfaces %v", name, v.until, next.saved.Interfaces)
		}
		if way := v.way(test.role, true, now+test.after); (way.Until != 0) != (test.until != 0) || way.Until != 0 && way.To.String() != other.String() {
			t.Errorf("%s: its way is %+v", name, way)
		}
	}
}

// Whatever changes of what the next agent has to know is saved, and nothing else.
func TestChangesAreSaved(t *testing.T) {
	k := newKeeper(t.TempDir())
	k.follow(web(Standby), now)
	k.vips["web"].to = there(0, false)
	for _, change := range []struct {
		what string
		do   func()
		want bool
	}{
		{"the beginning", func() {}, true},
		{"nothing", func() {}, false},
		{"an interface", func() { k.saved.Interfaces["eth0"] = true }, true},
		{"another one", func() { k.saved.Interfaces["eth1"] = true }, true},
		{"one less", func() { delete(k.saved.Interfaces, "eth1") }, true},
		{"rules", func() { k.saved.Rules = true }, true},
		{"a move", func() { k.follow(web(Holder), now) }, true},
		{"another address of the previous holder", func() { k.vips["web"].to.mac = own }, true},
		{"another one of this node", func() { k.vips["web"].to.own = nil }, true},
		{"another address to ask", func() { k.vips["web"].to.at.Interface = "eth1" }, true},
		{"another previous holder", func() { k.vips["web"].to.node = "c" }, true},
		{"another end", func() { k.vips["web"].until++ }, true},
		{"nothing again", func() {}, false},
	} {
		if err := os.Remove(k.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		change.do()
		if err := k.save(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(k.path); (err == nil) != change.want {
			t.Errorf("%s: saved is %v", change.what, err == nil)
		}
	}
}

// Until it is known what this node is for its VIPs, what an earlier agent has left
// goes on untouched.
func TestNothingIsDoneBeforeAllIsKnown(t *testing.T) {
	k := newKeeper(t.TempDir())
	for n, step := range []struct {
		view  View
		ready bool
	}{
		{View{}, false},
		{View{Known: true, VIPs: web(Unknown)}, false},
		{View{Known: true, VIPs: web(Standby)}, true},
		{View{Known: true, VIPs: web(Unknown)}, true}, // keepalived has died
		{View{Known: true}, true},
	} {
		if got := k.ready(step.view); got != step.ready {
			t.Errorf("step %d: ready is %v", n, got)
		}
	}
}

// Who advertises the VIP holds it; without a word of that it is the only other node.
func TestWhoTheHolderIs(t *testing.T) {
	k := newKeeper(t.TempDir())
	for name, test := range map[string]struct {
		peers  []string
		holder string
		want   string
	}{
		"of two nodes":             {[]string{"b"}, "", "b"},
		"of two, and heard":        {[]string{"b"}, "b", "b"},
		"of two, a stranger":       {[]string{"b"}, "x", ""},
		"of three":                 {[]string{"b", "c"}, "", ""},
		"of three, and heard":      {[]string{"b", "c"}, "c", "c"},
		"of one":                   {nil, "", ""},
		"of one that hears itself": {nil, "a", ""},
	} {
		view := &VIP{Interface: "eth0", Holder: test.holder, Peers: make(map[string][]netip.Addr)}
		for n, node := range test.peers {
			view.Peers[node] = []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(n)})}
		}
		got := ""
		if p := k.holderOf(view); p != nil {
			got = p.node
		}
		if got != test.want {
			t.Errorf("%s it is %q, want %q", name, got, test.want)
		}
		clear(k.peers)
	}
}

func TestPeersAreKnownByIPv4First(t *testing.T) {
	k := newKeeper(t.TempDir())
	view := web(Standby)[0]
	view.Peers["lb-third"] = nil
	peers := k.peersOf(&view)
	if len(peers) != 1 || peers[0].at != (host{"eth0", netip.MustParseAddr("10.9.0.2")}) || k.peersOf(&view)[0] != peers[0] {
		t.Errorf("got %+v", peers)
	}
}

// What could not be taken out of the kernel is tried again, by the next agent, too.
func TestRulesThatStayAreRemovedAgain(t *testing.T) {
	dir := t.TempDir()
	refuses, asked := errors.New("no permission"), 0
	keeper := func() *Keeper {
		k := newKeeper(dir)
		k.setRules = func([]string) error { asked++; return refuses }
		return k
	}
	k := keeper()
	if err := k.dismantle(); err != nil || asked != 0 {
		t.Errorf("with nothing there: %v, %d attempts", err, asked)
	}
	k.saved.Rules = true
	if err := k.save(); err != nil {
		t.Fatal(err)
	}
	if err := k.dismantle(); !errors.Is(err, refuses) {
		t.Errorf("dismantled: %v", err)
	}
	if err := k.dismantle(); !errors.Is(err, refuses) || asked != 2 {
		t.Errorf("dismantled again: %v, %d attempts", err, asked)
	}
	refuses = nil
	k = keeper()
	if err := errors.Join(k.dismantle(), k.dismantle()); err != nil || asked != 3 {
		t.Errorf("dismantled by the next agent: %v, %d attempts", err, asked)
	}
}

// A kernel that would not take the program is asked again, and not all the time.
func TestTheKernelIsAskedAgain(t *testing.T) {
	k, asked := newKeeper(t.TempDir()), 0
	k.open = func() (*kernel.Kernel, error) { asked++; return nil, errors.New("cannot allocate memory") }
	step := func(want int) {
		t.Helper()
		if err := k.step(t.Context(), View{Known: true, VIPs: web(Holder)}, true); !errors.Is(err, errUnsupported) || asked != want {
			t.Errorf("%v, asked %d times, want %d", err, asked, want)
		}
	}
	step(1)
	step(1)
	k.broken -= loadEvery
	step(2)
}
