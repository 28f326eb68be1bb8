package keepalived

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unplug deletes a node's interface, and replug makes it anew; it is the n-th node's.
func (n *node) unplug() {
	n.t.Helper()
	ip(n.t, "-n", n.namespace, "link", "delete", "eth0")
}

func (n *node) replug(middle string, number int) {
	n.t.Helper()
	port := fmt.Sprintf("port%d", number)
	ip(n.t, "link", "add", "eth0", "netns", n.namespace, "type", "veth", "peer", "name", port, "netns", middle)
	ip(n.t, "-n", middle, "link", "set", port, "master", "br0", "up")
	ip(n.t, "-n", n.namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", number), "dev", "eth0")
	ip(n.t, "-n", n.namespace, "link", "set", "eth0", "up")
	ip(n.t, "-n", n.namespace, "route", "add", "default", "via", "10.9.0.9")
}

// toldAnew counts how often a node has told that its interface was made anew.
func (n *node) toldAnew() (told int) {
	for _, e := range n.seen() {
		if strings.Contains(e.Note, "made anew: eth0") {
			told++
		}
	}
	return told
}

// I7: a node whose interface was deleted and made anew hears the other one on it, and so
// holds no VIP beside that one.
func TestI7AnInterfaceMadeAnewIsHeardOn(t *testing.T) {
	t.Parallel()
	a, b, middle := newSwitched(t)
	for number, n := range map[int]*node{2: b, 1: a} {
		parent := n.keepalived()[0]
		n.unplug()
		within(t, 5*time.Second, "it has no interface", func() bool { return n.instance("web").State == InstanceFault })
		n.replug(middle, number)
		waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
		began := time.Now()
		within(t, 10*time.Second, "far longer than a standby waits", func() bool {
			if !a.has("10.9.0.100") || b.has("10.9.0.100") {
				t.Fatalf("after %v: %+v, %+v", time.Since(began), a.instance("web"), b.instance("web"))
			}
			return time.Since(began) > 3*time.Second
		})
		if told := n.toldAnew(); told != 1 {
			t.Errorf("%s tells %d times that its interface was made anew, want once", n.name, told)
		}
		if now := n.keepalived(); now[0] != parent {
			t.Errorf("%s: keepalived was process %d and is %v", n.name, parent, now)
		}
	}
}

// The same while no agent runs: the next one has keepalived listen, so that the node takes
// the VIP when it is its turn. What cannot be read of an earlier agent is told, and no more.
func TestI1AnInterfaceMadeAnewWithoutAnAgent(t *testing.T) {
	t.Parallel()
	a, b, middle := newSwitched(t)
	b.killAgent()
	b.unplug()
	b.replug(middle, 2)
	b.startAgent()
	b.mustApply(web("lb-backup", 220))
	within(t, 10*time.Second, "keepalived is told", func() bool { return b.toldAnew() == 1 })
	a.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	a.setHealth(true)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)

	b.killAgent()
	if err := os.WriteFile(filepath.Join(b.options.RunDir, "keepalived", "links.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.startAgent()
	b.mustApply(web("lb-backup", 220))
	a.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	if told := b.toldAnew(); told != 1 {
		t.Errorf("it tells %d times of an interface that was made anew once", told)
	}
}
