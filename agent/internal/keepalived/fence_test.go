package keepalived

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

func (n *node) fence(vip string, lease time.Duration) {
	n.t.Helper()
	if r := n.ask(request{Fence: vip, FenceFor: lease}); r.Error != "" {
		n.t.Fatalf("%s: fence: %s", n.name, r.Error)
	}
}

// agentPID is the agent's own: "ip netns exec" becomes it.
func (n *node) agentPID() int { return n.command.Process.Pid }

// guards are the processes that guard fences of this node.
func (n *node) guards() []int { return n.processes(fenceGuard, n.options.RunDir) }

// processes are those that play something, with a file below a directory.
func (n *node) processes(play, dir string) (pids []int) {
	n.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), "\x00"+play+"\x00"+dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// apart is a pair of which each holds the VIP, since neither hears the other.
func apart(t *testing.T) (a, b *node) {
	t.Helper()
	a, b = newCluster(t)
	deafen(t, a, b)
	within(t, 5*time.Second, "both hold it and hear nobody", func() bool {
		one, other := a.instance("web"), b.instance("web")
		return a.has("10.9.0.100") && b.has("10.9.0.100") && other.State == InstanceMaster && !one.Wire.hearsNode() && !other.Wire.hearsNode()
	})
	return a, b
}

// deafen drops what reaches nodes by VRRP before anybody hears it.
func deafen(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		cmd := exec.Command("ip", "netns", "exec", n.namespace, "nft",
			"add table netdev deaf; add chain netdev deaf in { type filter hook ingress device eth0 priority 0; }; add rule netdev deaf in ip protocol vrrp drop")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v: %s", err, said)
		}
	}
}

// A fence takes the VIP from a node, though it hears nobody, and lasts while it is
// renewed and no longer.
func TestFenceIsALease(t *testing.T) {
	t.Parallel()
	a, b := apart(t)
	b.fence("web", 2*time.Second)
	took := within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") && b.instance("web").State == InstanceFault })
	began := time.Now()
	for range 3 {
		within(t, 2*time.Second, "a while has passed", func() bool { return time.Since(began) > 700*time.Millisecond })
		b.fence("web", 2*time.Second)
		began = time.Now()
		if b.has("10.9.0.100") || !b.instance("web").Fenced {
			t.Fatalf("it holds the VIP: %+v", b.instance("web"))
		}
	}
	lasted := within(t, 10*time.Second, "it holds the VIP again", func() bool { return b.has("10.9.0.100") })
	if lasted < 1900*time.Millisecond {
		t.Errorf("the fence was over after %v", lasted)
	}
	if b.instance("web").Fenced || !a.has("10.9.0.100") {
		t.Errorf("%+v", b.instance("web"))
	}
	t.Logf("let go in %v, over in %v", took, lasted)
	// And at once when nobody needs it.
	b.fence("web", MaxFence)
	within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") })
	b.fence("web", 0)
	within(t, 2*time.Second, "it holds the VIP again", func() bool { return b.has("10.9.0.100") })
	if r := b.ask(request{Fence: "mail", FenceFor: time.Second}); !strings.Contains(r.Error, "no such VIP") {
		t.Errorf("another VIP: %q", r.Error)
	}
	if r := b.ask(request{Fence: "web", FenceFor: time.Hour}); !strings.Contains(r.Error, "must be 0s to 10s") {
		t.Errorf("an hour: %q", r.Error)
	}
}

// I8: a fence does not outlive the agent, whether that is killed, hangs or ends, nor
// keepalived; and the guard goes, too.
func TestI8FenceEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end   func(*node)
		lease time.Duration
		limit time.Duration
	}{
		// Before the lease could.
		"killed": {(*node).killAgent, MaxFence, MaxFence / 2},
		"ends":   {(*node).endAgent, MaxFence, MaxFence / 2},
		"hangs": {func(n *node) {
			if err := unix.Kill(n.agentPID(), unix.SIGSTOP); err != nil {
				n.t.Fatal(err)
			}
		}, 3 * time.Second, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, b := apart(t)
			b.fence("web", test.lease)
			within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") })
			if got := b.guards(); len(got) != 1 {
				t.Fatalf("guards %v", got)
			}
			test.end(b)
			took := within(t, test.limit, "the VIP is held again", func() bool { return b.has("10.9.0.100") })
			within(t, 5*time.Second, "no guard is left", func() bool { return len(b.guards()) == 0 })
			t.Logf("over in %v", took)
		})
	}
	t.Run("keepalived killed", func(t *testing.T) {
		t.Parallel()
		_, b := apart(t)
		b.fence("web", MaxFence)
		within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") })
		b.signal(unix.SIGKILL)
		within(t, 5*time.Second, "the VIP is held again", func() bool { return b.has("10.9.0.100") })
	})
	t.Run("agent and guard killed", func(t *testing.T) {
		t.Parallel()
		_, b := apart(t)
		b.fence("web", MaxFence)
		within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") })
		for _, pid := range b.guards() {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		b.killAgent()
		if b.has("10.9.0.100") {
			t.Error("nobody has ended the fence, and it is over")
		}
		b.startAgent()
		within(t, 5*time.Second, "the VIP is held again", func() bool { return b.has("10.9.0.100") })
	})
}

// I8: where no guard can be had there is no fence.
func TestI8WithoutAGuardThereIsNoFence(t *testing.T) {
	t.Parallel()
	_, b := apart(t)
	b.restartAgent(withoutGuards)
	b.mustApply(web(b.name, 220))
	within(t, 5*time.Second, "it holds the VIP", func() bool { return b.instance("web").State == InstanceMaster })
	if r := b.ask(request{Fence: "web", FenceFor: MaxFence}); !strings.Contains(r.Error, "no guard for a fence") {
		t.Errorf("it says %q", r.Error)
	}
	if !b.has("10.9.0.100") || score(t, filepath.Join(b.options.RunDir, "keepalived", "track"), fenceFile("web")) != 0 {
		t.Errorf("it is fenced: %+v", b.instance("web"))
	}
}

