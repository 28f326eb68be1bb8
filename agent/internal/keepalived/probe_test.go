package keepalived

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// macOf is the link-layer address of eth0 in a namespace.
func macOf(t *testing.T, namespace string) string {
	t.Helper()
	said, err := exec.Command("ip", "-n", namespace, "-oneline", "link", "show", "eth0").CombinedOutput()
	_, rest, found := strings.Cut(string(said), "link/ether ")
	if err != nil || !found {
		t.Fatalf("ip link: %v: %s", err, said)
	}
	return strings.Fields(rest)[0]
}

// web6 is web with a VIP of IPv6.
func web6(router string, priority uint32) *keepalivedv1.Config {
	c := web(router, priority)
	c.Instances[0].Anchor = "fd09::100/64"
	return c
}

// An address that an unknown host has is refused with its MAC address, within
// seconds; the last good configuration stays, and it works when the host is gone.
func TestAddressOfAnUnknownHost(t *testing.T) {
	t.Parallel()
	for family, test := range map[string]struct {
		config         func(string, uint32) *keepalivedv1.Config
		anchor, second string
	}{
		"IPv4": {web, "10.9.0.100/24", "10.9.0.101/24"},
		"IPv6": {web6, "fd09::100/64", "fd09::101/64"},
	} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			first, second := newPair(t)
			ip(t, "-n", second, "address", "add", test.anchor, "dev", "eth0", "nodad")
			ip(t, "-n", second, "address", "add", test.second, "dev", "eth0", "nodad")
			a := newNode(t, "lb-master", first)
			a.killAgent()
			a.options.ProbeInterval = 0 // as in production
			a.startAgent()
			a.setHealth(true)
			refused := func(c *keepalivedv1.Config, address string) {
				t.Helper()
				began := time.Now()
				r := a.apply(c)
				t.Logf("refused in %v: %s", time.Since(began), r.Error)
				address, _, _ = strings.Cut(address, "/")
				want := fmt.Sprintf("%s is in use on eth0 by the machine with the MAC address %s", address, macOf(t, second))
				if r.Kind != "failed" || !strings.Contains(r.Error, want) || r.Reloaded || a.has(address) {
					t.Errorf("%+v, want a failure with %q", r, want)
				}
				// Measured: 0.65 s for IPv4 and 2.4 s for IPv6, whose interface may have
				// to become ready first; other tests share the machine.
				if took := time.Since(began); took > 25*time.Second {
					t.Errorf("refused after %v", took)
				}
			}
			c := test.config("lb-master", 230)
			refused(c, test.anchor)
			if pids := a.keepalived(); pids != nil {
				t.Errorf("keepalived was started: %v", pids)
			}
			ip(t, "-n", second, "address", "delete", test.anchor, "dev", "eth0")
			a.mustApply(c)
			anchor, _, _ := strings.Cut(test.anchor, "/")
			within(t, 5*time.Second, "the VIP is held", func() bool { return a.has(anchor) })
			before := a.keepalived()

			more := proto.CloneOf(c)
			more.Instances[0].Addresses = []string{test.second}
			refused(more, test.second)
			if now := a.keepalived(); len(now) != 2 || now[1] != before[1] || !a.has(anchor) || a.instance("web").State != InstanceMaster {
				t.Errorf("the last good configuration does not serve: %v, %+v", now, a.instance("web"))
			}
			ip(t, "-n", second, "address", "delete", test.second, "dev", "eth0")
			a.mustApply(more)

			// What this node has had is not asked for again.
			ip(t, "-n", second, "address", "add", test.anchor, "dev", "eth0", "nodad")
			more.Instances[0].Priority = 220
			a.mustApply(more)
		})
	}
}

