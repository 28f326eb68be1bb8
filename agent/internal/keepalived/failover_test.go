package keepalived

import (
	"strings"
	"testing"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// failover asks a node to give its VIP up and returns what it says.
func (n *node) failover(vip string, lease time.Duration) string {
	n.t.Helper()
	return n.ask(request{Failover: vip, FailoverFor: lease}).Error
}

func TestFailoverMovesTheVIPForAWhile(t *testing.T) {
	t.Parallel()
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC, 0)
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	if said := b.failover("web", time.Minute); !strings.Contains(said, "does not hold it") {
		t.Errorf("the standby says %q", said)
	}
	if said := a.failover("mail", time.Minute); !strings.Contains(said, "no such VIP") {
		t.Errorf("of another VIP it says %q", said)
	}
	const lease = 1500 * time.Millisecond
	begin := time.Now()
	if said := a.failover("web", lease); said != "" {
		t.Fatal(said)
	}
	if !b.has("10.9.0.100") || a.has("10.9.0.100") {
		t.Error("the VIP has not moved when the failover returns")
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	if took := time.Since(begin); took < lease {
		t.Errorf("the VIP was back after %v, before the lease of %v", took, lease)
	}
}

func TestFailoverIsKeptByThePolicy(t *testing.T) {
	t.Parallel()
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_NEVER, 0)
	b.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	b.setHealth(true)
	if said := a.failover("web", time.Second); said != "" {
		t.Fatal(said)
	}
	within(t, 5*time.Second, "the failover ends", func() bool { return a.instance("web").Priority == 230+standbyScore })
	if !b.has("10.9.0.100") || a.has("10.9.0.100") {
		t.Error("the VIP went back though the policy is never")
	}
}

// I8: a failover that nobody follows leaves the VIP where it is, in full.
func TestI8FailoverWithoutATaker(t *testing.T) {
	t.Parallel()
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC, 0)
	b.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if said := a.failover("web", time.Minute); !strings.Contains(said, "no other node takes it") {
		t.Errorf("it says %q", said)
	}
	within(t, 2*time.Second, "it counts in full", func() bool { return a.instance("web").Priority == 230 })
	if !a.has("10.9.0.100") {
		t.Error("the VIP is gone")
	}
}

// A drained node is not to hold the VIP, though its own priority is the better one.
func TestFailoverGoesToNoDrainedNode(t *testing.T) {
	t.Parallel()
	for _, policy := range []keepalivedv1.FailBack{keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC, keepalivedv1.FailBack_FAIL_BACK_NEVER} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			a, b := newSticky(t, policy, 0)
			drained := sticky(a.name, 230, policy, 0)
			drained.Global.Drain = true
			a.mustApply(drained)
			waitMaster(t, 10*time.Second, "web", "10.9.0.100", b, a)
			if said := b.failover("web", time.Minute); !strings.Contains(said, "no other node takes it") {
				t.Errorf("it says %q", said)
			}
			if !b.has("10.9.0.100") || a.has("10.9.0.100") {
				t.Error("the drained node holds the VIP")
			}
		})
	}
}

// I8: while a failover lasts, the VIP comes back when its new holder fails.
func TestI8FailoverEndsWithItsTaker(t *testing.T) {
	t.Parallel()
	a, b := newSticky(t, keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC, 0)
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	if said := a.failover("web", time.Hour); said != "" {
		t.Fatal(said)
	}
	b.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	b.setHealth(true)
	within(t, 2*time.Second, "it counts in full", func() bool { return a.instance("web").Priority == 230 })
}
