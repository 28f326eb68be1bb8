package keepalived

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/advertfilter"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// startRogue has a keepalived that somebody has started by hand advertise the
// VIP with the highest priority that one may have.
func startRogue(t *testing.T, namespace string) {
	t.Helper()
	dir := t.TempDir()
	var config strings.Builder
	for name, address := range map[string]string{"four": "10.9.0.100/24", "six": "fd09::100/64"} {
		fmt.Fprintf(&config, `vrrp_instance %s {
    state BACKUP
    version 3
    interface eth0
    virtual_router_id 51
    priority 254
    advert_int 0.05
    virtual_ipaddress {
        %s
    }
}
`, name, address)
	}
	file := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	rogue := exec.Command("ip", "netns", "exec", namespace, "keepalived", "--dont-fork", "--vrrp", "--log-console", "--no-syslog",
		"--use-file", file, "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
	if err := rogue.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rogue.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = rogue.Wait()
	})
	within(t, 10*time.Second, "the rogue to be master of what it has", func() bool {
		said, err := exec.Command("ip", "-n", namespace, "-oneline", "address", "show").CombinedOutput()
		return err == nil && strings.Contains(string(said), "10.9.0.100/") && strings.Contains(string(said), "fd09::100/")
	})
}

// dropped counts the packets that the node has dropped so far.
func (n *node) dropped() (packets int) {
	n.t.Helper()
	for _, line := range strings.Split(n.table(), "\n") {
		var count, bytes int
		if _, rule, ok := strings.Cut(line, "counter "); ok {
			if _, err := fmt.Sscanf(rule, "packets %d bytes %d", &count, &bytes); err != nil {
				n.t.Fatalf("%q: %v", line, err)
			}
			packets += count
		}
	}
	return packets
}

// table is the node's own, empty when there is none.
func (n *node) table() string {
	said, err := exec.Command("ip", "netns", "exec", n.namespace, "nft", "list", "table", "inet", advertfilter.TableName).CombinedOutput()
	if err != nil {
		return ""
	}
	return string(said)
}

// A stranger's advertisements, at whatever priority, take no VIP of a node that
// knows its peers, not without its agent either. They are heard before the peers
// are known, by a node that is on its own, and by one that has withdrawn.
func TestStrangerTakesNoVIP(t *testing.T) {
	t.Parallel()
	namespace, other := newPair(t)
	startRogue(t, other)
	n := newNode(t, namespace, namespace)
	n.setHealth(true)
	c := web("lb-master", 230)
	six := web("lb-master", 230).GetInstances()[0]
	six.Name, six.Anchor = "web-v6", "fd09::100/64"
	c.Instances = append(c.Instances, six)
	c.Global.Peers = nil
	state := func(what string, want InstanceState) {
		t.Helper()
		within(t, 10*time.Second, what, func() bool {
			return n.instance("web").State == want && n.instance("web-v6").State == want
		})
	}
	n.mustApply(c)
	state("the stranger to be heard while no peers are known", InstanceBackup)

	c.Global.Peers = peersOf("10.9.0.77", "fe80::77")
	if n.mustApply(c) {
		t.Error("keepalived was reloaded for the peers' addresses")
	}
	state("the VIP to be held against the stranger", InstanceMaster)
	began, seen := n.dropped(), len(n.seen())
	within(t, 10*time.Second, "more of its advertisements to come", func() bool { return n.dropped() > began+20 })
	n.killAgent()
	began = n.dropped()
	within(t, 10*time.Second, "them to be dropped without the agent", func() bool { return n.dropped() > began+20 })
	if !n.has("10.9.0.100") || !n.has("fd09::100") {
		t.Error("the VIP was lost to a stranger while the agent was dead")
	}
	if slices.ContainsFunc(n.seen()[seen:], func(e Event) bool { return e.Transition != nil }) {
		t.Errorf("a VIP has moved: %+v", n.seen()[seen:])
	}

	n.startAgent()
	n.setHealth(true)
	c.Global.Peers = append(peersOf("10.9.0.77", "fe80::77"), peersOf()...)
	c.Global.Peers[1].Node = "lb-new"
	n.mustApply(c)
	state("everybody to be heard while a node is not known", InstanceBackup)
	c.Global.Peers = peersOf("10.9.0.77", "fe80::77")
	n.mustApply(c)
	state("the VIP to be held once more", InstanceMaster)
	n.withdraw(true)
	state("everybody to be heard by a node that has withdrawn", InstanceBackup)
	n.withdraw(false)
	state("strangers to be dropped again", InstanceMaster)
	c.Instances = nil
	n.mustApply(c)
	if left := n.table(); left != "" {
		t.Errorf("a node without VIPs keeps its table:\n%s", left)
	}
}

