package kernel

import (
	"fmt"
	"testing"
	"time"
)

// newVirtual makes a service whose address has the virtual router's own link-layer
// address, on both machines, as keepalived does it.
func newVirtual(t *testing.T, vip string, bits int) *service {
	t.Helper()
	s := newService(t, vip, bits)
	s.take("a")
	s.on = "virtual"
	mac := "00:00:5e:00:01:33"
	if s.vip.Is6() {
		mac = "00:00:5e:00:02:33"
	}
	for _, name := range []string{"a", "b"} {
		ns := s.names[name]
		run(t, "ip", "-n", ns, "link", "add", s.on, "link", "eth0", "address", mac, "type", "macvlan", "mode", "private")
		for setting, value := range map[string]int{
			"ipv4/conf/virtual/arp_ignore": 1, "ipv4/conf/virtual/rp_filter": 0, "ipv4/conf/virtual/accept_local": 1,
			"ipv4/conf/eth0/arp_ignore": 1, "ipv4/conf/eth0/arp_filter": 1, "ipv4/conf/all/rp_filter": 0,
		} {
			run(t, "ip", "netns", "exec", ns, "sysctl", "-qw", fmt.Sprintf("net/%s=%d", setting, value))
		}
		run(t, "ip", "-n", ns, "link", "set", s.on, "addrgenmode", "none", "up")
	}
	s.give("a")
	return s
}

// virtual runs a test for both families.
func virtual(t *testing.T, test func(s *service)) {
	t.Run("IPv4", func(t *testing.T) { test(newVirtual(t, "10.9.0.100", 24)) })
	t.Run("IPv6", func(t *testing.T) { test(newVirtual(t, "fd09::100", 64)) })
}

// Connections to a virtual link-layer address stay with the node that they began on.
func TestConnectionsOutliveMovesOfAVirtualMAC(t *testing.T) {
	virtual(t, func(s *service) {
		s.arm()
		first := s.dial("a")
		s.move("a", "b")
		s.is(first, "a")
		second := s.dial("b")
		s.way("a", "b", time.Minute, false)
		s.move("b", "a")
		third := s.dial("a")
		for n, owner := range map[int]string{first: "a", second: "b", third: "a"} {
			s.is(n, owner)
		}
	})
}

// A switch that has forgotten where the virtual link-layer address is sends what is for
// it to all nodes: one that stands by leaves what begins a connection alone, or two
// would answer.
func TestAFloodIsTheHoldersAlone(t *testing.T) {
	virtual(t, func(s *service) {
		s.arm()
		run(s.t, "ip", "-n", s.names["switch"], "link", "set", "br0", "type", "bridge", "ageing_time", "0")
		for range 20 {
			s.is(s.dial("a"), "a")
		}
		s.way("a", "b", time.Minute, false)
		s.move("a", "b")
		for range 20 {
			s.is(s.dial("b"), "b")
		}
	})
}

// Nor does it end connections of the holder, also when nobody has told it for a while
// where that is.
func TestAFloodEndsNoConnection(t *testing.T) {
	virtual(t, func(s *service) {
		s.arm()
		s.way("b", "a", 0, false)
		run(s.t, "ip", "-n", s.names["switch"], "link", "set", "br0", "type", "bridge", "ageing_time", "0")
		n := s.dial("a")
		for range 20 {
			s.is(n, "a")
		}
	})
}
