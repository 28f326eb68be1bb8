package keepalived

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// found is what an instance's node has found of a kind.
func (n *node) found(instance string, kind FindingKind) string {
	return first(n.instance(instance).Wire.Findings, kind)
}

// foundNothing fails when a node has found anything in all its time.
func foundNothing(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		for _, e := range n.seen() {
			if e.Instance != nil && len(e.Instance.Wire.Findings) > 0 {
				t.Errorf("%s has found %+v", n.name, e.Instance.Wire.Findings)
				break
			}
		}
	}
}

// beside is web with another node of those addresses.
func beside(c *keepalivedv1.Config, addresses ...string) *keepalivedv1.Config {
	c.Global.Peers = []*keepalivedv1.Peer{{Node: "lb-backup", Network: "front", Addresses: addresses}}
	return c
}

// alone is a node that holds the VIP, and a namespace at the other end of its
// cable.
func alone(t *testing.T, c *keepalivedv1.Config) (a *node, second string) {
	t.Helper()
	first, second := newPair(t)
	a = newNode(t, "lb-master", first)
	a.setHealth(true)
	a.mustApply(c)
	within(t, 10*time.Second, "the VIP is held and listened for", func() bool {
		i := a.instance("web")
		return i.Holds && i.Wire.Listens
	})
	return a, second
}

// What a real keepalived advertises that does not agree is found, with both
// values, and is over when it is.
func TestAdvertMismatch(t *testing.T) {
	t.Parallel()
	two := func(password string) func(string, uint32) *keepalivedv1.Config {
		return func(router string, priority uint32) *keepalivedv1.Config {
			c := web(router, priority)
			i := c.Instances[0]
			i.Version, i.AdvertInterval, i.AuthPassword = 2, durationpb.New(time.Second), password
			return c
		}
	}
	for name, test := range map[string]struct {
		config       func(string, uint32) *keepalivedv1.Config
		anchor, text string
		want         string // empty: they agree
	}{
		"the same": {web, "10.9.0.100/24", "version 3\n advert_int 0.1", ""},
		"the same with a password": {two("secret12"), "10.9.0.100/24",
			"version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass secret12\n }", ""},
		"IPv6":     {web6, "fd09::100/64", "version 3\n advert_int 0.1", ""},
		"version":  {web, "10.9.0.100/24", "version 2\n advert_int 1", "with version 2 and not 3"},
		"interval": {web, "10.9.0.100/24", "version 3\n advert_int 0.5", "with interval 500ms and not 100ms"},
		"destination": {web, "10.9.0.100/24", "version 3\n advert_int 0.1\n unicast_peer {\n  10.9.0.1\n }",
			"with destination unicast and not multicast"},
		"addresses": {web, "10.9.0.101/24", "version 3\n advert_int 0.1", "with addresses [10.9.0.101] and not [10.9.0.100]"},
		"authentication": {two(""), "10.9.0.100/24",
			"version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass secret12\n }", "with authentication by password and not none"},
		"password": {two("secret21"), "10.9.0.100/24",
			"version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass secret12\n }", "with another password than this node's"},
		"one address more": {web, "10.9.0.100/24\n 10.9.0.101/24", "version 3\n advert_int 0.1",
			"with addresses [10.9.0.100 10.9.0.101] and not [10.9.0.100]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, second := alone(t, beside(test.config("lb-master", 234), "10.9.0.2"))
			t.Run("while it runs", func(t *testing.T) {
				startByHand(t, second, test.anchor, test.text)
				within(t, 10*time.Second, "it is heard and judged", func() bool {
					w := a.instance("web").Wire
					return len(w.Advertisers) == 1 && w.Advertisers[0].Priority == 250 && (test.want == "") == (len(w.Findings) == 0)
				})
				w := a.instance("web").Wire
				if node, mac := w.Advertisers[0].Node, w.Advertisers[0].MAC; name != "IPv6" && node != "lb-backup" || mac != macOf(t, second) {
					t.Errorf("it is %q, %s", node, mac)
				}
				if got := a.found("web", FindingMismatch); !strings.HasSuffix(got, test.want) || (got == "") != (test.want == "") ||
					strings.Contains(got, "secret") {
					t.Errorf("found %q, want %q", got, test.want)
				}
			})
			within(t, 10*time.Second, "it is over", func() bool {
				w := a.instance("web").Wire
				return len(w.Advertisers)+len(w.Findings) == 0
			})
		})
	}
}

// A node that advertises the VIP's address as another virtual router does not agree,
// either, though neither hears the other.
func TestAnotherVirtualRouterIDIsAMismatch(t *testing.T) {
	t.Parallel()
	a, second := alone(t, beside(web("lb-master", 230), "10.9.0.2"))
	t.Run("while it runs", func(t *testing.T) {
		startByHand(t, second, "10.9.0.100/24", "virtual_router_id 52\n version 3\n advert_int 0.1")
		const want = "lb-backup (10.9.0.2) advertises [10.9.0.100] with virtual router id 52 and not 51"
		within(t, 10*time.Second, "it is found", func() bool { return a.found("web", FindingMismatch) == want })
		if w := a.instance("web").Wire; len(w.Advertisers) != 0 || w.hearsNode() {
			t.Errorf("it counts as heard: %+v", w)
		}
	})
	within(t, 10*time.Second, "it is over", func() bool { return a.found("web", FindingMismatch) == "" })
}

