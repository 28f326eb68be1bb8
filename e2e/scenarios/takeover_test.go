package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
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
)

// enoughConnections tell that a probe ran all the time. How many there are is
// how long the machine takes for a takeover: half of the fewest seen in two
// seconds, one every 5 ms.
const enoughConnections = 200

// takeOver takes a running pair over and gives it back, under load. No new
// connection to any of the targets fails, and no VIP moves.
func (p *pair) takeOver(targets ...string) {
	ctx := labtest.Deadline(p.t, 90*time.Second)
	file := p.writeOnBoth(ctx)
	var clients []*traffic.Probe
	for _, target := range targets {
		c, err := traffic.StartProbe(ctx, p.Lab.Host("client"), p.labhost, probe.Config{Target: target, Interval: 5 * time.Millisecond, Timeout: 5 * time.Second})
		if err != nil {
			p.t.Fatal(err)
		}
		clients = append(clients, c)
	}
	p.waitToBeAsked(ctx, file)
	stop := p.shownOn(cluster.Master)
	p.adopt(ctx)
	stop()
	p.goOn(ctx)
	stop = p.shownOn(cluster.Master)
	p.release(ctx)
	stop()
	// The agents that come after tell it, too.
	p.restartAgents(ctx)
	if _, err := p.Until(ctx, "lb-master to be shown as the holder", cluster.Connected(clustertest.Both...), heldBy(cluster.Master)); err != nil {
		p.t.Fatal(err)
	}
	p.nobodyWasFrightened(ctx)
	for n, c := range clients {
		report, err := c.Stop(ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Logf("%s: %d new connections, %d failed", targets[n], report.Attempts(), report.Failed())
		if report.Failed() > 0 || report.Attempts() < enoughConnections {
			p.t.Errorf("%s: %d of %d new connections failed: %+v", targets[n], report.Failed(), report.Attempts(), report.Failures)
		}
	}
}

// writeOnBoth has both nodes write what they would manage, which must be alike.
func (p *pair) writeOnBoth(ctx context.Context) (file string) {
	p.t.Helper()
	file, own := p.write(ctx, cluster.Master, cluster.Backup)
	if _, other := p.write(ctx, cluster.Backup, cluster.Master); own[strings.Index(own, "cluster:"):] != other[strings.Index(other, "cluster:"):] {
		p.t.Errorf("the two nodes write different files:\n%s\n%s", own, other)
	}
	return file
}

// waitToBeAsked applies the file. Until somebody says so, nothing is touched.
func (p *pair) waitToBeAsked(ctx context.Context, file string) {
	p.t.Helper()
	if _, err := p.Lbctl(ctx, "apply", "-f", file, "--no-wait"); err != nil {
		p.t.Fatal(err)
	}
	const untouched = "nothing is touched"
	if _, err := p.Until(ctx, "both nodes to say that they touch nothing", problem(cluster.Master, untouched), problem(cluster.Backup, untouched)); err != nil {
		p.t.Fatal(err)
	}
	p.isBack(cluster.Master)
	p.isBack(cluster.Backup)
}

// adopt takes the standby over, and then the holder, which must be meant.
func (p *pair) adopt(ctx context.Context) {
	p.t.Helper()
	const master, backup = cluster.Master, cluster.Backup
	p.mustAgent(ctx, backup, "adopt", "--yes")
	p.holds(ctx, master)
	p.isAside(backup)
	p.isBack(master)
	if _, err := p.agent(ctx, master, "adopt", "--yes"); err == nil || !strings.Contains(err.Error(), "this node holds the VIP") {
		p.t.Errorf("the holder is taken over without a word: %v", err)
	}
	p.mustAgent(ctx, master, "adopt", "--yes", "--holder")
	p.holds(ctx, master)
	p.isAside(master)
	p.settled(ctx)
}

// goOn changes what was taken over, by agents that have started since: how far a
// takeover is survives them.
func (p *pair) goOn(ctx context.Context) {
	p.t.Helper()
	for _, node := range clustertest.Both {
		p.foreignIsGone(ctx, node)
	}
	p.restartAgents(ctx)
	if _, err := p.Lbctl(ctx, "backend", "set", p.backend, "--weight", "7"); err != nil {
		p.t.Fatal(err)
	}
	p.settled(ctx)
	p.holds(ctx, cluster.Master)
}

// release gives both nodes back, the standby first.
func (p *pair) release(ctx context.Context) {
	p.t.Helper()
	for _, node := range []string{cluster.Backup, cluster.Master} {
		p.mustAgent(ctx, node, "release", "--yes")
		p.holds(ctx, cluster.Master)
		p.isBack(node)
		if _, err := p.Until(ctx, "word of the release", unwell(node, "since lb-agent release")); err != nil {
			p.t.Fatal(err)
		}
	}
}

func TestTakeoverOfTheGuidesPair(t *testing.T) {
	t.Parallel()
	p := newPair(t, guide.Spec(), func(ctx context.Context, l *lab.Lab) error {
		_, err := guide.Start(ctx, l)
		return err
	}, lab.VIP.Addr())
	p.backend = "web_servers/web1"
	p.takeOver("192.168.1.100:80")
}

// startWithVirtualMAC starts the guide's pair, with the virtual router's own MAC address as
// Tandem has it.
func startWithVirtualMAC(ctx context.Context, l *lab.Lab) error {
	p, err := guide.Start(ctx, l)
	if err != nil {
		return err
	}
	edit := strings.NewReplacer("virtual_router_id 51", "virtual_router_id 51\n    use_vmac v4-51-eth0\n    vmac_xmit_base",
		lab.VIP.String(), lab.VIP.String()+" noprefixroute")
	for _, n := range []*guide.Node{p.Master, p.Backup} {
		path := n.Host.Path(handmade.KeepalivedFile)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(edit.Replace(string(text))), 0o644); err != nil {
			return err
		}
		if _, err := n.Host.SignalAll("keepalived", syscall.SIGTERM); err != nil {
			return err
		}
		if err := n.Keepalived.Wait(ctx); err != nil {
			return err
		}
		if err := n.StartKeepalived(ctx); err != nil {
			return err
		}
	}
	return p.Held(ctx, guide.MasterName)
}

// A virtual MAC address stays all the time, and so does its device.
func TestTakeoverOfAPairWithAVirtualMAC(t *testing.T) {
	t.Parallel()
	p := newPair(t, guide.Spec(), startWithVirtualMAC, lab.VIP.Addr())
	p.backend = "web_servers/web1"
	ctx := labtest.Deadline(t, 2*time.Minute)
	before := map[string]string{}
	for _, node := range clustertest.Both {
		before[node] = device(ctx, p.Lab.Host(node))
	}
	p.takeOver("192.168.1.100:80")
	for _, node := range clustertest.Both {
		if now := device(ctx, p.Lab.Host(node)); now == "" || now != before[node] {
			t.Errorf("the device of %s is number %q, and was %q", node, now, before[node])
		}
	}
	if out, err := p.Lab.Host("client").Output(ctx, "ip", "neighbor", "show", lab.VIP.Addr().String()); err != nil || !strings.Contains(string(out), virtualMAC) {
		t.Errorf("the client's entry is %s (%v), want %s", out, err, virtualMAC)
	}
}

func TestTakeoverOfAHandmadePair(t *testing.T) {
	t.Parallel()
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

// What is asked for too early waits, says what is missing, and can be called
// off. A keepalived that has died since is started as it was found.
func TestTakeoverCalledOffAndAfterADeath(t *testing.T) {
	t.Parallel()
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
