package keepalived

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// byUnicast has the nodes of a pair advertise to each other's address; n is this one's.
func byUnicast(c *keepalivedv1.Config, n int, addresses ...string) *keepalivedv1.Config {
	c.Instances[0].UnicastSource = addresses[n]
	for at, a := range addresses {
		c.Instances[0].Speakers = append(c.Instances[0].Speakers, &keepalivedv1.Speaker{Id: fmt.Sprint(at), Addresses: []string{a}})
	}
	return c
}

// noMulticast has the kernel of a namespace drop all advertisements to a group.
func noMulticast(t *testing.T, namespace string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs nft: %v", err)
	}
	rules := "table inet no_multicast {\n chain in { type filter hook input priority -10; " +
		"ip daddr 224.0.0.0/4 drop; ip6 daddr ff02::12 drop;\n }\n}\n"
	command := exec.Command("ip", "netns", "exec", namespace, "nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, said)
	}
}

func linkLocalOf(t *testing.T, namespace string) string {
	t.Helper()
	said, err := exec.Command("ip", "-n", namespace, "-6", "-brief", "address", "show", "dev", "eth0", "scope", "link").Output()
	words := strings.Fields(string(said))
	if err != nil || len(words) < 3 {
		t.Fatalf("%v: %s", err, said)
	}
	address, _, _ := strings.Cut(words[2], "/")
	return address
}

// Where no multicast passes, one node holds the VIP and the other one takes it over,
// and each hears on the wire what the other one sends.
func TestUnicastPair(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(string, uint32) *keepalivedv1.Config{"IPv4": web, "IPv6": web6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newPair(t)
			addresses := []string{"10.9.0.1", "10.9.0.2"}
			if name == "IPv6" {
				addresses = []string{linkLocalOf(t, first), linkLocalOf(t, second)}
			}
			a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
			for n, node := range []*node{a, b} {
				noMulticast(t, node.namespace)
				node.setHealth(true)
				node.mustApply(byUnicast(config(node.name, uint32(230-10*n)), n, addresses...))
			}
			i := config("", 1).Instances[0]
			anchor, _, _ := strings.Cut(i.GetAnchor(), "/")
			waitMaster(t, 5*time.Second, i.GetName(), anchor, a, b)
			within(t, 5*time.Second, "the backup hears the holder", func() bool {
				w := b.instance(i.GetName()).Wire
				return w.Listens && len(w.Advertisers) == 1 && len(w.Findings) == 0
			})
			a.killAgent()
			for _, pid := range a.keepalived() {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			within(t, 5*time.Second, "the backup takes over", func() bool { return b.has(anchor) })
		})
	}
}

// A node whose own address comes after keepalived has been started stands by from then
// on.
func TestASourceThatComesLate(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	ip(t, "-n", second, "address", "delete", "10.9.0.2/24", "dev", "eth0")
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, node := range []*node{a, b} {
		node.setHealth(true)
		node.mustApply(byUnicast(web(node.name, uint32(230-10*n)), n, "10.9.0.1", "10.9.0.2"))
		// What the holder sends to an address that is not there reaches nobody: it is known
		// by its own address alone.
		within(t, 5*time.Second, "the first one holds the VIP", func() bool { return a.has("10.9.0.100") })
	}
	within(t, 5*time.Second, "it cannot advertise", func() bool { return b.instance("web").State == InstanceFault })
	ip(t, "-n", second, "address", "add", "10.9.0.2/24", "dev", "eth0")
	within(t, 5*time.Second, "it stands by", func() bool { return b.instance("web").State == InstanceBackup })
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
}

// The hook before keepalived's start waits for the address.
func TestTheHookWaitsForTheSource(t *testing.T) {
	in, err := resolve(goldens["unicast"], testNetworks)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(sourcesIn(render(in, testLayout))); got != "[{eth0 10.9.0.1/32} {eth0 fe80::1/128}]" {
		t.Errorf("the sources in the file are %s", got)
	}
}

// A file that keepalived may not have read is read again, whatever it says that it
// runs: it does not say by what means it advertises.
func TestAFileThatMayNotHaveBeenRead(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	a.mustApply(web("lb-master", 230))
	within(t, 5*time.Second, "it holds the VIP", func() bool { return a.has("10.9.0.100") })
	if a.mustApply(web("lb-master", 230)) {
		t.Error("an unchanged configuration costs a reload")
	}
	a.killAgent()
	// As an agent leaves it that ends between the swap and the signal.
	in, err := resolve(byUnicast(web("lb-master", 230), 0, "10.9.0.1", "10.9.0.2"), a.options.Networks)
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(a.options.RunDir, "keepalived")
	data := render(in, layout{fifo: filepath.Join(run, "notify"), trackDir: filepath.Join(run, "track"), user: "root", noSwap: canLockMemory()})
	for path, data := range map[string][]byte{
		filepath.Join(a.options.StateDir, "keepalived", "keepalived.conf"): data, filepath.Join(run, "swapped"): nil,
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.startAgent()
	a.setHealth(true)
	b := newNode(t, "lb-backup", second)
	if !a.mustApply(byUnicast(web("lb-master", 230), 0, "10.9.0.1", "10.9.0.2")) {
		t.Error("keepalived was not told to read its file")
	}
	b.setHealth(true)
	b.mustApply(byUnicast(web("lb-backup", 220), 1, "10.9.0.1", "10.9.0.2"))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
}