// A node and an old keepalived with VRRPv2, its password and the profile wan are a pair:
// the better one holds the VIP alone, and the other one takes over.
func TestAnOldPeerWithAPassword(t *testing.T) {
	t.Parallel()
	c := web("lb-master", 230)
	c.Instances[0].Version, c.Instances[0].AdvertInterval, c.Instances[0].AuthPassword = 2, durationpb.New(time.Second), "secret12"
	a, second := alone(t, beside(c, "10.9.0.2"))
	peer := &node{t: t, namespace: second}
	t.Run("while it runs", func(t *testing.T) {
		startByHand(t, second, "10.9.0.100/24", "version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass secret12\n }")
		within(t, 10*time.Second, "the better one holds it alone", func() bool {
			return peer.has("10.9.0.100") && !a.has("10.9.0.100") && a.instance("web").State == InstanceBackup
		})
	})
	within(t, 10*time.Second, "the other one has taken over", func() bool { return a.has("10.9.0.100") && !peer.has("10.9.0.100") })
	if got := a.found("web", FindingMismatch); got != "" {
		t.Errorf("found %q", got)
	}
}

// A keepalived on a machine that is no node is a stranger, whether it sends to the
// group or to this node, from its own link-layer address or the router's.
func TestForeignSpeaker(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"multicast":   "version 3\n advert_int 0.1",
		"version 2":   "version 2\n advert_int 1",
		"unicast":     "version 3\n advert_int 0.1\n unicast_peer {\n  10.9.0.1\n }",
		"virtual MAC": "version 3\n advert_int 0.1\n use_vmac",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, second := alone(t, beside(web("lb-master", 230), "10.9.0.9"))
			t.Run("while it runs", func(t *testing.T) {
				startByHand(t, second, "10.9.0.100/24", text)
				within(t, 5*time.Second, "it is found", func() bool { return a.found("web", FindingForeign) != "" })
				if got := a.found("web", FindingForeign); !strings.HasPrefix(got, "10.9.0.2 (MAC address ") || !strings.Contains(got, "with priority 250 on eth0") {
					t.Errorf("found %q", got)
				}
			})
			within(t, 10*time.Second, "it is over", func() bool { return a.found("web", FindingForeign) == "" })
			noted := false
			for _, e := range a.seen() {
				noted = noted || strings.HasPrefix(e.Note, "VIP web: foreign VRRP speaker: 10.9.0.2 ")
			}
			if !noted {
				t.Error("the node has not noted it")
			}
		})
	}
}

// A host with an address of the VIP is found with its link-layer address, though it
// says nothing by itself.
func TestDuplicateAddress(t *testing.T) {
	t.Parallel()
	for address, config := range map[string]func(string, uint32) *keepalivedv1.Config{"10.9.0.100/24": web, "fd09::100/64": web6} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			a, second := alone(t, config("lb-master", 230))
			ip(t, "-n", second, "address", "add", address, "dev", "eth0", "nodad")
			took := within(t, 20*time.Second, "it is found", func() bool { return a.found("web", FindingDuplicate) != "" })
			plain, _, _ := strings.Cut(address, "/")
			want := fmt.Sprintf("%s is also on the machine with the MAC address %s on eth0, which does not advertise it", plain, macOf(t, second))
			if got := a.found("web", FindingDuplicate); got != want {
				t.Errorf("found %q, want %q", got, want)
			}
			ip(t, "-n", second, "address", "delete", address, "dev", "eth0")
			t.Logf("found in %v, over in %v", took, within(t, 10*time.Second, "it is over", func() bool { return a.found("web", FindingDuplicate) == "" }))
		})
	}
}

// An interface may go and come back, and be another one by the same name.
func TestListensAgain(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	hears := func() bool { return len(b.instance("web").Wire.Advertisers) == 1 }
	within(t, 5*time.Second, "the holder is heard", hears)
	ip(t, "-n", b.namespace, "link", "set", "eth0", "down")
	within(t, 5*time.Second, "nothing is listened to", func() bool { return !b.instance("web").Wire.Listens })
	ip(t, "-n", b.namespace, "link", "set", "eth0", "up")
	within(t, 5*time.Second, "the holder is heard again", hears)
	ip(t, "-n", a.namespace, "link", "delete", "eth0")
	within(t, 5*time.Second, "nothing is listened to", func() bool { return !b.instance("web").Wire.Listens })
	ip(t, "link", "add", "eth0", "netns", a.namespace, "type", "veth", "peer", "name", "eth0", "netns", b.namespace)
	for n, namespace := range []string{a.namespace, b.namespace} {
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		ip(t, "-n", namespace, "link", "set", "eth0", "up")
	}
	within(t, 5*time.Second, "the new interface is listened to", func() bool { return b.instance("web").Wire.Listens })
	startByHand(t, a.namespace, "10.9.0.100/24", "version 3\n advert_int 0.1")
	within(t, 10*time.Second, "somebody is heard there", hears)
}

