package kernel

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// rig is two load balancers, a and b, and a client on one switch.
type rig struct {
	t     testing.TB
	names map[string]string // of the namespaces
	hosts map[string]*host
	macs  map[string]net.HardwareAddr
}

// host is a machine that is told what to do.
type host struct {
	stdin  *json.Encoder
	stdout *json.Decoder
}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var rigs int

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, names: make(map[string]string), hosts: make(map[string]*host), macs: make(map[string]net.HardwareAddr)}
	rigs++
	for _, name := range []string{"switch", "a", "b", "client"} {
		ns := fmt.Sprintf("tdm-ho-%d-%d-%s", os.Getpid(), rigs, name)
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("needs network namespaces (root): ip netns add: %v: %s", err, out)
		}
		t.Cleanup(func() { run(t, "ip", "netns", "delete", ns) })
		r.names[name] = ns
		run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	run(t, "ip", "-n", r.names["switch"], "link", "add", "br0", "type", "bridge")
	run(t, "ip", "-n", r.names["switch"], "link", "set", "br0", "up")
	for n, name := range []string{"a", "b", "client"} {
		ns := r.names[name]
		run(t, "ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", name, "netns", r.names["switch"])
		run(t, "ip", "-n", r.names["switch"], "link", "set", "dev", name, "master", "br0", "up")
		run(t, "ip", "-n", ns, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		run(t, "ip", "-n", ns, "address", "add", fmt.Sprintf("fd09::%d/64", n+1), "dev", "eth0", "nodad")
		// A tentative link-local address could not ask for others for a second or two.
		run(t, "ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
		run(t, "ip", "-n", ns, "link", "set", "eth0", "up")
		mac, err := net.ParseMAC(strings.TrimSpace(run(t, "ip", "netns", "exec", ns, "cat", "/sys/class/net/eth0/address")))
		if err != nil {
			t.Fatal(err)
		}
		r.macs[name] = mac
		r.start(name)
	}
	return r
}

func (r *rig) start(name string) {
	r.t.Helper()
	// With CAP_PERFMON the kernel takes programs that it would not take from the
	// agent's unit.
	cmd := exec.Command("ip", "netns", "exec", r.names[name],
		"setpriv", "--bounding-set=-all,+bpf,+net_admin,+net_bind_service", os.Args[0])
	cmd.Env = append(os.Environ(), playHost+"="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	r.hosts[name] = &host{json.NewEncoder(stdin), json.NewDecoder(stdout)}
}

// try tells a machine to do something.
func (r *rig) try(name string, o order) answer {
	r.t.Helper()
	if err := r.hosts[name].stdin.Encode(o); err != nil {
		r.t.Fatal(err)
	}
	var a answer
	if err := r.hosts[name].stdout.Decode(&a); err != nil {
		r.t.Fatal(err)
	}
	return a
}

// do tells a machine to do something that must work.
func (r *rig) do(name string, o order) answer {
	r.t.Helper()
	a := r.try(name, o)
	if a.Error != "" {
		r.t.Fatalf("%s: %+v: %s", name, o, a.Error)
	}
	return a
}

// is checks who answers on a connection of the client.
func (r *rig) is(n int, want string) {
	r.t.Helper()
	if a := r.try("client", order{Ask: n}); a.Text != want || a.Error != "" {
		r.t.Errorf("connection %d is answered by %q (%s), want %q", n, a.Text, a.Error, want)
	}
}

// service is an address that a has and both listen on.
type service struct {
	*rig
	vip  netip.Addr
	bits int
}

func newService(t testing.TB, vip string, bits int) *service {
	r := newRig(t)
	s := &service{r, netip.MustParseAddr(vip), bits}
	s.give("a")
	for _, name := range []string{"a", "b"} {
		s.do(name, order{Listen: s.port()})
	}
	return s
}

func (s *service) port() string { return netip.AddrPortFrom(s.vip, 80).String() }

// give adds the address to a machine, and makes it known.
func (s *service) give(name string) {
	run(s.t, "ip", "-n", s.names[name], "address", "add", fmt.Sprintf("%s/%d", s.vip, s.bits), "dev", "eth0", "nodad")
	run(s.t, "ip", "-n", s.names["client"], "neighbor", "flush", "dev", "eth0")
}

func (s *service) take(name string) {
	run(s.t, "ip", "-n", s.names[name], "address", "delete", fmt.Sprintf("%s/%d", s.vip, s.bits), "dev", "eth0")
}

func (s *service) move(from, to string) {
	s.take(from)
	s.give(to)
}

// way says what a machine does; with a peer it forwards to that one.
func (s *service) way(name, peer string, forward time.Duration, all bool) {
	s.t.Helper()
	s.do(name, order{Set: &setting{
		Address: s.vip, Forward: forward, New: !all, All: all, From: s.macs[name], To: s.macs[peer],
	}})
}

// arm makes a and b ready for a move to b.
func (s *service) arm() {
	s.t.Helper()
	s.way("a", "b", 0, false)
	s.way("b", "a", time.Minute, false)
	for _, name := range []string{"a", "b"} {
		s.do(name, order{SetRules: []string{"eth0"}})
		s.do(name, order{Attach: "eth0"})
	}
}

func (s *service) dial(want string) int {
	s.t.Helper()
	a := s.do("client", order{Dial: s.port()})
	if a.Text != want {
		s.t.Errorf("a new connection is answered by %s, want %s", a.Text, want)
	}
	return a.N
}

// reset checks that a connection is ended at once, and not by silence.
func (s *service) reset(n int) {
	s.t.Helper()
	if a := s.try("client", order{Ask: n}); !strings.Contains(a.Error, "reset") || a.Took > time.Second {
		s.t.Errorf("connection %d: %q %s after %s, want a reset", n, a.Text, a.Error, a.Took)
	}
}

// both runs a test for both families.
func both(t *testing.T, test func(s *service)) {
	for family, vip := range map[string]struct {
		address string
		bits    int
	}{"IPv4": {"10.9.0.100", 24}, "IPv6": {"fd09::100", 64}} {
		t.Run(family, func(t *testing.T) { test(newService(t, vip.address, vip.bits)) })
	}
}

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

// What comes late for a connection that is over is answered by the node that closed
// it, though the other one is asked first.
func TestWhatIsOverIsAnswered(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		s.way("a", "b", time.Minute, false)
		over := s.dial("a")
		run(s.t, "ip", "netns", "exec", s.names["client"], "nft", "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c tcp flags & (fin|syn|rst) == 0 tcp flags ack tcp sport 80 drop")
		s.do("client", order{Leave: over}) // its FIN is not acknowledged
		last := func() string {
			return run(s.t, "ip", "netns", "exec", s.names["client"], "ss", "-tanH", "state", "last-ack")
		}
		if last() == "" {
			s.t.Fatal("the client has heard the last acknowledgement")
		}
		run(s.t, "ip", "netns", "exec", s.names["client"], "nft", "delete table inet t")
		for end := time.Now().Add(10 * time.Second); last() != ""; {
			if time.Now().After(end) {
				s.t.Fatal("the client's FIN is not answered")
			}
		}
	})
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

// The forwarding ends by itself, and then clients are told.
func TestForwardingEnds(t *testing.T) {
	both(t, func(s *service) {
		s.arm()
		n := s.dial("a")
		s.way("b", "a", 300*time.Millisecond, false)
		s.move("a", "b")
		s.is(n, "a")
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
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
