package keepalived

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/vmacfilter"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

func TestVirtualDevice(t *testing.T) {
	names := make(map[string]bool)
	for _, test := range []struct {
		v6   bool
		vrid int
		on   string
		want string
	}{
		{false, 51, "eth0", "v4-51-eth0"},
		{true, 51, "eth0", "v6-51-eth0"},
		{false, 255, "bond0.10", "v4-255-bond0.10"},
		{false, 255, "enp129s0f0", "v4-255-4fbda83c"},
		{false, 255, "enp129s0f1", "v4-255-38ba98aa"},
	} {
		got := virtualDevice(test.v6, test.vrid, test.on)
		if got != test.want || len(got) > maxInterfaceName || !virtualDevices.MatchString(got) || names[got] {
			t.Errorf("it is %q, want %q", got, test.want)
		}
		names[got] = true
	}
}

// withVirtualMAC gives the VIPs of a configuration their own.
func withVirtualMAC(c *keepalivedv1.Config) *keepalivedv1.Config {
	for _, i := range c.Instances {
		i.VirtualMac = true
	}
	return c
}

// newSwitch makes two namespaces on a switch, which is a client itself.
func newSwitch(t *testing.T) (client, a, b string) {
	t.Helper()
	client = newNamespace(t)
	ip(t, "-n", client, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	ip(t, "netns", "exec", client, "sysctl", "--quiet", "--write", "net.ipv6.conf.br0.accept_dad=0")
	ip(t, "-n", client, "address", "add", "10.9.0.50/24", "dev", "br0")
	ip(t, "-n", client, "address", "add", "fd09::50/64", "dev", "br0", "nodad")
	ip(t, "-n", client, "link", "set", "br0", "up")
	var names []string
	for n := range 2 {
		namespace, port := newNamespace(t), fmt.Sprintf("port%d", n)
		names = append(names, namespace)
		ip(t, "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", client)
		ip(t, "-n", client, "link", "set", port, "master", "br0", "up")
		ip(t, "netns", "exec", namespace, "sysctl", "--quiet", "--write", "net.ipv6.conf.eth0.accept_dad=0")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("fd09::%d/64", n+1), "dev", "eth0", "nodad")
		ip(t, "-n", namespace, "link", "set", "eth0", "up")
	}
	return client, names[0], names[1]
}

// reaches tells whether a client gets an answer from a VIP: nobody listens there, and
// the holder's kernel says so.
func reaches(client, address string) bool {
	said, _ := exec.Command("ip", "netns", "exec", client, "timeout", "0.2", "bash", "-c", "exec 3<>/dev/tcp/"+address+"/9").CombinedOutput()
	return strings.Contains(string(said), "refused")
}

// knows is the link-layer address that a client has for a VIP.
func knows(t *testing.T, client, address string) string {
	t.Helper()
	said, err := exec.Command("ip", "-n", client, "neighbor", "show", address).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, mac, _ := strings.Cut(string(said), "lladdr ")
	mac, _, _ = strings.Cut(mac, " ")
	return mac
}

// devices of virtual routers that a node has, each with its link-layer address.
func (n *node) devices() string {
	n.t.Helper()
	said, err := exec.Command("ip", "-n", n.namespace, "-brief", "link", "show", "type", "macvlan").Output()
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(said)) {
		words := strings.Fields(line)
		all = append(all, words[0]+" "+words[2])
	}
	return strings.Join(all, ", ")
}

// filters tells whether a node keeps from a device what it is not there for.
func (n *node) filters(device string) bool {
	n.t.Helper()
	said, err := exec.Command("ip", "netns", "exec", n.namespace, "nft", "list", "tables").Output()
	if err != nil {
		n.t.Fatal(err)
	}
	if !strings.Contains(string(said), vmacfilter.TableName) {
		return false
	}
	said, err = exec.Command("ip", "netns", "exec", n.namespace, "nft", "list", "table", "arp", vmacfilter.TableName).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Contains(string(said), device)
}

// setting of a node's kernel.
func (n *node) setting(name string) string {
	n.t.Helper()
	said, err := exec.Command("ip", "netns", "exec", n.namespace, "sysctl", "--values", name).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(said))
}

