package keepalived

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// newSwitched is a cluster whose nodes are on a switch with their gateway.
func newSwitched(t *testing.T) (a, b *node, middle string) {
	t.Helper()
	middle = newNamespace(t)
	// A bridge that was not told its address takes that of a port.
	ip(t, "-n", middle, "link", "add", "br0", "address", "02:00:00:00:00:08", "type", "bridge")
	ip(t, "-n", middle, "address", "add", "10.9.0.9/24", "dev", "br0")
	ip(t, "-n", middle, "link", "set", "br0", "up")
	var nodes []*node
	for n, name := range []string{"lb-master", "lb-backup"} {
		namespace, port := newNamespace(t), fmt.Sprintf("port%d", n+1)
		ip(t, "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", middle)
		ip(t, "-n", middle, "link", "set", port, "master", "br0", "up")
		ip(t, "netns", "exec", namespace, "sysctl", "--quiet", "--write", "net.ipv6.conf.eth0.accept_dad=0")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		ip(t, "-n", namespace, "link", "set", "eth0", "up")
		ip(t, "-n", namespace, "route", "add", "default", "via", "10.9.0.9")
		nodes = append(nodes, newNode(t, name, namespace))
	}
	a, b = nodes[0], nodes[1]
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		n.setHealth(true)
		n.mustApply(web(n.name, priority))
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	allAsked(t, a, b)
	return a, b, middle
}

// allAsked waits until the nodes have asked everybody by turns.
func allAsked(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		within(t, 5*time.Second, n.name+" has asked who is there", func() bool {
			w := n.instance("web").Wire
			return w.Listens && len(w.Findings) == 0 && w.Reach == wire.ReachBoth
		})
	}
	began := time.Now()
	within(t, 5*time.Second, "a second", func() bool { return time.Since(began) > time.Second })
}

// lose has a node's interface lose all packets of directions: "ingress", "egress".
func (n *node) lose(directions ...string) {
	n.t.Helper()
	for _, d := range directions {
		n.nft(fmt.Sprintf("add table netdev cut; add chain netdev cut %s { type filter hook %s device eth0 priority 0; }; add rule netdev cut %s counter drop", d, d, d))
	}
}

func (n *node) losesNothing() {
	n.t.Helper()
	n.nft("delete table netdev cut")
}

func (n *node) nft(rules string) {
	n.t.Helper()
	if said, err := exec.Command("ip", "netns", "exec", n.namespace, "nft", rules).CombinedOutput(); err != nil {
		n.t.Fatalf("nft: %v: %s", err, said)
	}
}

// I7: a node that is cut off one way, or both, holds no VIP beside the other one, nor
// alone, and comes back with its cable; the controller is not needed for that.
func TestI7ANodeThatIsCutOffHoldsNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		standby    bool
		directions []string
		told       FindingKind
	}{
		"a deaf holder":     {false, []string{"ingress"}, FindingDeaf},
		"a mute holder":     {false, []string{"egress"}, FindingMute},
		"a holder cut off":  {false, []string{"ingress", "egress"}, FindingDeaf},
		"a deaf standby":    {true, []string{"ingress"}, FindingDeaf},
		"a standby cut off": {true, []string{"ingress", "egress"}, FindingDeaf},
		"a mute standby":    {true, []string{"egress"}, FindingMute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, _ := newSwitched(t)
			lost, other := a, b
			if test.standby {
				lost, other = b, a
			}
			lost.lose(test.directions...)
			took := within(t, 10*time.Second, "it is told", func() bool { return lost.found("web", test.told) != "" })
			t.Logf("told after %v", took)
			took += within(t, 10*time.Second, "the other one holds the VIP alone", func() bool {
				return other.has("10.9.0.100") && !lost.has("10.9.0.100") && other.instance("web").State == InstanceMaster
			})
			t.Logf("the other one held it alone after %v", took)
			began := time.Now()
			within(t, 10*time.Second, "longer than a lease", func() bool {
				if !other.has("10.9.0.100") || lost.has("10.9.0.100") {
					t.Fatalf("it did not stay so: %+v", lost.instance("web"))
				}
				return time.Since(began) > cutLease+guardSlack+time.Second
			})
			lost.losesNothing()
			took = waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
			t.Logf("all was well %v after its end", took)
		})
	}
}

