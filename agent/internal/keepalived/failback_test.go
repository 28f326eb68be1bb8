package keepalived

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// newSticky makes a cluster with a fail-back policy.
func newSticky(t *testing.T, policy keepalivedv1.FailBack, delay time.Duration) (a, b *node) {
	t.Helper()
	first, second := newPair(t)
	a, b = newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		n.setHealth(true)
		n.mustApply(sticky(n.name, priority, policy, delay))
	}
	return a, b
}

func sticky(name string, priority uint32, policy keepalivedv1.FailBack, delay time.Duration) *keepalivedv1.Config {
	c := web(name, priority)
	c.Instances[0].FailBack, c.Instances[0].FailBackDelay = policy, durationpb.New(delay)
	return c
}

func TestNeverFailsBack(t *testing.T) {
	t.Parallel()
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_NEVER, 0)
	within(t, 5*time.Second, "somebody holds the VIP", func() bool {
		return a.instance("web").State == InstanceMaster != (b.instance("web").State == InstanceMaster)
	})
	b.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	b.setHealth(true)
	// Neither a dead proxy nor a drain is kept by the policy.
	a.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	a.setHealth(true)
	within(t, 2*time.Second, "the better node stands by", func() bool { return a.instance("web").Priority == 230+standbyScore })
	if !b.has("10.9.0.100") || a.has("10.9.0.100") {
		t.Error("the VIP went back")
	}
	drained := sticky("lb-backup", 220, keepalivedv1.FailBack_FAIL_BACK_NEVER, 0)
	drained.Global.Drain = true
	if b.mustApply(drained) {
		t.Error("drain reloaded keepalived")
	}
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", a, b)

	// Neither does it outlive the loss of MASTER, however short.
	within(t, 2*time.Second, "the master counts in full", func() bool { return a.instance("web").Priority == 230 })
	before := len(a.seen())
	a.signal(unix.SIGKILL)
	within(t, 5*time.Second, "it comes back as a standby", func() bool {
		return slices.ContainsFunc(a.seen()[before:], func(e Event) bool {
			return e.Instance != nil && e.Instance.State == InstanceBackup && e.Instance.Priority == 230+standbyScore
		})
	})
}

// An agent that comes back beside a holder leaves it one: not even for a
// moment does it look like a standby.
func TestHolderStaysWhenItsAgentComesBack(t *testing.T) {
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_NEVER, 0)
	a.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	a.setHealth(true)
	within(t, 2*time.Second, "the better node stands by", func() bool { return a.instance("web").Priority == 230+standbyScore })
	log := filepath.Join(b.options.StateDir, "keepalived", "keepalived.log")
	priorities := func() int {
		said, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(said), "Changing effective priority")
	}
	before := priorities()
	b.killAgent()
	b.startAgent()
	if b.mustApply(sticky("lb-backup", 220, keepalivedv1.FailBack_FAIL_BACK_NEVER, 0)) {
		t.Error("adoption reloaded keepalived")
	}
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	if after := priorities(); after != before {
		t.Errorf("the priority changed %d times", after-before)
	}
	// What the holder was is forgotten when it loses the VIP.
	b.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", a, b)
	b.setHealth(true)
	within(t, 2*time.Second, "it stands by", func() bool { return b.instance("web").Priority == 220+standbyScore })
}

func TestFailsBackAfterADelay(t *testing.T) {
	t.Parallel()
	const delay = 1500 * time.Millisecond
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_DELAYED, delay)
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	a.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	a.setHealth(true)
	took := waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if took < delay {
		t.Errorf("the VIP went back after %v, before the delay of %v", took, delay)
	}
}
