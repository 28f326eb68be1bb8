package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a machine's owner has set for marks makes no difference: wg-quick sets the
// first of these, to which every packet to the VIP was one with a wrong sender; by the
// second the answers went to this node itself.
func TestMarksHarmNobody(t *testing.T) {
	for _, sysctl := range []string{
		"net.ipv4.conf.all.src_valid_mark", "net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect",
	} {
		t.Run(sysctl, func(t *testing.T) {
			both(t, func(s *service) {
				for _, name := range []string{"a", "b"} {
					run(s.t, "ip", "netns", "exec", s.names[name], "sysctl", "-qw", sysctl+"=1", "net.ipv4.conf.all.rp_filter=1")
				}
				s.arm()
				n := s.dial("a")
				s.move("a", "b")
				s.is(n, "a")
				s.dial("b")
			})
		})
	}
}

// Rules are on the interfaces that they are wanted on, also after an agent that had
// one for all of them.
func TestRulesAreOfInterfaces(t *testing.T) {
	s := newService(t, "10.9.0.100", 24)
	rules := func() string {
		return run(t, "ip", "-n", s.names["a"], "rule", "show", "priority", "100") + run(t, "ip", "-n", s.names["a"], "-6", "rule", "show", "priority", "100")
	}
	run(t, "ip", "-n", s.names["a"], "rule", "add", "priority", "100", "fwmark", "0x1", "lookup", "main")
	others := rules()
	run(t, "ip", "-n", s.names["a"], "rule", "add", "priority", "100", "fwmark", "0x74646d", "lookup", "7627885")
	for _, want := range [][]string{{"eth0", "eth1"}, {"eth0"}, {"eth1", "eth2"}, {""}} {
		s.do("a", order{SetRules: want})
		got := rules()
		for _, name := range []string{"eth0", "eth1", "eth2"} {
			count := 0
			if slices.Contains(want, name) {
				count = len(families)
			}
			if strings.Count(got, "iif "+name+" ") != count {
				t.Errorf("rules for %q are\n%s", want, got)
			}
		}
		if strings.Contains(got, "fwmark 0x74646d lookup") || want[0] == "" && got != others {
			t.Errorf("rules for %q are\n%s", want, got)
		}
	}
}

// Without a way connections are reset by a move, which the others of these tests
// would hide if they did not see it.
func TestAMoveResetsWithoutAWay(t *testing.T) {
	both(t, func(s *service) {
		n := s.dial("a")
		s.move("a", "b")
		s.reset(n)
		s.dial("b")
	})
}

// Connections stay with the node that they began on, however often the address
// moves, and new ones go to the holder.
func TestConnectionsOutliveMoves(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		first, second := s.dial("a"), s.dial("a")
		s.move("a", "b")
		s.is(first, "a")
		third := s.dial("b")
		s.do("client", order{Drop: second})
		s.way("a", "b", time.Minute, false)
		s.move("b", "a")
		fourth := s.dial("a")
		s.way("b", "a", time.Minute, false)
		s.move("a", "b")
		for n, owner := range map[int]string{first: "a", third: "b", fourth: "a"} {
			s.is(n, owner)
		}
	})
}

// A client uses its port again when the one that it had with it is over, which the
// node that closed it remembers for a minute.
func TestAPortIsUsedAgain(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		s.way("a", "b", time.Minute, false)
		over := s.dial("a")
		s.do("client", order{Leave: over})
		waits := func() string {
			return run(s.t, "ip", "netns", "exec", s.names["a"], "ss", "-tanH", "state", "time-wait")
		}
		if waits() == "" {
			s.t.Fatal("the node that closed the connection has forgotten it")
		}
		s.move("a", "b")
		again := s.do("client", order{Dial: s.port(), From: over}).N
		s.is(again, "b")
		s.move("b", "a")
		s.is(again, "b")
		if waits() == "" {
			s.t.Error("nothing was remembered of the first connection")
		}
	})
}

// What comes late for a connection that is over is answered by the node that closed it,
// whether that has the address still and the other one is asked first, or not any more.
func TestWhatIsOverIsAnswered(t *testing.T) {
	for name, moves := range map[string]bool{"at the holder": false, "at the previous holder": true} {
		t.Run(name, func(t *testing.T) { both(t, func(s *service) { s.isAnsweredLate(moves) }) })
	}
}