// I8: a network that fails for less than the time in which a standby takes over moves
// nothing, and leaves nobody without the VIP.
func TestI8AShortFailureOfTheNetworkMovesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ fail, heal string }{
		"of the switch": {"link set br0 down", "link set br0 up"},
		"of its port":   {"link set port1 nomaster", "link set port1 master br0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, middle := newSwitched(t)
			for n, priority := range map[*node]uint32{a: 230, b: 220} {
				n.mustApply(webOf(n.name, priority, time.Second))
			}
			waitMaster(t, 20*time.Second, "web", "10.9.0.100", a, b)
			allAsked(t, a, b)
			in := func(args string) { ip(t, append([]string{"-n", middle}, strings.Fields(args)...)...) }
			stays := func(limit time.Duration) {
				t.Helper()
				began := time.Now()
				within(t, 20*time.Second, "a while", func() bool {
					if !a.has("10.9.0.100") || b.has("10.9.0.100") {
						t.Fatalf("it has moved: %+v, %+v", a.instance("web"), b.instance("web"))
					}
					return time.Since(began) > limit
				})
			}
			in(test.fail)
			stays(1500 * time.Millisecond)
			in(test.heal)
			stays(5 * time.Second)
		})
	}
}

// I7: a standby that hears nothing is kept off before it would take over, however long it
// would wait.
func TestI7ADeafStandbyTakesNothingOver(t *testing.T) {
	t.Parallel()
	a, b, _ := newSwitched(t)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		n.mustApply(webOf(n.name, priority, time.Second))
	}
	waitMaster(t, 20*time.Second, "web", "10.9.0.100", a, b)
	allAsked(t, a, b)
	b.lose("ingress")
	began := time.Now()
	within(t, 20*time.Second, "longer than it waits", func() bool {
		if b.has("10.9.0.100") {
			t.Fatalf("it has taken over after %v", time.Since(began))
		}
		return time.Since(began) > 6*time.Second
	})
}

// I8: a network that lets no ARP probe through any more, to none of the nodes, has cut
// off none of them.
func TestI8ANetworkWithoutProbesCutsNobodyOff(t *testing.T) {
	t.Parallel()
	loses := func(t *testing.T, a, b *node) {
		t.Helper()
		for _, n := range []*node{a, b} {
			n.nft("add table netdev cut; add chain netdev cut egress { type filter hook egress device eth0 priority 0; }; " +
				"add rule netdev cut egress ether type arp arp saddr ip 0.0.0.0 counter drop")
		}
		began := time.Now()
		within(t, 10*time.Second, "a while", func() bool {
			if !a.has("10.9.0.100") || b.has("10.9.0.100") {
				t.Fatalf("it has moved after %v: %+v, %+v", time.Since(began), a.instance("web").Wire, b.instance("web").Wire)
			}
			return time.Since(began) > 4*time.Second
		})
	}
	t.Run("with the advertisements", func(t *testing.T) {
		t.Parallel()
		a, b, _ := newSwitched(t)
		loses(t, a, b)
	})
	t.Run("beside them", func(t *testing.T) {
		t.Parallel()
		sw, a, b := newApart(t)
		ip(t, "-n", sw, "address", "add", "10.9.0.9/24", "dev", "br0")
		for n, priority := range map[*node]uint32{a: 230, b: 220} {
			ip(t, "-n", n.namespace, "route", "add", "default", "via", "10.9.0.9")
			n.mustApply(overVRRP(web(n.name, priority)))
		}
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
		allAsked(t, a, b)
		loses(t, a, b)
	})
}