// Whether an address is free is asked once: one that this node has, or may have brought
// up before, is its own, whoever has taken it meanwhile.
func TestAnAddressThatWasHadIsNotAskedFor(t *testing.T) {
	inNamespace(t)
	c := web("lb-master", 230)
	c.Instances[0].Addresses = []string{"10.9.0.101/24"}
	in, err := resolve(c, map[string]string{"front": "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	asked := func(record []place) (addresses []string) {
		t.Helper()
		questions, err := newAddresses(in, record)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range questions {
			addresses = append(addresses, q.Address.String())
		}
		return addresses
	}
	if got, want := asked(nil), []string{"10.9.0.100", "10.9.0.101"}; !slices.Equal(got, want) {
		t.Errorf("of new ones it asks for %v, want %v", got, want)
	}
	if got, want := asked(in.places()[:1]), []string{"10.9.0.101"}; !slices.Equal(got, want) {
		t.Errorf("of one that was had and a new one it asks for %v, want %v", got, want)
	}
	ip(t, "address", "add", "10.9.0.101/24", "dev", "eth0")
	if got := asked(in.places()[:1]); got != nil {
		t.Errorf("of what was had and what is there it asks for %v", got)
	}
}

// A pair is brought up in either order or at the same time, and so is an address
// that one node has before the other.
func TestPairIsNotRefused(t *testing.T) {
	t.Parallel()
	for family, config := range map[string]func(string, uint32) *keepalivedv1.Config{"IPv4": web, "IPv6": web6} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			first, second := newPair(t)
			a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
			a.setHealth(true)
			b.setHealth(true)
			address, _, _ := strings.Cut(config("x", 1).Instances[0].Anchor, "/")
			configs := map[*node]*keepalivedv1.Config{a: config(a.name, 230), b: config(b.name, 220)}
			empty := func(n *node) {
				c := proto.CloneOf(configs[n])
				c.Instances = nil
				n.mustApply(c)
			}
			for _, order := range [][]*node{{a, b}, {b, a}} {
				order[0].mustApply(configs[order[0]])
				within(t, 5*time.Second, "the first one holds the VIP", func() bool { return order[0].has(address) })
				order[1].mustApply(configs[order[1]])
				waitMaster(t, 5*time.Second, "web", address, a, b)
				empty(a)
				empty(b)
			}
			done := make(chan reply, 2)
			for n, c := range configs {
				go func() { done <- n.apply(c) }()
			}
			for range configs {
				if r := <-done; r.Error != "" {
					t.Errorf("at the same time: %s", r.Error)
				}
			}
			waitMaster(t, 5*time.Second, "web", address, a, b)
			for n, c := range configs {
				second := "10.9.0.101/24"
				if family == "IPv6" {
					second = "fd09::101/64"
				}
				c.Instances[0].Addresses = []string{second}
				n.mustApply(c)
			}
			waitMaster(t, 5*time.Second, "web", address, a, b)
		})
	}
}

// A peer with two interfaces on one network answers for the VIP on both, by default, and
// advertises it on one.
func TestPeerWithTwoInterfacesOnOneNetwork(t *testing.T) {
	t.Parallel()
	middle := newNamespace(t)
	ip(t, "-n", middle, "link", "add", "br0", "up", "type", "bridge")
	var nodes []*node
	for n, name := range []string{"lb-master", "lb-backup"} {
		namespace := newNamespace(t)
		for _, eth := range []string{"eth0", "eth1"} {
			port := fmt.Sprintf("%s-%d", eth, n)
			ip(t, "link", "add", port, "netns", middle, "type", "veth", "peer", "name", eth, "netns", namespace)
			ip(t, "-n", middle, "link", "set", port, "master", "br0", "up")
			ip(t, "-n", namespace, "link", "set", eth, "up")
		}
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		node := newNode(t, name, namespace)
		node.setHealth(true)
		nodes = append(nodes, node)
	}
	a, b := nodes[0], nodes[1]
	b.mustApply(web(b.name, 220))
	within(t, 5*time.Second, "the standby holds the VIP", func() bool { return b.has("10.9.0.100") })
	a.mustApply(web(a.name, 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
}

// The peer may still run a file that was written by hand.
func TestPeerThatIsManagedByHand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config func(string, uint32) *keepalivedv1.Config
		text   string
		change func(*keepalivedv1.Instance)
		before func(t *testing.T, namespace string)
		lab    func(t *testing.T) (first, second string)
	}{
		"VRRPv2": {config: web, text: "version 2\n advert_int 1", change: func(i *keepalivedv1.Instance) {
			i.Version, i.AdvertInterval.Seconds, i.AdvertInterval.Nanos = 2, 1, 0
		}},
		"with the virtual router's MAC":             {config: web, text: "version 3\n advert_int 0.1\n use_vmac"},
		"with that and advertisements from its own": {config: web, text: "version 3\n advert_int 0.1\n use_vmac\n vmac_xmit_base"},
		// keepalived holds the VIP and cannot advertise it for a second or two.
		"IPv6 on an interface that has just come up": {config: web6, text: "version 3\n advert_int 0.1", before: unsettle},
		"IPv6 behind a switch that snoops on MLD":    {config: web6, text: "version 3\n advert_int 0.1", lab: newSnooped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.lab == nil {
				test.lab = newPair
			}
			first, second := test.lab(t)
			a := newNode(t, "lb-master", first)
			settled(t, first)
			c := test.config(a.name, 230)
			if test.change != nil {
				test.change(c.Instances[0])
			}
			if test.before != nil {
				test.before(t, second)
			}
			startByHand(t, second, c.Instances[0].Anchor, test.text)
			address, _, _ := strings.Cut(c.Instances[0].Anchor, "/")
			within(t, 10*time.Second, "the peer holds the VIP", func() bool { return (&node{t: t, namespace: second}).has(address) })
			a.mustApply(c)
			within(t, 5*time.Second, "this node stands by", func() bool { return a.instance("web").State == InstanceBackup })
		})
	}
}