// A VIP with a virtual MAC address has the same one wherever it is. What a killed
// keepalived leaves is removed, and with the VIP its device goes.
func TestVirtualMAC(t *testing.T) {
	t.Parallel()
	v2 := func(router string, priority uint32) *keepalivedv1.Config {
		c := web(router, priority)
		c.Instances[0].Version, c.Instances[0].AdvertInterval = 2, durationpb.New(time.Second)
		return c
	}
	for name, test := range map[string]struct {
		config func(string, uint32) *keepalivedv1.Config
		device string
		mac    string
	}{
		"IPv4":   {web, "v4-51-eth0@eth0", "00:00:5e:00:01:33"},
		"IPv6":   {web6, "v6-51-eth0@eth0", "00:00:5e:00:02:33"},
		"VRRPv2": {v2, "v4-51-eth0@eth0", "00:00:5e:00:01:33"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, first, second := newSwitch(t)
			a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
			i := test.config("", 1).Instances[0]
			anchor, _, _ := strings.Cut(i.GetAnchor(), "/")
			for n, node := range []*node{a, b} {
				node.setHealth(true)
				node.mustApply(withVirtualMAC(test.config(node.name, uint32(230-10*n))))
				within(t, 5*time.Second, "the first one holds the VIP", func() bool { return a.has(anchor) })
			}
			waitMaster(t, 10*time.Second, "web", anchor, a, b)
			v6 := strings.HasPrefix(test.device, "v6-")
			if !v6 && (a.table() == "" || b.table() == "") {
				t.Error("strangers are let through")
			}
			answers := func(what string) {
				t.Helper()
				took := within(t, 10*time.Second, "clients are answered after "+what, func() bool { return reaches(client, anchor) })
				if got := knows(t, client, anchor); got != test.mac {
					t.Errorf("after %s it has the address %s, want %s", what, got, test.mac)
				}
				t.Logf("answers after %s: %v", what, took)
			}
			answers("the start")
			for _, n := range []*node{a, b} {
				if got := n.devices(); got != test.device+" "+test.mac {
					t.Errorf("the devices of %s are %s", n.name, got)
				}
				if device, _, _ := strings.Cut(test.device, "@"); !n.filters(device) {
					t.Errorf("%s has no filter for %s", n.name, device)
				}
			}
			if a.mustApply(withVirtualMAC(test.config(a.name, 230))) {
				t.Error("the same configuration costs a reload")
			}

			a.setHealth(false)
			waitMaster(t, 10*time.Second, "web", anchor, b, a)
			answers("a move")
			b.signal(unix.SIGKILL)
			within(t, 2*time.Second, "the stale address is removed", func() bool { return !b.has(anchor) })
			a.setHealth(true)
			waitMaster(t, 15*time.Second, "web", anchor, a, b)
			answers("a SIGKILL")
			foundNothing(t, a, b)

			// Nobody is there to remove it.
			b.killAgent()
			for _, pid := range b.keepalived() {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			within(t, 5*time.Second, "keepalived is dead", func() bool { return len(b.keepalived()) == 0 })
			if b.devices() == "" {
				t.Error("the device went with keepalived")
			}
			b.startAgent()
			within(t, 5*time.Second, "the device is removed", func() bool { return b.devices() == "" })

			a.mustApply(&keepalivedv1.Config{Global: &keepalivedv1.Global{RouterId: a.name}})
			if a.devices() != "" || a.filters("") || a.has(anchor) || a.setting("net.ipv4.conf.eth0.arp_ignore") != "0" {
				t.Errorf("what is left of it: %q, %v, %s", a.devices(), a.has(anchor), a.setting("net.ipv4.conf.eth0.arp_ignore"))
			}
		})
	}
}

