package advertfilter

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

// alone gives the test's goroutine a network namespace of its own, which goes with
// it, or skips the test.
func alone(t *testing.T) {
	t.Helper()
	netnstest.Enter(t)
	run(t, "ip", "link", "set", "lo", "up")
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	said, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, said)
	}
	return string(said)
}

// passes tells whether a packet of a protocol arrives over the loopback.
func passes(t *testing.T, protocol int, from string, payload ...byte) bool {
	t.Helper()
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	var me unix.Sockaddr
	if a := netip.MustParseAddr(from); a.Is6() {
		family, to, me = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(net.IPv6loopback)}, &unix.SockaddrInet6{Addr: a.As16()}
	} else {
		me = &unix.SockaddrInet4{Addr: a.As4()}
	}
	receiver, sender := raw(t, family, protocol), raw(t, family, protocol)
	for _, err := range []error{
		unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(sender, me),
		unix.Sendto(sender, append(payload, make([]byte, 32)...), 0, to),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := unix.Recvfrom(receiver, make([]byte, 128), 0)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}

func raw(t *testing.T, family, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_RAW, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func addresses(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func set(t *testing.T, f Filter) {
	t.Helper()
	if err := Set(f); err != nil {
		t.Fatal(err)
	}
}

// Advertisements of a stranger are dropped, in both families and inside an
// authentication header, a peer's and everything else are not.
func TestStrangersAreDropped(t *testing.T) {
	alone(t)
	run(t, "ip", "address", "add", "fd09::1/128", "dev", "lo", "nodad")
	set(t, Filter{Interfaces4: []string{"lo"}, Interfaces6: []string{"lo"}, Sources: addresses("127.0.0.2", "fd09::1")})
	for what, c := range map[string]struct {
		protocol int
		from     string
		payload  byte
		want     bool
	}{
		"IPv4":                         {protocolVRRP, "127.0.0.1", 0, false},
		"IPv4 from a peer":             {protocolVRRP, "127.0.0.2", 0, true},
		"IPv6":                         {protocolVRRP, "::1", 0, false},
		"IPv6 from a peer":             {protocolVRRP, "fd09::1", 0, true},
		"authenticated":                {protocolAH, "127.0.0.1", protocolVRRP, false},
		"authenticated from a peer":    {protocolAH, "127.0.0.2", protocolVRRP, true},
		"something else authenticated": {protocolAH, "127.0.0.1", unix.IPPROTO_TCP, true},
		"another protocol":             {89, "127.0.0.1", 0, true},
	} {
		if got := passes(t, c.protocol, c.from, c.payload); got != c.want {
			t.Errorf("%s: arrives: %v, want %v", what, got, c.want)
		}
	}
	// An interface that is not named hears everybody.
	set(t, Filter{Interfaces4: []string{"eth0"}})
	for _, from := range []string{"127.0.0.1", "::1"} {
		if !passes(t, protocolVRRP, from) {
			t.Errorf("an advertisement from %s is dropped where none is to be", from)
		}
	}
}

// What was let through stays so; the table is there once, comes back when it was
// flushed, goes without a trace, and no other one is touched.
func TestTableIsItsOwn(t *testing.T) {
	alone(t)
	run(t, "nft", "add table inet mine; add chain inet mine input { type filter hook input priority 0; }; add rule inet mine input ip protocol 112 counter")
	mine := run(t, "nft", "list", "table", "inet", "mine")
	f := Filter{Interfaces4: []string{"eth0", "eth1"}, Sources: addresses("10.0.0.1", "fe80::1")}
	set(t, f)
	first := run(t, "nft", "--handle", "list", "table", "inet", TableName)
	set(t, f)
	if again := run(t, "nft", "--handle", "list", "table", "inet", TableName); again != first {
		t.Errorf("the same filter was written again:\n%s%s", first, again)
	}
	f.Sources = addresses("10.0.0.2")
	set(t, f)
	said := run(t, "nft", "list", "table", "inet", TableName)
	for _, want := range []string{"10.0.0.1, 10.0.0.2", "fe80::1", `"eth0"`, `"eth1"`} {
		if !strings.Contains(said, want) {
			t.Errorf("the table lacks %s:\n%s", want, said)
		}
	}
	for _, harm := range []string{"delete table inet " + TableName, "flush chain inet " + TableName + " input"} {
		run(t, "nft", harm)
		set(t, f)
		if said := run(t, "nft", "list", "table", "inet", TableName); strings.Count(said, "drop") != rules || !strings.Contains(said, "10.0.0.2") {
			t.Errorf("after %q the table is not as it was:\n%s", harm, said)
		}
	}
	if now := run(t, "nft", "list", "table", "inet", "mine"); now != mine {
		t.Errorf("another table was touched:\n%s%s", mine, now)
	}
	set(t, Filter{})
	if err := Remove(); err != nil { // once more
		t.Fatal(err)
	}
	if said := run(t, "nft", "list", "tables"); said != "table inet mine\n" {
		t.Errorf("left behind: %s", said)
	}
}

// However many addresses the peers have had, the table does not grow for ever.
// A filter that the kernel does not take leaves none: the older one would drop a peer
// that has told of another address.
func TestNoOlderFilterStays(t *testing.T) {
	alone(t)
	set(t, Filter{Interfaces4: []string{"eth0"}, Sources: addresses("10.9.0.2")})
	var many []netip.Addr
	for i := range 1 << 16 {
		many = append(many, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}))
	}
	if err := Set(Filter{Interfaces4: []string{"eth0"}, Sources: many}); err == nil || errors.Is(err, ErrStale) {
		t.Fatalf("more than a message of the kernel's takes: %v", err)
	}
	if said := run(t, "nft", "list", "tables"); strings.Contains(said, TableName) {
		t.Errorf("there are tables: %s", said)
	}
}

func TestSourcesAreBounded(t *testing.T) {
	alone(t)
	var last netip.Addr
	for i := range maxSources + 1 {
		last = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		if i%64 == 0 || i == maxSources {
			began := time.Now()
			all := make([]netip.Addr, 0, 64)
			for k := range min(64, i+1) {
				all = append(all, netip.AddrFrom4([4]byte{10, 1, byte((i - k) >> 8), byte(i - k)}))
			}
			set(t, Filter{Interfaces4: []string{"eth0"}, Sources: union(all, nil)})
			t.Logf("%d addresses: %v", i, time.Since(began))
		}
	}
	said := run(t, "nft", "list", "table", "inet", TableName)
	if n := strings.Count(said, "10.1."); n > maxSources || !strings.Contains(said, last.String()) {
		t.Errorf("%d addresses, want at most %d, with the newest", n, maxSources)
	}
}