// isAnsweredLate has the client's last FIN answered after the address has moved, or not.
func (s *service) isAnsweredLate(moves bool) {
	s.arm()
	s.way("a", "b", time.Minute, false)
	over := s.dial("a")
	client := s.names["client"]
	run(s.t, "ip", "netns", "exec", client, "nft", "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c tcp flags & (fin|syn|rst) == 0 tcp flags ack tcp sport 80 drop")
	s.do("client", order{Leave: over}) // its FIN is not acknowledged
	last := func() string {
		return run(s.t, "ip", "netns", "exec", client, "ss", "-tanH", "state", "last-ack")
	}
	if last() == "" {
		s.t.Fatal("the client has heard the last acknowledgement")
	}
	if moves {
		s.move("a", "b")
	}
	// The other node would answer with a reset, as to what it never had.
	run(s.t, "ip", "netns", "exec", client, "nft", "flush chain inet t c; add rule inet t c tcp flags & rst != 0 tcp sport 80 drop")
	for end := time.Now().Add(10 * time.Second); last() != ""; {
		if time.Now().After(end) {
			s.t.Fatal("the client's FIN is not answered")
		}
	}
}

// Also those whose clients are known by a cookie only, under a flood of SYNs.
func TestNewConnectionsByCookieAreTheHolders(t *testing.T) {
	both(t, func(s *service) {
		for _, name := range []string{"a", "b"} {
			run(s.t, "ip", "netns", "exec", s.names[name], "sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
		}
		s.arm()
		first := s.dial("a")
		s.move("a", "b")
		s.is(first, "a")
		s.is(s.dial("b"), "b")
	})
}

// Fragments are left to the node that has the address: the second one does not tell whose
// connection it is of, and half a packet is of no use to anybody.
func TestFragmentsAreLeftAlone(t *testing.T) {
	s := newService(t, "10.9.0.100", 24)
	router, client := s.names["switch"], s.names["client"]
	// A router on the way whose next link takes less than the client knows.
	run(t, "ip", "-n", router, "address", "add", "10.9.0.254/24", "dev", "br0")
	run(t, "ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0")
	run(t, "ip", "-n", router, "route", "add", "10.9.0.100/32", "dev", "br0", "mtu", "lock", "600")
	run(t, "ip", "netns", "exec", client, "sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=1")
	run(t, "ip", "-n", client, "route", "add", "10.9.0.100/32", "via", "10.9.0.254")
	s.arm()
	s.move("a", "b")
	s.do("client", order{Dial: s.port(), Upload: 1 << 20})
	said := run(t, "ip", "netns", "exec", s.names["b"], "nstat", "-azj", "IpReasmOKs")
	if strings.Contains(said, `"IpReasmOKs":0`) || !strings.Contains(said, `"IpReasmOKs":`) {
		t.Errorf("nothing came in fragments: %s", said)
	}
}

// The forwarding ends by itself, and then clients are told.
func TestForwardingEnds(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		n := s.dial("a")
		s.way("b", "a", 2*time.Second, false)
		s.move("a", "b")
		s.is(n, "a")
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if a := s.try("client", order{Ask: n}); a.Error != "" {
				if !strings.Contains(a.Error, "reset") {
					s.t.Error(a.Error)
				}
				return
			}
		}
		s.t.Error("it goes on")
	})
}

// A previous holder without a proxy sends what is forwarded back, and the holder
// resets it; the same becomes of what neither knows.
func TestWhatNobodyServesIsReset(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		n := s.dial("a")
		s.move("a", "b")
		s.is(n, "a")
		s.way("a", "b", time.Minute, true)
		s.reset(n)

		s.way("a", "b", time.Minute, false)
		s.way("b", "a", 0, false) // it resets the next one, which the client does not hear
		run(s.t, "ip", "netns", "exec", s.names["client"], "nft", "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c tcp flags & rst != 0 drop")
		lost := s.dial("b")
		for _, name := range []string{"a", "b"} {
			run(s.t, "ip", "netns", "exec", s.names[name], "ss", "-K", "sport", "=", ":80")
		}
		run(s.t, "ip", "netns", "exec", s.names["client"], "nft", "delete table inet t")
		s.way("b", "a", time.Minute, false)
		s.reset(lost)
	})
}

// A client that does not know yet that the address has gone is served.
func TestNewConnectionsOfLateClients(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		first := s.dial("a")
		s.take("a") // the client's neighbour entry stays
		s.is(first, "a")
		s.is(s.dial("a"), "a")
		s.way("a", "b", 0, true) // its proxy has died
		if a := s.try("client", order{Dial: s.port()}); a.Error == "" {
			s.t.Errorf("%s takes new connections without a proxy", a.Text)
		}
	})
}

