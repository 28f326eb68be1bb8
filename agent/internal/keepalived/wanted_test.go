package keepalived

import (
	"reflect"
	"testing"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

func (n *node) watch(c *keepalivedv1.Config) {
	n.t.Helper()
	if r := n.ask(request{Watch: encode(n.t, c)}); r.Error != "" {
		n.t.Fatalf("%s: watch: %s", n.name, r.Error)
	}
}

// What the kernel has is told at once, on whatever interface, although there is no
// keepalived. An address on the loopback serves nobody else.
func TestWatchedIsToldByTheKernel(t *testing.T) {
	t.Parallel()
	namespace, _ := newPair(t)
	n := newNode(t, namespace, namespace)
	ip(t, "-n", namespace, "link", "add", "eth9", "type", "veth", "peer", "name", "eth8")
	ip(t, "-n", namespace, "link", "set", "eth9", "up")
	ip(t, "-n", namespace, "address", "add", "10.9.0.101/24", "dev", "eth9")
	c := web("lb-master", 230)
	c.Instances[0].Network = "none that this node knows"
	broken := web("lb-master", 230).GetInstances()[0]
	broken.Name, broken.Anchor = "broken", "nowhere"
	c.Instances = append(c.Instances, broken)
	n.watch(c)
	want := InstanceStatus{Name: "web", VIP: "web", State: InstanceUnknown}
	if s := n.known(); len(s.Instances) != 1 || !reflect.DeepEqual(s.Instances[0], want) {
		t.Errorf("without the address: %+v", s.Instances)
	}
	for _, device := range []string{"eth0", "eth9"} {
		ip(t, "-n", namespace, "address", "add", "10.9.0.100/24", "dev", device)
		within(t, 5*time.Second, "the address on "+device+" to be told", func() bool { return n.instance("web").Holds })
		ip(t, "-n", namespace, "address", "delete", "10.9.0.100/24", "dev", device)
		within(t, 5*time.Second, "its end to be told", func() bool { return !n.instance("web").Holds })
	}
	ip(t, "-n", namespace, "address", "add", "10.9.0.100/32", "dev", "lo")
	// The next one is told after it.
	c.Instances[1].Anchor = "10.9.0.101/24"
	n.watch(c)
	if n.instance("web").Holds || !n.instance("broken").Holds {
		t.Errorf("with the address on the loopback: %+v", n.known().Instances)
	}
	n.watch(web("lb-master", 230))
	if s := n.known(); len(s.Instances) != 1 {
		t.Errorf("what is no longer watched is told: %+v", s.Instances)
	}
	if r := n.ask(request{Failover: "web", FailoverFor: time.Second}); r.Error != "VIP web: "+ErrNotInEffect.Error() {
		t.Errorf("a failover of what keepalived does not have: %q", r.Error)
	}
}

// heldThroughout holds that the agent said nothing else than that the node has the
// VIP, from the first time on and from that event on.
func (n *node) heldThroughout(from int) {
	n.t.Helper()
	var held bool
	for _, e := range n.seen()[from:] {
		switch {
		case e.Instance != nil && e.Instance.Holds:
			held = true
		case e.Instance != nil && held:
			n.t.Errorf("%s: the VIP was told not to be here: %+v", n.name, *e.Instance)
		case e.Daemon != nil && held && len(e.Daemon.Instances) == 0:
			n.t.Errorf("%s: nothing was told of the VIP", n.name)
		}
	}
	if !held {
		n.t.Errorf("%s: it was never told that the VIP is here", n.name)
	}
}