func TestGateway(t *testing.T) {
	t.Parallel()
	a, second := alone(t, web("lb-master", 230))
	is := func(g wire.Gateway) func() bool { return func() bool { return a.instance("web").Wire.Gateway == g } }
	if !is(wire.GatewayNone)() {
		t.Error("there is none")
	}
	ip(t, "-n", a.namespace, "route", "add", "default", "via", "10.9.0.2")
	within(t, 5*time.Second, "it answers", is(wire.GatewayAnswers))
	ip(t, "-n", second, "link", "set", "eth0", "arp", "off")
	within(t, 10*time.Second, "it is silent", is(wire.GatewaySilent))
	ip(t, "-n", second, "link", "set", "eth0", "arp", "on")
	within(t, 5*time.Second, "it answers again", is(wire.GatewayAnswers))
	ip(t, "-n", a.namespace, "route", "delete", "default")
	within(t, 5*time.Second, "there is none any more", is(wire.GatewayNone))
}

// A stranger that changes its priority with each advertisement is no news.
func TestAStrangersPriorityIsToldOnce(t *testing.T) {
	t.Parallel()
	o := &observer{peers: map[string]peer{"lb-backup": {"eth0": {netip.MustParseAddr("10.9.0.2")}}}}
	i := &instance{vrid: 51, iface: "eth0", over: "eth0", version: 3, advert: time.Second, anchor: netip.MustParsePrefix("10.9.0.100/24")}
	heard := func(from string, priority uint8) wire.Heard {
		return wire.Heard{Listens: true, Speakers: []wire.Speaker{{
			Advert: vrrp.Advert{Source: netip.MustParseAddr(from), Version: 3, VRID: 51, Priority: priority, Interval: time.Second},
		}}}
	}
	first := o.digest(i, &Wire{}, heard("10.9.0.9", 254))
	if got := o.digest(i, &first, heard("10.9.0.9", 1)); !reflect.DeepEqual(got, first) || !strings.Contains(first.Findings[0].Text, "with priority 254") {
		t.Errorf("%+v became %+v", first, got)
	}
	first = o.digest(i, &Wire{}, heard("10.9.0.2", 254))
	if got := o.digest(i, &first, heard("10.9.0.2", 1)); got.Advertisers[0].Priority != 1 {
		t.Errorf("a node's priority is told as %d", got.Advertisers[0].Priority)
	}
}

// Without a carrier for advertisements a node still tells what it knows of the network of
// the addresses, by which one of two holders is chosen. Of an ordinary instance that is
// the same network.
func TestTheAddressesNetworkIsToldOfWithoutTheOther(t *testing.T) {
	o := &observer{}
	h := wire.Heard{MAC: link.MAC{2, 0, 0, 0, 0, 1}, Gateway: wire.GatewaySilent, Asked: true, Reach: wire.ReachMute}
	apart := &instance{name: "web", iface: "eth0", over: "eth2"}
	want := Wire{MAC: "02:00:00:00:00:01", Gateway: wire.GatewaySilent, Asked: true, Reach: wire.ReachMute}
	if got := o.digest(apart, &Wire{}, h); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := o.digest(apart, &Wire{}, wire.Heard{}); !reflect.DeepEqual(got, Wire{}) {
		t.Errorf("neither is listened to: %+v", got)
	}
	ordinary := &instance{name: "web", iface: "eth0", over: "eth0"}
	if got := o.digest(ordinary, &Wire{}, h); !reflect.DeepEqual(got, Wire{Reach: wire.ReachMute}) {
		t.Errorf("an ordinary one: %+v", got)
	}
}

// An agent that had no turn for longer than its peer may be silent hears what that one has
// said meanwhile, before it judges.
func TestAFrozenAgentForgetsNoPeer(t *testing.T) {
	t.Parallel()
	_, b := newCluster(t)
	known := len(b.seen())
	for range 10 {
		for _, step := range []struct {
			sig   unix.Signal
			lasts time.Duration
		}{{unix.SIGSTOP, 700 * time.Millisecond}, {unix.SIGCONT, 300 * time.Millisecond}} {
			if err := unix.Kill(b.agentPID(), step.sig); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			within(t, 5*time.Second, "a while", func() bool { return time.Since(began) > step.lasts })
		}
	}
	forgot := 0
	for _, e := range b.seen()[known:] {
		if e.Instance != nil && len(e.Instance.Wire.Advertisers) == 0 {
			forgot++
		}
	}
	if forgot > 0 {
		t.Errorf("it has forgotten its peer %d times in 10", forgot)
	}
}
