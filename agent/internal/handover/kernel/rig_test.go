package kernel

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
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
	on   string // the interface that it is on
}

func newService(t testing.TB, vip string, bits int) *service {
	r := newRig(t)
	s := &service{r, netip.MustParseAddr(vip), bits, "eth0"}
	s.give("a")
	for _, name := range []string{"a", "b"} {
		s.do(name, order{Listen: s.port()})
	}
	return s
}

func (s *service) port() string { return netip.AddrPortFrom(s.vip, 80).String() }

// give adds the address to a machine, and makes it known.
func (s *service) give(name string) {
	run(s.t, "ip", "-n", s.names[name], "address", "add", fmt.Sprintf("%s/%d", s.vip, s.bits), "dev", s.on, "nodad", "noprefixroute")
	run(s.t, "ip", "-n", s.names["client"], "neighbor", "flush", "dev", "eth0")
}

func (s *service) take(name string) {
	run(s.t, "ip", "-n", s.names[name], "address", "delete", fmt.Sprintf("%s/%d", s.vip, s.bits), "dev", s.on)
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
		s.do(name, order{SetRules: []string{"eth0", s.on}})
		for _, on := range []string{"eth0", s.on} {
			s.do(name, order{Attach: on})
		}
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