// It comes and goes with the configuration; the node keeps the VIP but for a moment.
func TestVirtualMACComesAndGoes(t *testing.T) {
	t.Parallel()
	client, first, _ := newSwitch(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	for n, virtual := range []bool{false, true, false, true} {
		c := web(a.name, 230)
		if virtual {
			withVirtualMAC(c)
		}
		a.mustApply(c)
		took := within(t, 5*time.Second, "it holds the VIP", func() bool { return a.has("10.9.0.100") })
		t.Logf("step %d: held after %v", n, took)
		within(t, 5*time.Second, "clients are answered", func() bool { return reaches(client, "10.9.0.100") })
		if got := knows(t, client, "10.9.0.100") == "00:00:5e:00:01:33"; got != virtual {
			t.Errorf("virtual MAC %v, want %v", got, virtual)
		}
		if got := a.devices() != ""; got != virtual {
			t.Errorf("devices %q", a.devices())
		}
	}
}

// A node that loses its cable gives the VIP up, and takes it again with the cable.
func TestVirtualMACWithoutACable(t *testing.T) {
	t.Parallel()
	client, first, second := newSwitch(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, node := range []*node{a, b} {
		node.setHealth(true)
		node.mustApply(withVirtualMAC(web(node.name, uint32(230-10*n))))
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	ip(t, "-n", client, "link", "set", "port0", "down")
	within(t, 2*time.Second, "the VIP has moved", func() bool { return b.has("10.9.0.100") && !a.has("10.9.0.100") })
	ip(t, "-n", client, "link", "set", "port0", "up")
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	within(t, 5*time.Second, "clients are answered", func() bool { return reaches(client, "10.9.0.100") })
	if !reaches(client, "10.9.0.1") {
		t.Error("the node's own address is not reached")
	}
}

// An interface that is made anew below the device tells nobody its own address for the VIP
// either: its settings are new ones.
func TestVirtualMACOnAnInterfaceMadeAnew(t *testing.T) {
	t.Parallel()
	middle, first, _ := newSwitch(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	a.mustApply(withVirtualMAC(web(a.name, 230)))
	within(t, 5*time.Second, "it holds the VIP", func() bool { return a.has("10.9.0.100") })
	a.unplug()
	within(t, 5*time.Second, "it has no interface", func() bool { return a.instance("web").State == InstanceFault })
	ip(t, "link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "port0", "netns", middle)
	ip(t, "-n", middle, "link", "set", "port0", "master", "br0", "up")
	ip(t, "-n", first, "address", "add", "10.9.0.1/24", "dev", "eth0")
	ip(t, "-n", first, "link", "set", "eth0", "up")
	within(t, 20*time.Second, "it holds the VIP", func() bool { return a.has("10.9.0.100") })
	within(t, 20*time.Second, "the interface asks in its own name", func() bool {
		return a.setting("net.ipv4.conf.eth0.arp_announce") == onlyOwn
	})
}

// A node that stands by and forwards lets lie what a switch sends to all nodes.
func TestVirtualMACIsNotForwardedTo(t *testing.T) {
	t.Parallel()
	client, first, second := newSwitch(t)
	ip(t, "-n", client, "link", "set", "br0", "type", "bridge", "ageing_time", "0")
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, node := range []*node{a, b} {
		ip(t, "netns", "exec", node.namespace, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		c := withVirtualMAC(web(node.name, uint32(230-10*n)))
		six := withVirtualMAC(web6(node.name, uint32(230-10*n))).Instances[0]
		six.Name = "web6"
		c.Instances = append(c.Instances, six)
		node.setHealth(true)
		node.mustApply(c)
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	waitMaster(t, 10*time.Second, "web6", "fd09::100", a, b)
	for _, seen := range []string{"add table inet seen", "add chain inet seen out { type filter hook postrouting priority 0; }",
		"add rule inet seen out ip daddr 10.9.0.100 tcp dport 9 counter", "add rule inet seen out ip6 daddr fd09::100 tcp dport 9 counter"} {
		ip(t, "netns", "exec", second, "nft", seen)
	}
	for _, address := range []string{"10.9.0.100", "fd09::100"} {
		within(t, 5*time.Second, "clients are answered", func() bool { return reaches(client, address) })
		for range 10 {
			reaches(client, address)
		}
	}
	said, err := exec.Command("ip", "netns", "exec", second, "nft", "list", "table", "inet", "seen").CombinedOutput()
	if err != nil || strings.Count(string(said), "packets 0") != 2 {
		t.Errorf("what it has forwarded (%v):\n%s", err, said)
	}
}

// An interface that is only called like a device is neither used for one nor filtered.
func TestVirtualMACLeavesOthersInterfacesAlone(t *testing.T) {
	t.Parallel()
	_, first, _ := newSwitch(t)
	for n, name := range []string{"v4-51-eth0", "v6-1-lan"} {
		ip(t, "-n", first, "link", "add", name, "type", "veth", "peer", "name", fmt.Sprintf("end%d", n))
		ip(t, "-n", first, "link", "set", name, "up")
		ip(t, "-n", first, "link", "set", fmt.Sprintf("end%d", n), "up")
	}
	a := newNode(t, "lb-master", first)
	a.killAgent()
	a.options.Networks = map[string]string{"front": "eth0", "lan": "v6-1-lan"}
	a.startAgent()
	a.setHealth(true)
	const want = "VIP web: its device with the virtual MAC address is to be called v4-51-eth0, as an interface of this node is: " +
		"rename that one, or set virtual_mac to false"
	if got := a.apply(withVirtualMAC(web(a.name, 230))); !strings.Contains(got.Error, want) {
		t.Errorf("it says %q, want %q", got.Error, want)
	}
	ip(t, "-n", first, "link", "delete", "v4-51-eth0")
	c := withVirtualMAC(web(a.name, 230))
	on := web(a.name, 230).Instances[0]
	on.Name, on.Anchor, on.Network, on.Vrid = "lan", "10.9.1.100/24", "lan", 52
	c.Instances = append(c.Instances, on)
	a.mustApply(c)
	if !a.filters("v4-51-eth0") || a.filters("v6-1-lan") {
		t.Errorf("filtered: the device %v, somebody's interface %v", a.filters("v4-51-eth0"), a.filters("v6-1-lan"))
	}
}
