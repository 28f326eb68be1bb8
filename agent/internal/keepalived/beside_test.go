package keepalived

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whatever has lowered priorities, the lower one of two yields first, by no less than it
// takes to do so.
func TestTheLowerPriorityYieldsFirst(t *testing.T) {
	o := &observer{scores: &scores{healthy: true}}
	yields := func(priority int) time.Duration {
		w := watched{instance: instance{over: "eth1", iface: "eth0", peered: true}}
		w.State, w.Priority = InstanceMaster, priority
		return o.yields(&w)
	}
	for priority := 1; priority <= 254; priority++ {
		got := yields(priority)
		if got < yieldAfter+yieldLater || got > 4*time.Second {
			t.Errorf("with %d it yields after %v", priority, got)
		}
		if below := yields(max(priority-yieldStep, 1)); priority > yieldLowest+yieldStep && got-below < yieldLater {
			t.Errorf("with %d it yields after %v, with %d after %v", priority, got, priority-yieldStep, below)
		}
	}
	o.scores.healthy = false
	if got := yields(254); got != yieldAfter {
		t.Errorf("without a proxy it yields after %v", got)
	}
	for name, w := range map[string]watched{
		"with its advertisements": {instance: instance{over: "eth0", iface: "eth0", peered: true}},
		"alone":                   {instance: instance{over: "eth1", iface: "eth0"}},
	} {
		w.State = InstanceMaster
		if got := o.yields(&w); got != 0 {
			t.Errorf("%s: it yields after %v", name, got)
		}
	}
}

// applyApart has two nodes hold a VIP that is advertised over the network vrrp, the first one now.
func (n *node) applyApart(other *node) {
	n.t.Helper()
	n.mustApply(overVRRP(web("lb-master", 230)))
	within(n.t, 5*time.Second, "the first node holds the VIP", func() bool { return n.has("10.9.0.100") })
	other.mustApply(overVRRP(web("lb-backup", 220)))
	waitMaster(n.t, 5*time.Second, "web", "10.9.0.100", n, other)
	allAsked(n.t, n, other)
}

// newSwitchedApart is newApart with a switch for the advertisements: its ports are vrrp0
// and vrrp1.
func newSwitchedApart(t *testing.T) (sw string, a, b *node) {
	t.Helper()
	sw, a, b = newApart(t)
	ip(t, "-n", sw, "link", "add", "br1", "up", "type", "bridge")
	ip(t, "-n", a.namespace, "link", "delete", "eth1")
	for n, node := range []*node{a, b} {
		port := fmt.Sprintf("vrrp%d", n)
		ip(t, "link", "add", port, "netns", sw, "type", "veth", "peer", "name", "eth1", "netns", node.namespace)
		ip(t, "-n", sw, "link", "set", port, "master", "br1", "up")
		ip(t, "-n", node.namespace, "address", "add", fmt.Sprintf("10.8.0.%d/24", n+1), "dev", "eth1")
		ip(t, "-n", node.namespace, "link", "set", "eth1", "up")
	}
	return sw, a, b
}