// newSnooped makes two namespaces at a switch that sends what goes to a group of
// IPv6 only to who has joined that.
func newSnooped(t *testing.T) (a, b string) {
	t.Helper()
	a, b = newNamespace(t), newNamespace(t)
	middle := newNamespace(t)
	ip(t, "-n", middle, "link", "add", "eth0", "type", "bridge", "mcast_snooping", "1", "mcast_query_response_interval", "10")
	ip(t, "-n", middle, "link", "set", "eth0", "up")
	for n, namespace := range []string{a, b} {
		port := fmt.Sprintf("port%d", n)
		ip(t, "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", middle)
		ip(t, "-n", middle, "link", "set", port, "master", "eth0", "up")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("fd09::%d/64", n+1), "dev", "eth0", "nodad")
		ip(t, "-n", namespace, "link", "set", "eth0", "up")
	}
	// It snoops when it asks for members itself, from its own address.
	settled(t, middle)
	ip(t, "-n", middle, "link", "set", "eth0", "type", "bridge", "mcast_querier", "1")
	return a, b
}

// startByHand starts a keepalived that no agent knows, until the test ends.
func startByHand(t *testing.T, namespace, anchor, text string) {
	t.Helper()
	dir := t.TempDir()
	text = fmt.Sprintf("vrrp_instance VI_1 {\n state MASTER\n interface eth0\n virtual_router_id 51\n priority 250\n %s\n"+
		" virtual_ipaddress {\n  %s\n }\n}\n", text, anchor)
	if err := os.WriteFile(filepath.Join(dir, "keepalived.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	peer := exec.Command("ip", "netns", "exec", namespace, "keepalived", "--dont-fork", "--vrrp", "--log-console", "--no-syslog",
		"--use-file", filepath.Join(dir, "keepalived.conf"), "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp"))
	peer.Stdout = &logWriter{t: t, prefix: "peer"}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = peer.Wait()
	})
}

// settled waits until eth0's link-local address can be sent from: the kernel
// looks for a duplicate of it first.
func settled(t *testing.T, namespace string) {
	t.Helper()
	within(t, 10*time.Second, "eth0 has its link-local address", func() bool {
		said, err := exec.Command("ip", "-n", namespace, "-6", "address", "show", "dev", "eth0", "scope", "link").CombinedOutput()
		return err == nil && strings.Contains(string(said), "fe80:") && !strings.Contains(string(said), "tentative")
	})
}

// unsettle has the kernel look for a duplicate again.
func unsettle(t *testing.T, namespace string) {
	t.Helper()
	settled(t, namespace)
	ip(t, "-n", namespace, "address", "flush", "dev", "eth0", "scope", "link")
	ip(t, "-n", namespace, "address", "add", "fe80::51/64", "dev", "eth0")
}
