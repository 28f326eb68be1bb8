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

// blindChecker is the real keepalived with a checker that finds everything
// good: what it lets through cannot start.
func blindChecker(t *testing.T) string {
	t.Helper()
	return executable(t, `case "$*" in *--config-test*) exit 0;; *) exec keepalived "$@";; esac`)
}

func executable(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keepalived")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// restartAgent starts an agent with other options beside the same keepalived.
func (n *node) restartAgent(change func(*Options)) {
	n.t.Helper()
	n.killAgent()
	change(&n.options)
	n.startAgent()
}

// I4: keepalived's own checker says no, in its own words.
func TestI4RefusedByKeepalived(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	a.restartAgent(func(o *Options) { o.Networks["loop"] = "lo" })
	a.mustApply(web("lb-master", 230))
	before, peers := a.keepalived(), len(b.seen())
	bad := web("lb-master", 230)
	bad.Instances[0].Network = "loop"
	if r := a.apply(bad); r.Kind != "refused" || !strings.Contains(r.Error, "cannot use a loopback interface") ||
		strings.Contains(r.Error, "candidate") {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	if r := a.check(bad); r.Kind != "refused" {
		t.Errorf("check: %s error %q", r.Kind, r.Error)
	}
	if !slices.Equal(before, a.keepalived()) || len(b.seen()) != peers || !a.has("10.9.0.100") {
		t.Errorf("something happened: %v, was %v; %+v", a.keepalived(), before, b.seen()[peers:])
	}
	if left, err := filepath.Glob(filepath.Join(a.options.StateDir, "keepalived", "candidate*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if a.mustApply(web("lb-master", 230)) {
		t.Error("the old configuration was not in effect any more")
	}
}

// I4: the checker says yes, and yet it cannot run: keepalived dies of such a
// reload. The last good one is back at once.
func TestI4CheckedConfigurationThatCannotRun(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	a.restartAgent(func(o *Options) { o.Networks["loop"], o.Binary = "lo", blindChecker(t) })
	a.mustApply(web("lb-master", 230))
	bad := web("lb-master", 230)
	bad.Instances[0].Network = "loop"
	r := a.apply(bad)
	if r.Kind != "failed" || !strings.Contains(r.Error, "loopback") {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if a.mustApply(web("lb-master", 230)) {
		t.Error("the last good configuration was not in effect")
	}
}

// The same at the first start, when there is no last good one.
func TestI4FirstConfigurationThatCannotRun(t *testing.T) {
	t.Parallel()
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	a.restartAgent(func(o *Options) { o.Networks["loop"], o.Binary = "lo", blindChecker(t) })
	bad := web("lb-master", 230)
	bad.Instances[0].Network = "loop"
	if r := a.apply(bad); r.Kind != "failed" || r.Snapshot.State != StateStopped || r.Snapshot.Message == "" {
		t.Errorf("%s error %q; %+v", r.Kind, r.Error, r.Snapshot)
	}
	if len(a.keepalived()) != 0 {
		t.Error("keepalived runs")
	}
	a.mustApply(web("lb-master", 230))
	within(t, 5*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") })
}

func TestInterfaceThatDoesNotExist(t *testing.T) {
	t.Parallel()
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	a.restartAgent(func(o *Options) { o.Networks["front"] = "eth7" })
	r := a.apply(web("lb-master", 230))
	if r.Kind != "failed" || !strings.Contains(r.Error, "interface eth7 does not exist on this node: ") {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	if r.Snapshot.State != StateStopped || !strings.Contains(r.Snapshot.Message, "eth7") {
		t.Errorf("snapshot %+v", r.Snapshot)
	}
	ip(t, "-n", first, "link", "set", "eth0", "down")
	ip(t, "-n", first, "link", "set", "eth0", "name", "eth7")
	ip(t, "-n", first, "link", "set", "eth7", "up")
	a.mustApply(web("lb-master", 230))
	within(t, 5*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") })
}

// An interface without a cable, or without IPv6, is a fault to be seen and not
// a reason to refuse the configuration.
func TestInterfaceThatIsDown(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	ip(t, "-n", first, "link", "set", "eth0", "down")
	ip(t, "-n", second, "link", "set", "eth0", "down")
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	both := web("lb-master", 230)
	six := base(func(i *keepalivedv1.Instance) { i.Name, i.Anchor = "web-v6", "fd09::100/64" })
	both.Instances = append(both.Instances, six)
	a.mustApply(both)
	for _, name := range []string{"web", "web-v6"} {
		if s := a.instance(name).State; s != InstanceFault {
			t.Errorf("%s is %s, want fault", name, s)
		}
	}
	ip(t, "-n", first, "link", "set", "eth0", "up")
	ip(t, "-n", second, "link", "set", "eth0", "up")
	within(t, 10*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") && a.has("fd09::100") })
}

func TestMissingKeepalived(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	a := newNode(t, "lb-master", namespace)
	for binary, words := range map[string]string{
		"/no/such/keepalived": "install keepalived",
		executable(t, `echo "Keepalived v2.0.20 (01/22,2020)"`):                        "version 2.0.20 is too old",
		executable(t, `echo hello`):                                                    "is not keepalived",
		executable(t, `[ "$1" = --version ] && echo "Keepalived v2.2.7 (01/16,2022)"`): "no JSON dump",
	} {
		a.restartAgent(func(o *Options) { o.Binary = binary })
		r := a.apply(web("lb-master", 230))
		if r.Kind != "missing" || !strings.Contains(r.Error, words) {
			t.Errorf("%s: %s error %q, want one with %q", binary, r.Kind, r.Error, words)
		}
		if r.Snapshot.State != StateMissing || !strings.Contains(r.Snapshot.Message, words) {
			t.Errorf("%s: snapshot %+v", binary, r.Snapshot)
		}
	}
}

func TestForeignFileIsNotOverwritten(t *testing.T) {
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true) // so that it has begun
	file := filepath.Join(a.options.StateDir, "keepalived", "keepalived.conf")
	if err := os.WriteFile(file, []byte("global_defs {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := web("lb-master", 230)
	empty.Instances = nil
	for _, config := range []string{"with a VIP", "without"} {
		c := web("lb-master", 230)
		if config == "without" {
			c = empty
		}
		if r := a.apply(c); r.Kind != "failed" || !strings.Contains(r.Error, "was not written by Tandem") {
			t.Errorf("%s: %s error %q", config, r.Kind, r.Error)
		}
		if data, err := os.ReadFile(file); err != nil || string(data) != "global_defs {\n}\n" {
			t.Errorf("%s: the file holds %q, %v", config, data, err)
		}
	}
}

// Agent and keepalived are both killed: whoever comes next cleans up, with the
// old configuration, another one, or none at all.
func TestLeftoversOfAKilledNode(t *testing.T) {
	t.Parallel()
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	full := web("lb-master", 230)
	full.Instances[0].Addresses = []string{"10.9.0.101/24"}
	die := func() {
		t.Helper()
		a.mustApply(full)
		within(t, 5*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") && a.has("10.9.0.101") })
		a.killAgent()
		a.signal(unix.SIGKILL)
		if !a.has("10.9.0.100") {
			t.Fatal("nothing is left, so this tests nothing")
		}
	}
	die()
	a.startAgent()
	within(t, 2*time.Second, "nothing is left before any Apply", func() bool { return !a.has("10.9.0.100") && !a.has("10.9.0.101") })

	die()
	a.startAgent()
	other := web("lb-master", 230)
	other.Instances[0].Anchor = "10.9.0.200/24"
	a.mustApply(other)
	if a.has("10.9.0.100") || a.has("10.9.0.101") {
		t.Error("addresses of the old configuration are left")
	}
	within(t, 5*time.Second, "the new VIP is up", func() bool { return a.has("10.9.0.200") })
}

// An address that appears on a node that is not master goes again, also when the
// last change is so long ago that its time limits have passed.
func TestStrayAddressIsRemoved(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	changed := time.Now()
	within(t, 2*confirmTimeout, "the change to be long ago", func() bool { return time.Since(changed) > confirmTimeout })
	ip(t, "-n", b.namespace, "address", "add", "10.9.0.100/24", "dev", "eth0")
	waitMaster(t, 3*time.Second, "web", "10.9.0.100", a, b)
	within(t, 3*time.Second, "that two nodes held the VIP is told", func() bool {
		return slices.ContainsFunc(b.seen(), func(e Event) bool { return e.Instance != nil && e.Instance.Holds })
	})
}

// A holder that stands still for less than three intervals loses nothing, whatever
// they are.
func TestShortFreezeMovesNothing(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	for interval, freeze := range map[time.Duration]time.Duration{
		50 * time.Millisecond:  50 * time.Millisecond,
		100 * time.Millisecond: 100 * time.Millisecond,
		time.Second:            1500 * time.Millisecond,
	} {
		for n, priority := range map[*node]uint32{a: 230, b: 220} {
			n.mustApply(webOf(n.name, priority, interval))
		}
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
		mine, peers := len(a.steps()), len(b.steps())
		for range 3 {
			a.signal(unix.SIGSTOP)
			frozen := time.Now()
			within(t, 2*freeze, "the end of the freeze", func() bool { return time.Since(frozen) > freeze })
			a.signal(unix.SIGCONT)
			within(t, 5*time.Second, "the holder to answer", func() bool { return !a.mustApply(webOf(a.name, 230, interval)) })
		}
		if len(a.steps()) != mine || len(b.steps()) != peers || !a.has("10.9.0.100") {
			t.Errorf("with intervals of %v the VIP moved: %s; %s", interval, a.steps(), b.steps())
		}
	}
}

// webOf is web with an interval between advertisements.
func webOf(router string, priority uint32, interval time.Duration) *keepalivedv1.Config {
	c := web(router, priority)
	c.Instances[0].AdvertInterval = durationpb.New(interval)
	return c
}

func TestIPv6MovesToo(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		c := web(n.name, priority)
		c.Instances[0].Anchor, c.Instances[0].Addresses = "fd09::100/64", []string{"fd09::101/128"}
		n.setHealth(true)
		n.mustApply(c)
	}
	waitMaster(t, 5*time.Second, "web", "fd09::100", a, b)
	a.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "fd09::100", b, a)
	if !b.has("fd09::101") || a.has("fd09::101") {
		t.Error("the further address did not follow")
	}
	// The interfaces had just come up, and keepalived could not have advertised
	// from the first moment.
	for _, n := range []*node{a, b} {
		log, err := os.ReadFile(filepath.Join(n.options.StateDir, "keepalived", "keepalived.log"))
		if err != nil || strings.Contains(string(log), "send advert error") {
			t.Errorf("%s held the VIP and could not advertise it (%v)", n.name, err)
		}
	}
}

func TestVRRP2WithPassword(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		c := web(n.name, priority)
		c.Instances[0].Version, c.Instances[0].AuthPassword = 2, "Secret01"
		c.Instances[0].AdvertInterval = durationpb.New(time.Second)
		n.setHealth(true)
		n.mustApply(c)
		if n.mustApply(c) {
			t.Error("an unchanged configuration was reloaded")
		}
	}
	waitMaster(t, 15*time.Second, "web", "10.9.0.100", a, b)
}

// A master that slept finds the other one's adverts when it wakes, as after a pause of
// the whole machine.
func TestSplitBrainIsTold(t *testing.T) {
	a, b := newCluster(t)
	agent := func(sig unix.Signal) {
		if err := unix.Kill(a.agentPID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	agent(unix.SIGSTOP)
	a.signal(unix.SIGSTOP)
	within(t, 3*time.Second, "both hold the VIP", func() bool { return a.has("10.9.0.100") && b.has("10.9.0.100") })
	a.signal(unix.SIGCONT)
	agent(unix.SIGCONT)
	waitMaster(t, 3*time.Second, "web", "10.9.0.100", a, b)
	within(t, 3*time.Second, "the note", func() bool {
		return slices.ContainsFunc(a.seen(), func(e Event) bool { return strings.Contains(e.Note, "calls itself master of web") })
	})
}