// I7: where only the network of the advertisements fails, and both nodes live, one of them
// holds the VIP soon, without a controller, and goes on while that lasts. I8: when that one
// ends, or its proxy does, the other one takes over. When the network is there again they
// are a pair.
func TestI7OneHolderWithoutTheVRRPNetwork(t *testing.T) {
	t.Parallel()
	const nothing, holder, proxy = "nothing", "the holder", "its proxy"
	for name, test := range map[string]struct {
		fail, heal string // of the switch; empty: of the cable
		keeps      int    // the node that holds it then
		ends       string
	}{
		"a cable":                    {"", "", 0, nothing},
		"a cable and the holder":     {"", "", 0, holder},
		"a cable and a proxy":        {"", "", 0, proxy},
		"port of the holder":         {"vrrp0 down", "vrrp0 up", 1, nothing},
		"port of the standby":        {"vrrp1 down", "vrrp1 up", 0, holder},
		"a switch that has carriers": {"vrrp1 nomaster", "vrrp1 master br1", 0, proxy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := newApart
			if test.fail != "" {
				start = newSwitchedApart
			}
			sw, a, b := start(t)
			a.applyApart(b)
			set := func(how, cable string) {
				if how == "" {
					ip(t, "-n", a.namespace, "link", "set", "eth1", cable)
					return
				}
				ip(t, append([]string{"-n", sw, "link", "set"}, strings.Fields(how)...)...)
			}
			keeps, yields := a, b
			if test.keeps == 1 {
				keeps, yields = b, a
			}

			set(test.fail, "down")
			within(t, 3*time.Second, "both hold it", func() bool { return a.has("10.9.0.100") && b.has("10.9.0.100") })
			took := within(t, 10*time.Second, "one keeps itself off it", func() bool {
				return keeps.has("10.9.0.100") && !yields.has("10.9.0.100") && yields.instance("web").Fenced
			})
			t.Logf("one holds it %v after both did", took)
			if told := yields.notes(); !strings.Contains(told, keeps.name+" has it on eth0 as well and is not heard on eth1") {
				t.Errorf("it tells %s", told)
			}
			began := time.Now()
			within(t, 10*time.Second, "longer than a lease", func() bool {
				if !keeps.has("10.9.0.100") || yields.has("10.9.0.100") {
					t.Fatalf("it did not stay so: %+v, %+v", keeps.instance("web"), yields.instance("web"))
				}
				return time.Since(began) > cutLease+guardSlack+time.Second
			})
			switch test.ends {
			case holder:
				keeps.killAgent()
				ip(t, "-n", sw, "link", "set", fmt.Sprintf("port%d", test.keeps), "nomaster")
				keeps.signal(unix.SIGKILL)
				took = within(t, 5*time.Second, "the other one takes over", func() bool { return yields.has("10.9.0.100") })
				t.Logf("the other one holds it %v after its end", took)
				return
			case proxy:
				keeps.setHealth(false)
				took = within(t, 10*time.Second, "the other one takes over", func() bool {
					return yields.has("10.9.0.100") && !keeps.has("10.9.0.100") && keeps.instance("web").Fenced
				})
				t.Logf("the other one holds it alone %v after the end of its proxy", took)
				keeps.setHealth(true)
			}
			set(test.heal, "up")
			waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
			if a.instance("web").Fenced || b.instance("web").Fenced {
				t.Error("one is kept off it still")
			}
		})
	}
}

// I8: a keepalived that is dead, or hangs, beside an agent that is dead leaves the VIP to a
// kernel that answers for it. The other node takes over, and does not yield to that,
// whatever the network loses of its answers.
func TestI8NobodyYieldsToADeadKeepalived(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sig   unix.Signal
		lossy bool
	}{
		"dead":         {unix.SIGKILL, false},
		"hangs":        {unix.SIGSTOP, false},
		"dead by loss": {unix.SIGKILL, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, a, b := newApart(t)
			a.applyApart(b)
			a.killAgent()
			a.signal(test.sig)
			within(t, 5*time.Second, "the other one takes over", func() bool { return b.has("10.9.0.100") })
			within(t, 2*time.Second, "it says so", func() bool { return strings.Contains(b.notes(), "lb-master has it on eth0 as well") })
			if test.lossy {
				loseAnswers(t, b, "eth1")
			}
			began := time.Now()
			within(t, 20*time.Second, "far longer than it takes to yield", func() bool {
				if !a.has("10.9.0.100") || !b.has("10.9.0.100") || b.instance("web").Fenced {
					t.Fatalf("after %v: %+v", time.Since(began), b.instance("web"))
				}
				return time.Since(began) > 5*time.Second
			})
		})
	}
}

// loseAnswers has every fourth ARP answer to a node be lost, the first one included.
func loseAnswers(t *testing.T, n *node, iface string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.namespace, "nft", fmt.Sprintf(
		"add table netdev lossy; add chain netdev lossy in { type filter hook ingress device %s priority 0; }; add rule netdev lossy in arp operation reply numgen inc mod 4 0 drop", iface))
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, said)
	}
}
