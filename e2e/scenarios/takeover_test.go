package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/handmade"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// pair is a hand-written pair that serves, and a cluster that it has joined.
type pair struct {
	*cluster.Cluster
	t       *testing.T
	labhost string
	vips    []netip.Addr
	backend string // one of them, as pool/backend
	// heard gets what lb-agent says; nil: nobody does.
	heard func(who string, said []byte)
	// original holds the hand-written files of each node, by path.
	original map[string]map[string]handwritten
}

// handwritten is a file and all that a takeover must leave as it was.
type handwritten struct {
	text  []byte
	mode  os.FileMode
	inode uint64
}

var paths = []string{handmade.HAProxyFile, handmade.KeepalivedFile}

// newPair starts a pair's daemons, then a controller, and an agent on each node,
// which must touch nothing.
func newPair(t *testing.T, spec lab.Spec, start func(context.Context, *lab.Lab) error, vips ...netip.Addr) *pair {
	t.Helper()
	programs := clustertest.Programs(t)
	l := labtest.Start(t, spec)
	p := &pair{t: t, labhost: labtest.Labhost(t), vips: vips, original: map[string]map[string]handwritten{}}
	ctx := labtest.Deadline(t, time.Minute)
	if _, err := traffic.StartWebs(ctx, l, p.labhost); err != nil {
		t.Fatal(err)
	}
	if err := start(ctx, l); err != nil {
		t.Fatal(err)
	}
	for _, node := range clustertest.Both {
		p.original[node] = map[string]handwritten{}
		for _, path := range paths {
			p.original[node][path] = readFile(t, l.Host(node).Path(path))
		}
	}
	var err error
	p.Cluster, err = cluster.Start(ctx, l, programs)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readFile(t *testing.T, path string) handwritten {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return handwritten{text, info.Mode(), inode(info)}
}

// agent runs lb-agent on a node and returns what it prints.
func (p *pair) agent(ctx context.Context, node string, args ...string) (string, error) {
	n := p.Nodes[node]
	out, err := n.Host.Command(ctx, p.Programs.Agent, append(args, "--config", n.Config)...).CombinedOutput()
	if p.heard != nil {
		p.heard("lb-agent "+strings.Join(args, " "), out)
	}
	if err != nil {
		err = fmt.Errorf("lb-agent %s on %s: %w: %s", strings.Join(args, " "), node, err, out)
	}
	return string(out), err
}

func (p *pair) mustAgent(ctx context.Context, node string, args ...string) {
	p.t.Helper()
	if _, err := p.agent(ctx, node, args...); err != nil {
		p.t.Fatal(err)
	}
}

// holds fails unless a node alone holds all virtual addresses.
func (p *pair) holds(ctx context.Context, node string) {
	p.t.Helper()
	for _, vip := range p.vips {
		holders, err := p.Lab.Holders(ctx, vip)
		if err != nil || !slices.Equal(holders, []string{node}) {
			p.t.Fatalf("%s is held by %v, %v; want %s alone", vip, holders, err, node)
		}
	}
}

// write has a node write what it would manage, with the other node's file at
// hand, and returns the file's path and text.
func (p *pair) write(ctx context.Context, node, peer string) (path, text string) {
	p.t.Helper()
	dir := p.Nodes[node].Host.Dir()
	theirs := filepath.Join(dir, "peer.conf")
	if err := os.WriteFile(theirs, p.original[peer][handmade.KeepalivedFile].text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	path = filepath.Join(dir, "cluster.yaml")
	p.mustAgent(ctx, node, "adopt", "--peer", peer+"="+theirs, "--output", path)
	data, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	_, text, _ = strings.Cut(string(data), "\n")
	return path, text
}

// isBack holds that a node's hand-written files are what they were.
func (p *pair) isBack(node string) {
	p.t.Helper()
	for _, path := range paths {
		got, want := readFile(p.t, p.Lab.Host(node).Path(path)), p.original[node][path]
		if !bytes.Equal(got.text, want.text) || got.mode != want.mode || got.inode != want.inode {
			p.t.Errorf("%s on %s: mode %v, inode %d, %d bytes; want %v, %d, %d", path, node,
				got.mode, got.inode, len(got.text), want.mode, want.inode, len(want.text))
		}
		if _, err := os.Lstat(p.Lab.Host(node).Path(path + ".before-tandem")); !errors.Is(err, os.ErrNotExist) {
			p.t.Errorf("%s on %s is put aside still: %v", path, node, err)
		}
	}
}

// isAside holds that a node's hand-written files are beside Tandem's.
func (p *pair) isAside(node string) {
	p.t.Helper()
	for _, path := range paths {
		host := p.Lab.Host(node)
		got, want := readFile(p.t, host.Path(path+".before-tandem")), p.original[node][path]
		if !bytes.Equal(got.text, want.text) || got.mode != want.mode || got.inode != want.inode {
			p.t.Errorf("%s on %s is not put aside as it was", path, node)
		}
		if to, err := os.Readlink(host.Path(path)); err != nil || !strings.HasPrefix(to, p.Nodes[node].StateDir) {
			p.t.Errorf("%s on %s leads to %q, %v", path, node, to, err)
		}
	}
}

// enoughConnections tell that a probe ran all the time. How many there are is
// how long the machine takes for a takeover: half of the fewest seen in two
// seconds, one every 5 ms.
const enoughConnections = 200

// takeOver takes a running pair over and gives it back, under load. No new
// connection to any of the targets fails, and no VIP moves.
func (p *pair) takeOver(targets ...string) {
	t := p.t
	ctx := labtest.Deadline(t, 90*time.Second)
	const master, backup = cluster.Master, cluster.Backup

	file, own := p.write(ctx, master, backup)
	if _, other := p.write(ctx, backup, master); own[strings.Index(own, "cluster:"):] != other[strings.Index(other, "cluster:"):] {
		t.Errorf("the two nodes write different files:\n%s\n%s", own, other)
	}
	var clients []*traffic.Probe
	for _, target := range targets {
		c, err := traffic.StartProbe(ctx, p.Lab.Host("client"), p.labhost, probe.Config{Target: target, Interval: 5 * time.Millisecond, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	// Until somebody says so, nothing is touched.
	if _, err := p.Lbctl(ctx, "apply", "-f", file, "--no-wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Until(ctx, "both nodes to say that they touch nothing", problem(master, "nothing is touched"), problem(backup, "nothing is touched")); err != nil {
		t.Fatal(err)
	}
	p.isBack(master)
	p.isBack(backup)
	stop := p.shownOn(master)

	p.mustAgent(ctx, backup, "adopt", "--yes")
	p.holds(ctx, master)
	p.isAside(backup)
	p.isBack(master)
	if _, err := p.agent(ctx, master, "adopt", "--yes"); err == nil || !strings.Contains(err.Error(), "this node holds the VIP") {
		t.Errorf("the holder is taken over without a word: %v", err)
	}
	p.mustAgent(ctx, master, "adopt", "--yes", "--holder")
	p.holds(ctx, master)
	p.isAside(master)
	if _, err := p.Until(labtest.Deadline(t, 20*time.Second), "a settled cluster", cluster.Settled(clustertest.Both...), cluster.NoAlarms); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, node := range clustertest.Both {
		p.foreignIsGone(ctx, node)
		// How far it is survives the agent.
		if err := p.Nodes[node].KillAgent(); err != nil {
			t.Fatal(err)
		}
		if err := p.Nodes[node].StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Lbctl(ctx, "backend", "set", p.backend, "--weight", "7"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Until(labtest.Deadline(t, 20*time.Second), "a changed and settled cluster", cluster.Settled(clustertest.Both...), cluster.NoAlarms); err != nil {
		t.Fatal(err)
	}
	p.holds(ctx, master)

	stop = p.shownOn(master)
	for _, node := range []string{backup, master} {
		p.mustAgent(ctx, node, "release", "--yes")
		p.holds(ctx, master)
		p.isBack(node)
		if _, err := p.Until(ctx, "word of the release", unwell(node, "since lb-agent release")); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	// The agents that come after tell it, too.
	for _, node := range clustertest.Both {
		if err := p.Nodes[node].KillAgent(); err != nil {
			t.Fatal(err)
		}
		if err := p.Nodes[node].StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Until(ctx, "lb-master to be shown as the holder", cluster.Connected(clustertest.Both...), heldBy(master)); err != nil {
		t.Fatal(err)
	}
	p.nobodyWasFrightened(ctx)
	for n, c := range clients {
		report, err := c.Stop(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d new connections, %d failed", targets[n], report.Attempts(), report.Failed())
		if report.Failed() > 0 || report.Attempts() < enoughConnections {
			t.Errorf("%s: %d of %d new connections failed: %+v", targets[n], report.Failed(), report.Attempts(), report.Failures)
		}
	}
}

func TestTakeoverOfTheGuidesPair(t *testing.T) {
	p := newPair(t, guide.Spec(), func(ctx context.Context, l *lab.Lab) error {
		_, err := guide.Start(ctx, l)
		return err
	}, lab.VIP.Addr())
	p.backend = "web_servers/web1"
	p.takeOver("192.168.1.100:80")
}

func TestTakeoverOfAHandmadePair(t *testing.T) {
	p := newPair(t, handmade.Spec(), handmade.Start, handmade.Addresses...)
	p.backend = "web/web1"
	ctx := labtest.Deadline(t, 2*time.Minute)
	// What is kept as written: TLS, and an ACL that leads to a pool with a cookie.
	var codes bytes.Buffer
	const each = `while :; do curl -sk -m 5 -o /dev/null -w '%{http_code}\n' https://192.168.1.100/; curl -sk -m 5 -D - https://192.168.1.100/api | grep -ci '^set-cookie: SRV='; done`
	clients, err := p.Lab.Host("client2").Start(ctx, lab.ProcessSpec{Name: "https", Args: []string{"bash", "-c", each}, Stdout: &codes})
	if err != nil {
		t.Fatal(err)
	}
	p.takeOver("192.168.1.100:80", "192.168.1.101:80")
	if err := clients.Kill(); err != nil {
		t.Fatal(err)
	}
	answers := map[string]int{}
	for line := range strings.Lines(codes.String()) {
		answers[strings.TrimSpace(line)]++
	}
	t.Logf("over TLS: %v", answers)
	if len(answers) != 2 || answers["200"] < 10 || answers["1"] < 10 {
		t.Errorf("over TLS: %v, want 200 and a cookie each time", answers)
	}
}

// problem holds when a node says that as the reason for which it has not
// applied the newest revision.
func problem(node, text string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if failure := cluster.FindNode(s, node).GetFailure(); !strings.Contains(failure, text) {
			return fmt.Errorf("%s says %q", node, failure)
		}
		return nil
	}
}

// unwell holds when a node tells that as a problem.
func unwell(node, text string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if problems := strings.Join(cluster.FindNode(s, node).GetProblems(), "\n"); !strings.Contains(problems, text) {
			return fmt.Errorf("%s tells %q", node, problems)
		}
		return nil
	}
}

// foreignIsGone waits until the HAProxy that was found has finished.
func (p *pair) foreignIsGone(ctx context.Context, node string) {
	p.t.Helper()
	host := p.Lab.Host(node)
	err := lab.Until(ctx, "the hand-started HAProxy on "+node+" to end", func(context.Context) error {
		pids, err := host.Pids("haproxy")
		if err != nil {
			return err
		}
		for _, pid := range pids {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && bytes.Contains(line, []byte(handmade.HAProxyFile)) {
				return fmt.Errorf("process %d runs", pid)
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// What is asked for too early waits, says what is missing, and can be called
// off. A keepalived that has died since is started as it was found.
func TestTakeoverCalledOffAndAfterADeath(t *testing.T) {
	p := newPair(t, guide.Spec(), func(ctx context.Context, l *lab.Lab) error {
		_, err := guide.Start(ctx, l)
		return err
	}, lab.VIP.Addr())
	ctx := labtest.Deadline(t, time.Minute)
	const master, backup = cluster.Master, cluster.Backup

	file, _ := p.write(ctx, master, backup)
	if _, err := p.Lbctl(ctx, "pool", "add", "web_servers", "--no-wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.agent(ctx, backup, "adopt", "--yes", "--timeout", "3s"); err == nil || !strings.Contains(err.Error(), "the configuration lacks the listener web_frontend") {
		t.Errorf("with half of it in the controller: %v", err)
	}
	p.isBack(backup)
	p.mustAgent(ctx, backup, "release", "--yes")
	if _, err := p.Lbctl(ctx, "apply", "-f", file, "--no-wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Until(ctx, "lb-backup to touch nothing", problem(backup, "nothing is touched")); err != nil {
		t.Fatal(err)
	}
	p.isBack(backup)

	p.mustAgent(ctx, backup, "adopt", "--yes")
	if _, err := p.agent(ctx, backup, "adopt"); err == nil || !strings.Contains(err.Error(), "that somebody else than Tandem has started") {
		t.Errorf("adopt on a node that is Tandem's: %v", err)
	}
	if err := p.Nodes[backup].KillKeepalived(ctx); err != nil {
		t.Fatal(err)
	}
	if err := lab.Until(ctx, "another keepalived on lb-backup", func(context.Context) error {
		pids, err := p.Lab.Host(backup).Pids("keepalived")
		if err == nil && len(pids) == 0 {
			err = errors.New("there is none")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.mustAgent(ctx, backup, "release", "--yes")
	p.isBack(backup)
	p.holds(ctx, master)
	// It stands by again: the VIP moves to it, and nowhere else.
	if _, err := p.Lab.Host(master).SignalAll("keepalived", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := lab.Until(ctx, "the VIP on lb-backup", func(ctx context.Context) error {
		holders, err := p.Lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && !slices.Equal(holders, []string{backup}) {
			err = fmt.Errorf("it is on %v", holders)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
