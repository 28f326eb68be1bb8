package keepalived

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// overVRRP has a configuration advertise over the network vrrp, with addresses of both
// nodes there.
func overVRRP(c *keepalivedv1.Config) *keepalivedv1.Config {
	c.Instances[0].VrrpNetwork = "vrrp"
	c.Global.Peers = nil
	for n, node := range []string{"lb-master", "lb-backup"} {
		if node != c.Global.RouterId {
			c.Global.Peers = append(c.Global.Peers,
				&keepalivedv1.Peer{Node: node, Network: "front", Addresses: []string{fmt.Sprintf("10.9.0.%d", n+1)}},
				&keepalivedv1.Peer{Node: node, Network: "vrrp", Addresses: []string{fmt.Sprintf("10.8.0.%d", n+1)}})
		}
	}
	return c
}

// newApart starts two nodes on a switch, with a cable of their own beside it for VRRP.
func newApart(t *testing.T) (sw string, a, b *node) {
	t.Helper()
	sw = newNamespace(t)
	ip(t, "-n", sw, "link", "add", "br0", "up", "type", "bridge")
	names := []string{newNamespace(t), newNamespace(t)}
	ip(t, "link", "add", "eth1", "netns", names[0], "type", "veth", "peer", "name", "eth1", "netns", names[1])
	var nodes []*node
	for n, namespace := range names {
		port := fmt.Sprintf("port%d", n)
		ip(t, "link", "add", port, "netns", sw, "type", "veth", "peer", "name", "eth0", "netns", namespace)
		ip(t, "-n", sw, "link", "set", port, "master", "br0", "up")
		for eth, address := range []string{"10.9.0.%d/24", "10.8.0.%d/24"} {
			dev := fmt.Sprintf("eth%d", eth)
			ip(t, "-n", namespace, "address", "add", fmt.Sprintf(address, n+1), "dev", dev)
			ip(t, "-n", namespace, "link", "set", dev, "up")
		}
		node := newNode(t, []string{"lb-master", "lb-backup"}[n], namespace)
		node.restartAgent(func(o *Options) { o.Networks = map[string]string{"front": "eth0", "vrrp": "eth1"} })
		node.setHealth(true)
		nodes = append(nodes, node)
	}
	return sw, nodes[0], nodes[1]
}

// A VIP whose advertisements go over a network of their own moves when its node loses
// the network of the addresses. The nodes know each other there although nobody
// advertises, and a host with the address is found.
func TestVRRPOnANetworkOfItsOwn(t *testing.T) {
	t.Parallel()
	sw, a, b := newApart(t)
	a.mustApply(overVRRP(web("lb-master", 230)))
	within(t, 5*time.Second, "the first node holds the VIP", func() bool { return a.has("10.9.0.100") })
	b.mustApply(overVRRP(web("lb-backup", 220))) // the VIP is the peer's, and nobody else's
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	within(t, 5*time.Second, "the backup hears the holder", func() bool {
		w := b.instance("web").Wire
		return w.Listens && len(w.Advertisers) == 1 && w.Advertisers[0].Node == "lb-master" && w.Advertisers[0].Address.String() == "10.8.0.1"
	})
	if table := a.table(); table == "" {
		t.Error("strangers are let through")
	}

	ip(t, "-n", sw, "link", "set", "port0", "down")
	took := within(t, 2*time.Second, "the VIP has moved", func() bool { return b.has("10.9.0.100") && !a.has("10.9.0.100") })
	t.Logf("moved in %v", took)
	ip(t, "-n", sw, "link", "set", "port0", "up")
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	for _, n := range []*node{a, b} {
		if found := n.instance("web").Wire.Findings; len(found) > 0 {
			t.Errorf("%s finds %v", n.name, found)
		}
		for _, e := range n.seen() {
			if strings.Contains(e.Note, string(FindingDuplicate)) {
				t.Errorf("%s notes: %s", n.name, e.Note)
			}
		}
	}

	ip(t, "-n", sw, "address", "add", "10.9.0.100/24", "dev", "br0")
	within(t, 20*time.Second, "a host with the address is found", func() bool { return a.found("web", FindingDuplicate) != "" })
}