// The peer is heard all the time while it changes its address: what was let
// through stays so, and what is new is let through before anything else happens.
func TestPeerIsHeardWhileItsAddressChanges(t *testing.T) {
	t.Parallel()
	namespace, other := newPair(t)
	startRogue(t, other) // as the peer this time
	n := newNode(t, namespace, namespace)
	n.setHealth(true)
	c := web("lb-backup", 220)
	c.Global.Peers = peersOf("10.9.0.2")
	n.mustApply(c)
	within(t, 10*time.Second, "the peer to be heard", func() bool { return n.instance("web").State == InstanceBackup && n.table() != "" })
	began := len(n.seen())
	c.Global.Peers = peersOf("10.9.0.3")
	n.mustApply(c)
	c.Global.Peers = peersOf("10.9.0.3", "10.9.0.4")
	n.mustApply(c)
	if said := n.table(); !strings.Contains(said, "10.9.0.2") || !strings.Contains(said, "10.9.0.4") {
		t.Errorf("the table lets not all of the peer's addresses through:\n%s", said)
	}
	n.setHealth(false) // its notice comes after all that was on its way
	within(t, 10*time.Second, "a lower priority", func() bool { return n.instance("web").Priority == 120 })
	for _, e := range n.seen()[began:] {
		if e.Transition != nil {
			t.Errorf("%+v", *e.Transition)
		}
	}
	if dropped := n.dropped(); dropped != 0 {
		t.Errorf("%d advertisements of the peer were dropped", dropped)
	}
}

// Let through are the other nodes, from all that they have there, and the VIP's own
// addresses, which a holder speaks from that has lost its other ones. An interface is
// open while one of the nodes is not known there.
func TestWhoIsLetThrough(t *testing.T) {
	unknown := &keepalivedv1.Peer{Node: "lb-third", Network: "front"}
	elsewhere := &keepalivedv1.Peer{Node: "lb-third", Network: "back", Addresses: []string{"10.8.0.3"}}
	for name, test := range map[string]struct {
		peers  []*keepalivedv1.Peer
		closed string
		from   []string
	}{
		"all are known":        {peersOf("10.9.0.2", "fe80::2"), "eth0", []string{"10.9.0.2", "10.9.0.100", "10.9.0.101", "fe80::2"}},
		"one is not known":     {append(peersOf("10.9.0.2"), unknown), "", []string{"10.9.0.2", "10.9.0.100", "10.9.0.101"}},
		"one is not there":     {append(peersOf("10.9.0.2"), elsewhere), "", []string{"10.9.0.2", "10.9.0.100", "10.9.0.101"}},
		"by the other family":  {peersOf("fe80::2"), "", []string{"10.9.0.100", "10.9.0.101", "fe80::2"}},
		"nobody else is there": {nil, "", []string{"10.9.0.100", "10.9.0.101"}},
	} {
		c := web("lb-master", 230)
		c.Global.Peers, c.Instances[0].Addresses = test.peers, []string{"10.9.0.101/24"}
		in, err := resolve(c, map[string]string{"front": "eth0", "back": "eth1"})
		if err != nil {
			t.Fatal(err)
		}
		f := in.filter()
		var from []string
		for _, a := range f.Sources {
			from = append(from, a.String())
		}
		if got := strings.Join(f.Interfaces4, " "); got != test.closed || len(f.Interfaces6) > 0 || !slices.Equal(from, test.from) {
			t.Errorf("%s: %q is closed but for %v, want %q and %v", name, got, from, test.closed, test.from)
		}
	}
}
