package keepalived

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// own is what the agent said last of the node's own addresses on the network, but
// for the link-local one, whose presence is told apart.
func (n *node) own() (addresses []string, linkLocal bool) {
	for _, s := range n.known().Networks {
		for _, a := range s.Addresses {
			if s.Network == "front" && !a.IsLinkLocalUnicast() {
				addresses = append(addresses, a.String())
			}
			linkLocal = linkLocal || a.IsLinkLocalUnicast()
		}
	}
	return addresses, linkLocal
}

// A node's own addresses are told as they come and go, the VIPs it holds are not:
// neither one of this agent, nor one that a former agent's keepalived has.
func TestOwnAddressesAreTold(t *testing.T) {
	t.Parallel()
	namespace, _ := newPair(t)
	n := newNode(t, namespace, namespace)
	wait := func(what string, want ...string) {
		t.Helper()
		within(t, 5*time.Second, what, func() bool {
			got, linkLocal := n.own()
			return slices.Equal(got, want) && linkLocal
		})
	}
	wait("the addresses it has", "10.9.0.1", "fd09::1")
	n.setHealth(true)
	c := web("lb-master", 230)
	c.Instances[0].Addresses = []string{"10.9.0.101/24"}
	n.mustApply(c)
	within(t, 5*time.Second, "the VIP to be here", func() bool { return n.instance("web").Holds && n.has("10.9.0.101") })
	ip(t, "-n", namespace, "address", "add", "10.9.0.7/24", "dev", "eth0")
	wait("a new one, without the VIPs", "10.9.0.1", "10.9.0.7", "fd09::1")
	n.killAgent()
	ip(t, "-n", namespace, "address", "delete", "10.9.0.7/24", "dev", "eth0")
	n.startAgent()
	wait("the same of an agent that has no configuration yet", "10.9.0.1", "fd09::1")
	for _, e := range n.seen() {
		for _, s := range e.networks() {
			if slices.Contains(s.Addresses, netip.MustParseAddr("10.9.0.100")) || slices.Contains(s.Addresses, netip.MustParseAddr("10.9.0.101")) {
				t.Errorf("a VIP was told as the node's own: %v", s)
			}
		}
	}
	ip(t, "-n", namespace, "link", "set", "eth0", "down")
	ip(t, "-n", namespace, "address", "flush", "dev", "eth0")
	within(t, 5*time.Second, "none", func() bool { got, linkLocal := n.own(); return len(got) == 0 && !linkLocal })
}

// networks that an event tells of.
func (e *Event) networks() []NetworkStatus {
	if e.Daemon == nil {
		return nil
	}
	return e.Daemon.Networks
}

// The peers' addresses change nothing that keepalived is told, so that it is not
// reloaded for them.
func TestPeersAreNoReload(t *testing.T) {
	c := web("lb-master", 230)
	c.Global.Peers = nil
	in, err := resolve(c, map[string]string{"front": "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	before := render(in, layout{})
	c.Global.Peers = peersOf("10.9.0.2", "fe80::2")
	if in, err = resolve(c, map[string]string{"front": "eth0"}); err != nil {
		t.Fatal(err)
	}
	if after := render(in, layout{}); string(before) != string(after) || strings.Contains(string(after), "10.9.0.2") {
		t.Errorf("keepalived is told of the peers:\n%s", after)
	}
}

func peersOf(addresses ...string) []*keepalivedv1.Peer {
	return []*keepalivedv1.Peer{{Node: "lb-backup", Network: "front", Addresses: addresses}}
}