// A standby that is mute takes nothing over, and is not kept off: it may have to.
func TestWhoIsUseless(t *testing.T) {
	for name, test := range map[string]struct {
		over  string // what it is advertised on
		state InstanceState
		reach wire.Reach
		spent bool
		want  bool
	}{
		"a deaf holder":                          {"eth0", InstanceMaster, wire.ReachDeaf, false, true},
		"a deaf standby":                         {"eth0", InstanceBackup, wire.ReachDeaf, false, true},
		"a mute holder that is alone":            {"eth0", InstanceMaster, wire.ReachMute, false, false},
		"a mute holder that is heard elsewhere":  {"eth1", InstanceMaster, wire.ReachMute, false, true},
		"a mute standby that is heard elsewhere": {"eth1", InstanceBackup, wire.ReachMute, false, false},
		"one that was kept off for nobody":       {"eth1", InstanceMaster, wire.ReachMute, true, false},
		"one whom nobody can tell":               {"eth0", InstanceMaster, wire.ReachUnknown, false, false},
	} {
		w := watched{
			instance:       instance{name: "web", iface: "eth0", over: test.over, peered: true},
			InstanceStatus: InstanceStatus{State: test.state, Wire: Wire{Reach: test.reach}}, spent: test.spent,
		}
		o := &observer{scores: &scores{}}
		if _, got := o.useless(&w, time.Now()); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// talk has a host send to a node all the time, whether or not that answers.
func talk(t *testing.T, from string, to *node, address string) {
	t.Helper()
	ip(t, "-n", from, "neighbor", "replace", address, "lladdr", macOf(t, to.namespace), "dev", "br0", "nud", "permanent")
	cmd := exec.Command("ip", "netns", "exec", from, "timeout", "60", "bash", "-c", "while sleep 0.1; do echo >/dev/udp/"+address+"/9; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // timeout passes it on
		_ = cmd.Wait()
	})
}

// I8: where both nodes hear hosts and get no answer, one of them holds the VIP in the end.
func TestI8OneOfTwoMuteNodesHoldsTheVIP(t *testing.T) {
	t.Parallel()
	sw, a, b := newApart(t)
	ip(t, "-n", sw, "address", "add", "10.9.0.9/24", "dev", "br0")
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		ip(t, "-n", n.namespace, "route", "add", "default", "via", "10.9.0.9")
		n.mustApply(overVRRP(web(n.name, priority)))
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	allAsked(t, a, b)
	for n, address := range map[*node]string{a: "10.9.0.1", b: "10.9.0.2"} {
		talk(t, sw, n, address)
		n.lose("egress")
	}
	one := func() bool { return a.has("10.9.0.100") != b.has("10.9.0.100") }
	within(t, 5*time.Second, "both keep themselves off", func() bool { return a.instance("web").Fenced && b.instance("web").Fenced })
	took := within(t, 8*time.Second, "one of them holds it", one)
	t.Logf("one of them held it after %v", took)
	began := time.Now()
	held := began // by one of them, the last time; both may come back at once, and will hear each other
	within(t, 30*time.Second, "longer than they keep themselves off", func() bool {
		if one() {
			held = time.Now()
		}
		if time.Since(held) > time.Second {
			t.Fatalf("one of them does not hold it any more: %+v, %+v", a.instance("web"), b.instance("web"))
		}
		return time.Since(began) > 10*time.Second
	})
	for _, n := range []*node{a, b} {
		n.losesNothing()
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
}

// The same where the advertisements go over another network, and are heard still.
func TestI7AHolderWhoseAddressesAreCutOffHoldsNothing(t *testing.T) {
	t.Parallel()
	for name, direction := range map[string]string{"deaf": "ingress", "mute": "egress"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sw, a, b := newApart(t)
			ip(t, "-n", sw, "address", "add", "10.9.0.9/24", "dev", "br0")
			for n, priority := range map[*node]uint32{a: 230, b: 220} {
				ip(t, "-n", n.namespace, "route", "add", "default", "via", "10.9.0.9")
				n.mustApply(overVRRP(web(n.name, priority)))
			}
			waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
			allAsked(t, a, b)
			talk(t, sw, a, "10.9.0.1")
			a.lose(direction)
			took := within(t, 10*time.Second, "the other one holds the VIP alone", func() bool {
				return b.has("10.9.0.100") && !a.has("10.9.0.100") && b.instance("web").State == InstanceMaster
			})
			t.Logf("the other one held it alone after %v", took)
			a.losesNothing()
			took = waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
			t.Logf("all was well %v after its end", took)
		})
	}
}

