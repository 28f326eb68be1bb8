package guide_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// running is the guide's cluster, up and serving.
type running struct {
	*guide.Pair
	lab     *lab.Lab
	labhost string
}

func start(t *testing.T) *running {
	t.Helper()
	l := labtest.Start(t, guide.Spec())
	r := &running{lab: l, labhost: labtest.Labhost(t)}
	ctx := labtest.Deadline(t, 30*time.Second)
	if _, err := traffic.StartWebs(ctx, l, r.labhost); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.Pair, err = guide.Start(ctx, l); err != nil {
		t.Fatal(err)
	}
	return r
}

// target is where clients find the cluster.
var target = net.JoinHostPort(lab.VIP.Addr().String(), "80")

func (r *running) probe(t *testing.T, cfg probe.Config) *traffic.Probe {
	t.Helper()
	cfg.Target, cfg.Timeout = target, time.Second
	p, err := traffic.StartProbe(labtest.Deadline(t, 20*time.Second), r.lab.Host("client"), r.labhost, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func stop(t *testing.T, p *traffic.Probe) *probe.Report {
	t.Helper()
	report, err := p.Stop(labtest.Deadline(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// sample is the client that shows outages.
var sample = probe.Config{Interval: 10 * time.Millisecond}

func TestGuideServes(t *testing.T) {
	t.Parallel()
	r := start(t)
	client := r.lab.Host("client")
	t.Run("requests are spread", func(t *testing.T) {
		out, err := client.Output(t.Context(), "bash", "-c", `for i in {1..9}; do curl -s http://192.168.1.100/ | grep "Server"; done | sort | uniq -c | xargs`)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(out)), "3 Server: web1 3 Server: web2 3 Server: web3"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("statistics page", func(t *testing.T) {
		for auth, want := range map[string]string{"admin:password123": "200", "admin:wrong": "401"} {
			out, err := client.Output(t.Context(), "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", auth, "http://192.168.1.100:8080/stats")
			if err != nil || string(out) != want {
				t.Errorf("as %s: got %s, %v, want %s", auth, out, err, want)
			}
		}
	})
	t.Run("all kinds of traffic pass", func(t *testing.T) {
		p := r.probe(t, probe.Config{
			Interval: 10 * time.Millisecond, Reused: 4, Inflight: 2, Downloads: 1, WebSockets: 2,
			Think: 10 * time.Millisecond, Hold: 100 * time.Millisecond,
		})
		if report := stop(t, p); report.Failed() > 0 || len(report.Kinds) != 7 {
			t.Errorf("got kinds %v and failures %+v, want 7 kinds without failures", report.Kinds, report.Failures)
		}
	})
}

// The guide's own words: "when the master fails, the backup takes over".
func TestGuideSurvivesCutMaster(t *testing.T) {
	t.Parallel()
	r := start(t)
	p := r.probe(t, sample)
	if err := r.Master.Host.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The address goes with keepalived's knowledge of its carrier.
	if err := r.Held(labtest.Deadline(t, 15*time.Second), guide.BackupName); err != nil {
		t.Fatal(err)
	}
	report := stop(t, p)
	if gap := report.LongestGap; gap.Open || gap.MS < 2000 || gap.MS > 8000 {
		t.Errorf("outage: got %+v, want 3 adverts of 1 s, closed", gap)
	}
	t.Logf("outage with the port down: %.0f ms", report.LongestGap.MS)
}

func TestGuideRestartsKilledHAProxy(t *testing.T) {
	t.Parallel()
	r := start(t)
	p := r.probe(t, sample)
	if err := r.Master.KillHAProxy(labtest.Deadline(t, 5*time.Second)); err != nil {
		t.Fatal(err)
	}
	answers := 0
	until(t, "the VIP to answer again, the probe as well", func(ctx context.Context) error {
		_, err := r.lab.Host("client").Output(ctx, "curl", "-sf", "-m", "1", "http://192.168.1.100/")
		if answers++; err != nil {
			answers = 0
		} else if answers < 10 {
			err = errors.New("the probe may not have asked since")
		}
		return err
	})
	report := stop(t, p)
	t.Logf("outage until the check script has started HAProxy again: %+v", report.LongestGap)
	if gap := report.LongestGap; gap.Open || gap.MS < 50 || gap.MS > 4000 {
		t.Errorf("outage: got %+v, want one check interval and a start", gap)
	}
}

// The priorities 100 and 90 with weight -2 never let the backup take over.
func TestGuideNeverMovesFromDeadHAProxy(t *testing.T) {
	t.Parallel()
	r := start(t)
	p := r.probe(t, sample)
	if err := errors.Join(r.Master.Break(), r.Master.KillHAProxy(labtest.Deadline(t, 5*time.Second))); err != nil {
		t.Fatal(err)
	}
	// Until the check has failed three times there is nothing to react to.
	if err := r.Master.Keepalived.Logged(labtest.Deadline(t, 40*time.Second), "to 98"); err != nil {
		t.Fatal(err)
	}
	ctx := labtest.Deadline(t, 5*time.Second)
	if err := r.Held(ctx, guide.BackupName); err == nil {
		t.Error("the VIP moved: the guide's files work")
	}
	if err := r.Held(labtest.Deadline(t, time.Second), guide.MasterName); err != nil {
		t.Error(err)
	}
	if gap := stop(t, p).LongestGap; !gap.Open {
		t.Errorf("outage: got %+v, want one without end", gap)
	}
}

func until(t *testing.T, what string, condition func(context.Context) error) {
	t.Helper()
	if err := lab.Until(labtest.Deadline(t, 20*time.Second), what, condition); err != nil {
		t.Fatal(err)
	}
}