// An address that a host has which is no node is refused there, too.
func TestAddressOfAnUnknownHostBesideVRRP(t *testing.T) {
	t.Parallel()
	sw, a, _ := newApart(t)
	ip(t, "-n", sw, "address", "add", "10.9.0.100/24", "dev", "br0")
	if r := a.apply(overVRRP(web("lb-master", 230))); r.Kind != "failed" || a.has("10.9.0.100") {
		t.Errorf("it is taken: %+v", r)
	}
}

// I8: a cable that only advertisements go over ends with the node at its other end. The
// survivor holds the VIP without a carrier there, as a holder all the time, and is one of
// a pair again when the other node is back.
func TestI8TheVIPOutlivesTheCableOfItsAdvertisements(t *testing.T) {
	t.Parallel()
	for name, holds := range map[string]bool{"the standby ends": true, "the holder ends": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sw, a, b := newApart(t)
			a.mustApply(overVRRP(web("lb-master", 230)))
			within(t, 5*time.Second, "the first node holds the VIP", func() bool { return a.has("10.9.0.100") })
			b.mustApply(overVRRP(web("lb-backup", 220)))
			waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
			survivor, dead, port, left := b, a, "port0", 176
			if holds {
				survivor, dead, port, left = a, b, "port1", 186
			}
			plugged := func(state string) {
				t.Helper()
				ip(t, "-n", dead.namespace, "link", "set", "eth1", state)
				ip(t, "-n", sw, "link", "set", port, state)
			}

			plugged("down")
			took := within(t, 3*time.Second, "the survivor holds it alone", func() bool {
				return survivor.has("10.9.0.100") && !dead.has("10.9.0.100") && isLost(survivor)
			})
			t.Logf("held alone after %v", took)
			began := time.Now()
			within(t, 5*time.Second, "two seconds", func() bool {
				if i := survivor.instance("web"); i.State != InstanceMaster || !survivor.has("10.9.0.100") {
					t.Fatalf("it did not stay so: %+v", i)
				}
				return time.Since(began) > 2*time.Second
			})
			i := survivor.instance("web")
			if i.Priority != left || i.Tracks[0].Name != "network vrrp" || i.Tracks[0].Reason != "interface eth1 has no carrier" {
				t.Errorf("it says %+v, want priority %d", i, left)
			}
			for _, e := range survivor.seen() {
				if e.Transition != nil && (e.Transition.State == InstanceFault || holds && e.Transition.State == InstanceBackup && e.Transition.Priority == left) {
					t.Errorf("the survivor was %+v", *e.Transition)
				}
			}
			plugged("up")
			waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
			within(t, 2*time.Second, "the network is there again", func() bool { return isFound(a) && isFound(b) && trackFileOf(a) == 0 })
		})
	}
}

// I8: an older agent had keepalived give the VIP up with the cable of its advertisements,
// so that nobody held it. The next one has it taken while the cable is away still.
func TestI8AnUpgradeWithoutTheCableOfAdvertisements(t *testing.T) {
	t.Parallel()
	_, a, b := newApart(t)
	older := func(n *node) {
		t.Helper()
		n.killAgent()
		path := filepath.Join(n.options.StateDir, "keepalived", "keepalived.conf")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := strings.Replace(string(text), "    dont_track_primary\n", "", 1)
		if was == string(text) {
			t.Fatalf("it does not say what only the newer one says:\n%s", text)
		}
		if err := os.WriteFile(path, []byte(was), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(n.keepalived()[0], unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		n.mustApply(overVRRP(web(n.name, priority)))
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	older(a)
	older(b)
	ip(t, "-n", b.namespace, "link", "set", "eth1", "down")
	within(t, 5*time.Second, "nobody holds it", func() bool { return !a.has("10.9.0.100") && !b.has("10.9.0.100") })
	a.startAgent()
	if !a.mustApply(overVRRP(web(a.name, 230))) {
		t.Error("the other file was not read")
	}
	took := within(t, 5*time.Second, "it is held", func() bool { return a.has("10.9.0.100") && a.instance("web").State == InstanceMaster })
	t.Logf("held after %v", took)
}