// I8: a node that has lost its peer, or everybody that it knows of, when that is only
// its peer, holds the VIP.
func TestI8ANodeThatIsAloneIsNotCutOff(t *testing.T) {
	t.Parallel()
	stays := func(t *testing.T, n *node) {
		t.Helper()
		within(t, 5*time.Second, n.name+" holds the VIP", func() bool { return n.has("10.9.0.100") })
		began := time.Now()
		within(t, 10*time.Second, "a while", func() bool {
			if !n.has("10.9.0.100") {
				t.Fatalf("it is kept off: %+v", n.instance("web"))
			}
			return time.Since(began) > 3*time.Second
		})
	}
	t.Run("beside its gateway", func(t *testing.T) {
		t.Parallel()
		_, b, middle := newSwitched(t)
		ip(t, "-n", middle, "link", "set", "port1", "down")
		stays(t, b)
	})
	t.Run("with nobody", func(t *testing.T) {
		t.Parallel()
		a, b := newCluster(t)
		a.lose("ingress", "egress")
		stays(t, b)
		stays(t, a)
	})
}

// I8: what keeps a node off lives no longer than the agent that renews it.
func TestI8ACutEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	a, b, _ := newSwitched(t)
	a.lose("ingress")
	within(t, 10*time.Second, "it is kept off", func() bool { return !a.has("10.9.0.100") && b.has("10.9.0.100") })
	if len(a.guards()) != 1 {
		t.Fatalf("its guards are %v", a.guards())
	}
	if err := unix.Kill(a.agentPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Before its lease could be.
	took := within(t, cutLease-cutEvery, "the fence is over", func() bool {
		return score(t, filepath.Join(a.options.RunDir, "keepalived", "track"), fenceFile("web")) == 0
	})
	t.Logf("over %v after the end of the agent", took)
}

// A holder that has heard another one call itself that tells everybody again as soon as
// that one is gone; keepalived does so after 5 s.
func TestAHolderThatHadARivalAnnouncesItself(t *testing.T) {
	t.Parallel()
	a, b, middle := newSwitched(t)
	b.nft("add table netdev cut; add chain netdev cut in { type filter hook ingress device eth0 priority 0; }; add rule netdev cut in ip protocol vrrp drop")
	within(t, 5*time.Second, "both hold it", func() bool { return a.has("10.9.0.100") && b.has("10.9.0.100") })
	ip(t, "-n", middle, "neighbor", "replace", "10.9.0.100", "lladdr", macOf(t, b.namespace), "dev", "br0", "nud", "stale")
	b.killAgent()
	if err := unix.Kill(b.keepalived()[0], unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	took := within(t, 2*time.Second, "the neighbour believes the holder", func() bool {
		said, err := exec.Command("ip", "-n", middle, "neighbor", "show", "10.9.0.100").CombinedOutput()
		return err == nil && strings.Contains(string(said), macOf(t, a.namespace))
	})
	t.Logf("right after %v", took)
}

// I8: a survivor whose gateway fails over with the other node, as when a rack ends, has
// another machine at the gateway's address, which is not told to anybody. It finds that
// one, and holds the VIP.
func TestI8AGatewayThatIsAnotherMachineCutsNobodyOff(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"of a pair": false, "with the other node": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, middle := newSwitched(t)
			survivor := a
			if ends {
				survivor = b
				ip(t, "-n", middle, "link", "set", "port1", "nomaster")
			}
			ip(t, "-n", middle, "link", "set", "br0", "address", "02:00:00:00:00:09")
			within(t, 3*time.Second, "it holds the VIP", func() bool { return survivor.has("10.9.0.100") })
			began := time.Now()
			within(t, 10*time.Second, "far longer than it takes to be cut off", func() bool {
				if i := survivor.instance("web"); !survivor.has("10.9.0.100") || i.Fenced || i.Wire.Gateway == wire.GatewaySilent {
					t.Fatalf("after %v: %+v", time.Since(began), i)
				}
				return time.Since(began) > 5*time.Second
			})
		})
	}
}
