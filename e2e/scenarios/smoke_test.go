// Package scenarios drives the built programs in labs.
package scenarios

import (
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
