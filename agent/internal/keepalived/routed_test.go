package keepalived

import (
	"testing"
	"time"
)

// VIPs outside the interface's subnet, to which somebody routes, and ones of both
// families move as any other does.
func TestRoutedAndDualStackVIPsMove(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		c := web(n.name, priority)
		c.Instances[0].Anchor, c.Instances[0].Addresses = "203.0.113.5/32", []string{"198.51.100.7/32"}
		six := web(n.name, priority).GetInstances()[0]
		six.Name, six.Anchor, six.Addresses = "web-v6", "2001:db8:77::5/128", []string{"fd09::101/64"}
		c.Instances = append(c.Instances, six)
		n.setHealth(true)
		n.mustApply(c)
	}
	moved := func(to, from *node) {
		t.Helper()
		waitMaster(t, 5*time.Second, "web", "203.0.113.5", to, from)
		waitMaster(t, 5*time.Second, "web-v6", "2001:db8:77::5", to, from)
		within(t, 5*time.Second, "the further addresses to follow", func() bool {
			return to.has("198.51.100.7") && to.has("fd09::101") && !from.has("198.51.100.7") && !from.has("fd09::101")
		})
	}
	moved(a, b)
	a.setHealth(false)
	moved(b, a)
	a.setHealth(true)
	moved(a, b)
}

// The VIP of a cluster of one node stays, whatever becomes of its proxy and whether
// or not it is drained (I8).
func TestI8OneNodeKeepsItsVIP(t *testing.T) {
	t.Parallel()
	namespace, _ := newPair(t)
	n := newNode(t, "lb-only", namespace)
	c := web("lb-only", 230)
	c.Global.Peers = nil
	n.setHealth(true)
	n.mustApply(c)
	within(t, 5*time.Second, "the VIP", func() bool { return n.instance("web").State == InstanceMaster && n.has("10.9.0.100") })
	steps := n.steps()
	for _, priority := range []int{130, 80} {
		n.setHealth(false)
		n.mustApply(c)
		within(t, 5*time.Second, "a lower priority", func() bool { return n.instance("web").Priority == priority })
		c.Global.Drain = true
	}
	if got := n.steps(); got != steps || !n.has("10.9.0.100") {
		t.Errorf("the VIP has moved: %s", got)
	}
}