// traces is all that this package leaves on a machine.
func (s *service) traces(name string) string {
	ns := s.names[name]
	rules := run(s.t, "ip", "-n", ns, "rule") + run(s.t, "ip", "-n", ns, "-6", "rule")
	routes := run(s.t, "ip", "-n", ns, "route", "show", "table", "all") + run(s.t, "ip", "-n", ns, "-6", "route", "show", "table", "all")
	return run(s.t, "tc", "-n", ns, "qdisc", "show", "dev", "eth0") + run(s.t, "tc", "-n", ns, "filter", "show", "dev", "eth0", "ingress") + rules + routes
}

func TestNothingIsLeft(t *testing.T) {
	s := newService(t, "10.9.0.100", 24)
	before := s.traces("b")
	for range 2 { // also what is done already, or has never been done
		s.arm()
		if during := s.traces("b"); !strings.Contains(during, "tandem-handover") || !strings.Contains(during, "0x74646d") {
			t.Errorf("it is not there:\n%s", during)
		}
		if a := s.do("b", order{Attached: "eth0"}); a.Text != "true" {
			t.Error("it does not know that it is there")
		}
		for range 2 {
			s.do("b", order{Detach: "eth0"})
			s.do("b", order{SetRules: []string{""}})
		}
		if a := s.do("b", order{Attached: "eth0"}); a.Text != "false" {
			t.Error("it thinks that it is there")
		}
	}
	if after := s.traces("b"); after != before {
		t.Errorf("it leaves\n%s\nbefore it was\n%s", after, before)
	}
	s.do("b", order{Detach: "eth9"}) // an interface that has gone

	// What somebody else has put there stays.
	s.do("b", order{Foreign: "eth0"})
	s.do("b", order{Attach: "eth0"})
	s.do("b", order{Detach: "eth0"})
	if left := run(t, "tc", "-n", s.names["b"], "filter", "show", "dev", "eth0", "egress"); !strings.Contains(left, "somebody-else") {
		t.Errorf("another filter is gone, left is %q", left)
	}
}

func TestLinkAddress(t *testing.T) {
	r := newRig(t)
	for _, address := range []string{"10.9.0.1", "fd09::1"} {
		a := netip.MustParseAddr(address)
		for range 2 { // of one that is not known yet, and of one that is
			if got := r.do("b", order{Find: &a, For: 5 * time.Second}); got.Text != r.macs["a"].String() || got.Took > time.Second {
				t.Errorf("%s is at %s after %s, want %s", a, got.Text, got.Took, r.macs["a"])
			}
		}
	}
	run(t, "ip", "-n", r.names["switch"], "link", "set", "dev", "a", "down")
	for _, address := range []string{"10.9.0.1", "fd09::1", "10.9.0.77"} {
		a := netip.MustParseAddr(address)
		if got := r.try("b", order{Find: &a, For: 200 * time.Millisecond}); !strings.Contains(got.Error, ErrSilent.Error()) {
			t.Errorf("%s is at %q: %s", a, got.Text, got.Error)
		}
	}
}

// Whoever asks again and again does so by one socket, also when nobody answers: but not
// after an error, as an answer may be left in it.
func TestNetworkIsAskedByOneSocket(t *testing.T) {
	r := newRig(t)
	a, nobody := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.77")
	first := r.do("b", order{Find: &a, For: 5 * time.Second}).Socket
	silent := r.try("b", order{Find: &nobody, For: 50 * time.Millisecond}).Socket
	again := r.do("b", order{Find: &a, For: 5 * time.Second}).Socket
	if first == 0 || silent != first || again != first {
		t.Errorf("by the sockets %d, %d and %d", first, silent, again)
	}
	run(t, "ip", "-n", r.names["b"], "link", "set", "dev", "eth0", "down")
	run(t, "ip", "-n", r.names["b"], "link", "set", "dev", "eth0", "name", "eth7")
	if left := r.try("b", order{Find: &a, For: 5 * time.Second}); left.Error == "" || left.Socket != 0 {
		t.Errorf("where the interface is gone: socket %d, %q", left.Socket, left.Error)
	}
	run(t, "ip", "-n", r.names["b"], "link", "set", "dev", "eth7", "name", "eth0")
	run(t, "ip", "-n", r.names["b"], "link", "set", "dev", "eth0", "up")
	if next := r.do("b", order{Find: &a, For: 5 * time.Second}).Socket; next == 0 || next == first {
		t.Errorf("after that by the socket %d, before by %d", next, first)
	}
}
