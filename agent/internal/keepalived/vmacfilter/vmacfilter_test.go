package vmacfilter

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

// alone gives the test's goroutine a network namespace of its own, which goes with
// it, or skips the test.
func alone(t *testing.T) {
	t.Helper()
	netnstest.Enter(t)
	run(t, "ip", "link", "set", "lo", "up")
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	said, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, said)
	}
	return string(said)
}

var vip4, vip6 = netip.MustParseAddr("10.9.0.100"), netip.MustParseAddr("fd09::100")

// set filters devices of these names.
func set(t *testing.T, names ...string) {
	t.Helper()
	var devices []Device
	for _, name := range names {
		v6 := strings.HasPrefix(name, "v6")
		addresses := []netip.Addr{vip4}
		if v6 {
			addresses[0] = vip6
		}
		devices = append(devices, Device{Name: name, MAC: link.VirtualMAC(v6, 51), IPv6: v6, Addresses: addresses})
	}
	if err := Set(devices); err != nil {
		t.Fatal(err)
	}
}

// cable makes a cable between an interface that asks and one that hears it, and returns
// the index of the first.
func cable(t *testing.T, hears string) int {
	t.Helper()
	run(t, "ip", "link", "add", "asks", "type", "veth", "peer", "name", hears)
	for _, name := range []string{"asks", hears} {
		run(t, "sysctl", "-qw", "net.ipv6.conf."+name+".accept_dad=0", "net.ipv6.conf."+name+".accept_ra_from_local=1")
		run(t, "ip", "link", "set", name, "up")
	}
	on, err := net.InterfaceByName("asks")
	if err != nil {
		t.Fatal(err)
	}
	return on.Index
}

// answers tells whether there is an answer to a question of somebody's for an address that
// is on another interface than the one that hears it.
func answers(t *testing.T, on int, from link.MAC) bool {
	t.Helper()
	arp := uint16(unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8) // in network byte order
	fd := socket(t, unix.AF_PACKET, unix.SOCK_DGRAM, int(arp))
	// 10.9.0.50 asks for 10.9.0.1 (RFC 826).
	question := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from[:], []byte{10, 9, 0, 50, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1})
	everybody := &unix.SockaddrLinklayer{Protocol: arp, Ifindex: on, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: on}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Sendto(fd, question, 0, everybody))
	for answer := make([]byte, 64); ; {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		must(t, err)
		if n >= len(question) && answer[7] == 2 { // a reply
			return true
		}
	}
}

// believes tells whether an interface takes a route from a router's advertisement.
func believes(t *testing.T, on int, hears string) bool {
	t.Helper()
	fd := socket(t, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	// It is a router for half an hour (RFC 4861, section 4.2).
	advertisement := []byte{routerAdvertisement, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	all := &unix.SockaddrInet6{Addr: [16]byte(net.IPv6linklocalallnodes), ZoneId: uint32(on)}
	must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255))
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		// Its own address may take a moment.
		if err := unix.Sendto(fd, advertisement, 0, all); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatal(err)
		}
		if strings.Contains(run(t, "ip", "-6", "route", "show", "dev", hears), "default") {
			return true
		}
	}
	return false
}

func socket(t *testing.T, family, kind, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(family, kind, protocol)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Devices of IPv6 that are named answer no questions and believe no router, and those of
// IPv4 do not answer what comes from their own link-layer address, from the moment on at
// which they are there.
func TestDevicesHearOnlyWhatTheyAreThereFor(t *testing.T) {
	alone(t)
	run(t, "ip", "address", "add", "10.9.0.1/32", "dev", "lo")
	set(t, "v6-51-eth0", "v4-51-eth0", "v6-52-eth0")
	for _, test := range []struct {
		name                         string
		anybody, announcer, believes bool
	}{
		{"v6-51-eth0", false, false, false},
		{"v4-51-eth0", true, false, true},
		{"v6-51-eth1", true, true, true},
		{"v6-5", true, true, true},
		{"v6-52-eth0", false, false, false},
	} {
		on := cable(t, test.name)
		for from, want := range map[link.MAC]bool{{2, 0, 0, 0, 0, 50}: test.anybody, link.VirtualMAC(false, 52): test.anybody, link.VirtualMAC(false, 51): test.announcer} {
			if got := answers(t, on, from); got != want {
				t.Errorf("%s answers %s: %v, want %v", test.name, from, got, want)
			}
		}
		if got := believes(t, on, test.name); got != test.believes {
			t.Errorf("%s believes: %v, want %v", test.name, got, test.believes)
		}
		if test.name == "v6-52-eth0" {
			set(t, "v6-51-eth0")
			if !answers(t, on, link.MAC{2, 0, 0, 0, 0, 50}) || !believes(t, on, test.name) {
				t.Error("a device that is named no more hears nothing still")
			}
		}
		run(t, "ip", "link", "delete", "asks")
	}
}

// reported are the types of MLD's messages that come from an interface within a moment of
// what is done.
func reported(t *testing.T, on int, do func()) map[byte]bool {
	t.Helper()
	ip6 := uint16(unix.ETH_P_IPV6<<8&0xff00 | unix.ETH_P_IPV6>>8)
	fd := socket(t, unix.AF_PACKET, unix.SOCK_DGRAM, int(ip6))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip6, Ifindex: on}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))
	do()
	all := make(map[byte]bool)
	for packet := make([]byte, 256); ; {
		n, from, err := unix.Recvfrom(fd, packet, 0)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		// After the fixed header and that of the hops (RFC 8200).
		const after, nextHeader = 48, 6
		if l := from.(*unix.SockaddrLinklayer); n > after && packet[nextHeader] == 0 && l.Pkttype != unix.PACKET_OUTGOING {
			all[packet[after]] = true
		}
	}
}

