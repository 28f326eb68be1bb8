package keepalived

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fence that was given for longer than a cut lasts outlives it: they have one guard.
func TestAFenceOutlivesACut(t *testing.T) {
	t.Parallel()
	_, b, _ := newSwitched(t)
	b.lose("ingress")
	within(t, 10*time.Second, "it is kept off", func() bool { return b.instance("web").Fenced })
	began := time.Now()
	b.fence("web", 9*time.Second)
	within(t, 5*time.Second, "the cut has been renewed since", func() bool { return time.Since(began) > cutEvery+cutEvery/2 })
	b.losesNothing()
	within(t, 10*time.Second, "the cut is over", func() bool {
		return strings.Contains(b.notes(), "no longer kept off")
	})
	within(t, 10*time.Second, "longer than a cut lasts", func() bool {
		if got := score(t, filepath.Join(b.options.RunDir, "keepalived", "track"), fenceFile("web")); got != fenceScore {
			t.Fatalf("after %v its file says %d", time.Since(began), got)
		}
		return time.Since(began) > cutEvery+cutEvery/2+cutLease+guardSlack+time.Second
	})
	if !b.instance("web").Fenced {
		t.Error("the fence is over")
	}
}

// notes are all that a node has told, a line each.
func (n *node) notes() string {
	var all []string
	for _, e := range n.seen() {
		all = append(all, e.Note)
	}
	return strings.Join(all, "\n")
}

// A node that keeps itself off a VIP says so to whoever takes it for the survivor.
func TestANodeThatIsKeptOffIsNoSurvivor(t *testing.T) {
	t.Parallel()
	_, b, _ := newSwitched(t)
	b.lose("ingress")
	within(t, 10*time.Second, "it is kept off", func() bool { return b.instance("web").Fenced })
	if r := b.ask(request{Fence: "web"}); !strings.Contains(r.Error, "keeps itself off") || !strings.Contains(r.Error, "eth0 carries nothing in") {
		t.Errorf("it says %q", r.Error)
	}
	b.losesNothing()
	within(t, 10*time.Second, "it is no longer kept off", func() bool { return !b.instance("web").Fenced })
	if r := b.ask(request{Fence: "web"}); r.Error != "" {
		t.Errorf("it says %q", r.Error)
	}
}

// I7: a node that is cut off takes no VIP that is new to it, either.
func TestI7ANewVIPOnANodeThatIsCutOff(t *testing.T) {
	t.Parallel()
	_, b, _ := newSwitched(t)
	b.lose("ingress")
	within(t, 10*time.Second, "it is kept off", func() bool { return b.instance("web").Fenced })
	c := web(b.name, 220)
	other := web(b.name, 220).GetInstances()[0]
	other.Name, other.Vip, other.Vrid, other.Anchor = "mail", "mail", 52, "10.9.0.101/24"
	c.Instances = append(c.Instances, other)
	b.mustApply(c)
	within(t, 5*time.Second, "it is kept off that, too", func() bool { return b.instance("mail").Fenced })
	began := time.Now()
	within(t, 5*time.Second, "a while", func() bool { return time.Since(began) > time.Second })
	for _, e := range b.seen() {
		if e.Transition != nil && e.Transition.Name == "mail" && e.Transition.State == InstanceMaster {
			t.Errorf("it has held it: %+v", e.Transition)
		}
	}
}

// A holder that has had a rival, and that could send nothing when it was gone, announces
// itself when it can.
func TestAnAnnouncementThatIsLostIsMadeAgain(t *testing.T) {
	t.Parallel()
	a, b, middle := newSwitched(t)
	b.nft("add table netdev cut; add chain netdev cut in { type filter hook ingress device eth0 priority 0; }; add rule netdev cut in ip protocol vrrp drop")
	within(t, 5*time.Second, "both hold it", func() bool { return a.has("10.9.0.100") && b.has("10.9.0.100") })
	b.killAgent()
	for _, pid := range b.keepalived() {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	a.nft("add table netdev mute; add chain netdev mute out { type filter hook egress device eth0 priority 0; }; add rule netdev mute out ether type arp arp saddr ip 10.9.0.100 drop")
	within(t, 5*time.Second, "it hears no rival", func() bool {
		w := a.instance("web").Wire
		return w.Listens && len(w.Advertisers) == 0
	})
	began := time.Now()
	within(t, 5*time.Second, "its announcements are lost", func() bool { return time.Since(began) > time.Second })
	ip(t, "-n", middle, "neighbor", "replace", "10.9.0.100", "lladdr", macOf(t, b.namespace), "dev", "br0", "nud", "stale")
	a.nft("delete table netdev mute")
	took := within(t, 2*time.Second, "the neighbour believes the holder", func() bool {
		said, err := exec.Command("ip", "-n", middle, "neighbor", "show", "10.9.0.100").CombinedOutput()
		return err == nil && strings.Contains(string(said), macOf(t, a.namespace))
	})
	t.Logf("right after %v", took)
}
