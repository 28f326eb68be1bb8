package keepalived

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steps of a node's instances as its agent told them, one a word.
func (n *node) steps() string {
	var all []string
	for _, e := range n.seen() {
		if t := e.Transition; t != nil {
			all = append(all, strings.TrimSuffix(fmt.Sprintf("%s=%s/%d(%s)", t.Name, t.State, t.Priority, t.Reason), "()"))
		}
	}
	return strings.Join(all, ", ")
}

// Every step is told once, in order, with the reason that the node knows; also
// those of the time without an agent.
func TestTransitionsTellTheStory(t *testing.T) {
	a, b := newCluster(t)
	a.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	a.setHealth(true)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", a, b)
	want := "web=backup/230, web=master/230, web=fault/230(HAProxy does not work), web=backup/130, web=master/230"
	if got := a.steps(); got != want {
		t.Errorf("%s: %s\nwant %s", a.name, got, want)
	}
	before := b.steps()
	if !strings.HasSuffix(before, "web=master/220, web=backup/220(another node has a higher priority)") {
		t.Errorf("%s: %s", b.name, before)
	}

	b.killAgent()
	a.setHealth(false)
	within(t, 2*time.Second, "the VIP moves", func() bool { return b.has("10.9.0.100") })
	b.startAgent()
	b.mustApply(web("lb-backup", 220))
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	want = before + ", web=master/220(while the agent was down), web=master/220(found so by the agent that has started)"
	if got := b.steps(); got != want {
		t.Errorf("%s: %s\nwant %s", b.name, got, want)
	}

	ip(t, "-n", b.namespace, "link", "set", "eth0", "down")
	within(t, 2*time.Second, "the fault is told", func() bool {
		return strings.HasSuffix(b.steps(), "web=fault/220(interface eth0 is down)")
	})
	b.signal(unix.SIGKILL)
	within(t, 5*time.Second, "the end is told", func() bool { return strings.Contains(b.steps(), "web=unknown/0(keepalived ended)") })
}