// A guard that hangs holds up neither the fence, which gets another one, nor the
// agent's end, which ends the fence itself.
func TestAGuardThatHangs(t *testing.T) {
	t.Parallel()
	_, b := apart(t)
	hang := func() (pid int) {
		pids := b.guards()
		if len(pids) != 1 {
			t.Fatalf("guards %v", pids)
		}
		if err := unix.Kill(pids[0], unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Kill(pids[0], unix.SIGKILL) })
		return pids[0]
	}
	b.fence("web", MaxFence)
	within(t, time.Second, "it has let go", func() bool { return !b.has("10.9.0.100") })
	first := hang()
	b.fence("web", MaxFence)
	if now := b.guards(); len(now) != 1 || now[0] == first || b.has("10.9.0.100") || !b.instance("web").Fenced {
		t.Fatalf("guards %v after %d, %+v", now, first, b.instance("web"))
	}
	hang()
	b.endAgent()
	within(t, 5*time.Second, "the VIP is held again", func() bool { return b.has("10.9.0.100") })
	within(t, time.Second, "no guard is left", func() bool { return len(b.guards()) == 0 })
}

// A node that has heard the survivor since its fence began takes over at once when that is
// silent, however long the lease is.
func TestFenceEndsWithTheSurvivor(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	b.fence("web", MaxFence)
	within(t, time.Second, "it is out", func() bool { return b.instance("web").State == InstanceFault })
	began := time.Now()
	within(t, 2*time.Second, "the survivor has advertised", func() bool { return time.Since(began) > 300*time.Millisecond })
	b.fence("web", MaxFence) // renewed
	a.killAgent()            // or it would start another keepalived
	a.signal(unix.SIGSTOP)
	t.Cleanup(func() {
		for _, pid := range a.keepalived() {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
	})
	took := within(t, 3*time.Second, "it has taken over", func() bool { return b.has("10.9.0.100") })
	t.Logf("taken over in %v", took)
}

// An announcement corrects what another machine believes.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(string, uint32) *keepalivedv1.Config{"IPv4": web, "IPv6": web6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config("lb-master", 230)
			c.Global.Peers = nil // or the agent replaces a keepalived that hangs
			a, second := alone(t, c)
			a.signal(unix.SIGSTOP) // it announces its VIPs itself, some seconds later once more
			t.Cleanup(func() { a.signal(unix.SIGCONT) })
			address, _, _ := strings.Cut(config("x", 1).Instances[0].Anchor, "/")
			ip(t, "-n", second, "neighbor", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
			within(t, 3*time.Second, "the entry is right", func() bool {
				if r := a.ask(request{Announce: "web"}); r.Error != "" {
					t.Fatal(r.Error)
				}
				said, err := exec.Command("ip", "-n", second, "neighbor", "show", address).CombinedOutput()
				return err == nil && strings.Contains(string(said), macOf(t, a.namespace))
			})
			if r := a.ask(request{Announce: "mail"}); !strings.Contains(r.Error, "no such VIP") {
				t.Errorf("another VIP: %q", r.Error)
			}
		})
	}
}

// I7: a node that loses a VIP while it announces it does not draw clients from who has
// it then.
func TestI7AnAnnouncementEndsWithTheVIP(t *testing.T) {
	t.Parallel()
	a, second := alone(t, web("lb-master", 230))
	a.signal(unix.SIGSTOP) // or it would take the address back
	t.Cleanup(func() { a.signal(unix.SIGCONT) })
	believes := func(mac string) bool {
		said, err := exec.Command("ip", "-n", second, "neighbor", "show", "10.9.0.100").CombinedOutput()
		return err == nil && strings.Contains(string(said), mac)
	}
	const elsewhere = "02:00:00:00:00:99"
	move := func() {
		ip(t, "-n", second, "neighbor", "replace", "10.9.0.100", "lladdr", elsewhere, "dev", "eth0", "nud", "stale")
	}
	move()
	answered := make(chan reply, 1)
	go func() { answered <- a.ask(request{Announce: "web"}) }()
	within(t, 5*time.Second, "the first announcement", func() bool { return believes(macOf(t, a.namespace)) })
	ip(t, "-n", a.namespace, "address", "delete", "10.9.0.100/24", "dev", "eth0")
	move()
	if r := <-answered; !strings.Contains(r.Error, ErrNotHeld.Error()) {
		t.Errorf("it says %q", r.Error)
	}
	if !believes(elsewhere) {
		t.Error("it has drawn clients to itself without the VIP")
	}
}

// A holder that fell silent before a fence began is not one that has fallen silent since:
// what was heard of it a moment before ends no fence.
func TestAHolderHeardBeforeTheFenceDoesNotEndIt(t *testing.T) {
	t.Parallel()
	_, b := newCluster(t)
	within(t, 5*time.Second, "it hears the holder", func() bool { i := b.instance("web"); return i.Wire.hearsNode() })
	deafen(t, b)
	b.fence("web", 3*time.Second)
	began := time.Now()
	within(t, 10*time.Second, "as long as the holder was remembered, and a second", func() bool {
		if i := b.instance("web"); !i.Fenced {
			t.Fatalf("the fence is over after %v: %v", time.Since(began), b.notes())
		}
		return time.Since(began) > 1500*time.Millisecond
	})
}
