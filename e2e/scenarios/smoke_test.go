// Package scenarios drives the built programs in labs.
package scenarios

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// The guide's cluster comes up from its file, serves every kind of traffic from
// every web server, and moves its VIP when HAProxy dies.
func TestGuideClusterServes(t *testing.T) {
	g := clustertest.Start(t)
	ctx := labtest.Deadline(t, 30*time.Second)
	p, err := traffic.StartProbe(ctx, g.Lab.Host("client"), g.Labhost, probe.Config{
		Target: "192.168.1.100:80", Timeout: time.Second,
		Interval: 10 * time.Millisecond, Reused: 4, Inflight: 2, Downloads: 1, WebSockets: 2,
		Think: 10 * time.Millisecond, Hold: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := p.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed() > 0 || len(report.Kinds) != 7 || len(report.Servers) != 3 {
		t.Errorf("got kinds %v from %v and failures %+v, want 7 kinds from 3 servers without failures", report.Kinds, report.Servers, report.Failures)
	}

	punctual(t, g.Master())
	if err := g.Master().StopHAProxy(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Until(ctx, "the VIP on lb-backup", cluster.HeldBy("web", cluster.Backup)); err != nil {
		t.Fatal(err)
	}
	if err := g.Master().LetHAProxyRun(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Until(ctx, "a cluster in good health again", clustertest.Healthy()...); err != nil {
		t.Fatal(err)
	}
}

// punctual fails the test unless a node's daemons have timers as exact as any, and its
// agent, which would not rest, such as may be late.
func punctual(t *testing.T, n *cluster.Node) {
	t.Helper()
	slack := func(pid int) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for _, daemon := range []string{"haproxy", "keepalived"} {
		pids, err := n.Host.Pids(daemon)
		if err != nil || len(pids) == 0 {
			t.Fatalf("%s: processes %v, %v", daemon, pids, err)
		}
		for _, pid := range pids {
			if got := slack(pid); got != "50000" && got != "0" { // one of real-time priority has none
				t.Errorf("%s, process %d: a timer slack of %s ns", daemon, pid, got)
			}
		}
	}
	agent := n.Agent().PID()
	info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", agent))
	if err != nil {
		t.Fatal(err)
	}
	linkedWithC := slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "CGO_ENABLED" && s.Value == "1" })
	if got := slack(agent); got != "1000000" && !linkedWithC { // as for the race detector
		t.Errorf("agent: a timer slack of %s ns", got)
	}
}