// query asks all hosts for their groups, as a switch does (RFC 3810, section 5.1).
func query(t *testing.T, on int) {
	t.Helper()
	fd := socket(t, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	routerAlert := []byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}
	must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 1),
		unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, string(routerAlert)))
	question := make([]byte, 28)
	question[0] = 130
	all := &unix.SockaddrInet6{Addr: [16]byte(net.IPv6linklocalallnodes), ZoneId: uint32(on)}
	for deadline := time.Now().Add(time.Second); ; {
		err := unix.Sendto(fd, question, 0, all)
		if err == nil {
			return
		}
		// Its own address and route may take a moment.
		if !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A device says that its address is asked for there, and nothing else of groups: not of one
// that it has left, and not that its machine is a router.
func TestDevicesReportTheirAddressesAlone(t *testing.T) {
	alone(t)
	set(t, "v6-51-eth0")
	for name, want := range map[string]bool{"v6-51-eth0": false, "v6-51-eth1": true} { // what is told beside
		for version, types := range map[string]struct{ report, leave, router byte }{"1": {report1, done1, report1}, "2": {report2, report2, report2}} {
			on := cable(t, name)
			conf := "net.ipv6.conf." + name + "."
			run(t, "ip", "link", "set", name, "down", "addrgenmode", "none")
			run(t, "sysctl", "-qw", conf+"force_mld_version="+version)
			run(t, "ip", "link", "set", name, "up")
			query(t, on)
			add := func() { run(t, "ip", "address", "add", vip6.String()+"/64", "dev", name, "nodad") }
			if got := reported(t, on, func() { add(); query(t, on) })[types.report]; !got {
				t.Errorf("%s, MLDv%s: the address is reported: %v", name, version, got)
			}
			if got := reported(t, on, func() { run(t, "ip", "address", "delete", vip6.String()+"/64", "dev", name) })[types.leave]; got != want {
				t.Errorf("%s, MLDv%s: that it has gone is reported: %v, want %v", name, version, got, want)
			}
			run(t, "sysctl", "-qw", conf+"forwarding=1")
			if got := reported(t, on, func() { query(t, on) })[types.router]; got != want {
				t.Errorf("%s, MLDv%s: the router is reported: %v, want %v", name, version, got, want)
			}
			run(t, "ip", "link", "delete", "asks")
		}
	}
}

// The tables are written when something changes or is missing, go without a trace, and no
// other one is touched.
func TestTablesAreItsOwn(t *testing.T) {
	alone(t)
	const mine = "table arp mine\n"
	run(t, "nft", "add "+mine)
	set(t)
	set(t, "v6-2", "v6-1", "v4-1")
	tables := func() (all string) {
		t.Helper()
		for _, f := range filters {
			all += run(t, "nft", "--handle", "list", "table", f.name, TableName)
		}
		return all
	}
	first := tables()
	plain := make(map[string]string)
	for _, f := range filters {
		plain[f.name] = run(t, "nft", "list", "table", f.name, TableName)
	}
	if set(t, "v4-1", "v6-1", "v6-2"); tables() != first {
		t.Errorf("the same was written again:\n%s%s", first, tables())
	}
	for _, f := range filters {
		for _, harm := range []string{"delete table " + f.name + " " + TableName, "flush chain " + f.name + " " + TableName + " " + f.chains[0].name} {
			run(t, "nft", harm)
			set(t, "v4-1", "v6-1", "v6-2")
			if said := run(t, "nft", "list", "table", f.name, TableName); said != plain[f.name] {
				t.Errorf("after %q the table is not as it was:\n%s", harm, said)
			}
		}
	}
	set(t)
	set(t)
	if said := run(t, "nft", "list", "tables"); said != mine {
		t.Errorf("left behind: %s", said)
	}
}
