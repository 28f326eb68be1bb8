package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// site is the guide's cluster, in good health, and its API.
type site struct {
	*clustertest.Guide
	t      testing.TB
	config tandemv1.ConfigServiceClient
	events tandemv1.EventServiceClient
}

func newSite(t testing.TB) *site {
	t.Helper()
	g := clustertest.Start(t)
	conn, err := g.Controller.Conn()
	if err != nil {
		t.Fatal(err)
	}
	return &site{
		Guide: g, t: t,
		config: tandemv1.NewConfigServiceClient(conn), events: tandemv1.NewEventServiceClient(conn),
	}
}

// in returns the site for a subtest.
func (s *site) in(t testing.TB) *site {
	c := *s
	c.t = t
	return &c
}

// steady is traffic of which nothing may be lost.
var steady = probe.Config{
	Interval: 20 * time.Millisecond, Reused: 6, Inflight: 2, WebSockets: 1,
	Think: 20 * time.Millisecond, Hold: 50 * time.Millisecond, Timeout: 5 * time.Second,
}

// under does something while clients send to the VIP, and fails the test for
// every request that they lose.
func (s *site) under(ctx context.Context, cfg probe.Config, do func()) *probe.Report {
	s.t.Helper()
	report := s.during(ctx, cfg, do)
	if n := report.Failed(); n > 0 {
		s.t.Errorf("%d of %d requests failed, the first %+v", n, report.Attempts(), report.Failures[0])
	}
	return report
}

// during does something while clients send to the VIP.
func (s *site) during(ctx context.Context, cfg probe.Config, do func()) *probe.Report {
	s.t.Helper()
	cfg.Target = "192.168.1.100:80"
	return s.duringAll(ctx, []probe.Config{cfg}, do)[0]
}

// duringAll does something while clients send to several targets.
func (s *site) duringAll(ctx context.Context, all []probe.Config, do func()) []*probe.Report {
	s.t.Helper()
	probes := make([]*traffic.Probe, len(all))
	for n, cfg := range all {
		var err error
		if probes[n], err = traffic.StartProbe(ctx, s.Lab.Host("client"), s.Labhost, cfg); err != nil {
			s.t.Fatal(err)
		}
	}
	do()
	reports := make([]*probe.Report, len(all))
	for n, p := range probes {
		var err error
		if reports[n], err = p.Stop(ctx); err != nil {
			s.t.Fatal(err)
		}
	}
	return reports
}

// call is one call that may change something.
type call func(grpc.CallOption) error

// change makes one change and returns its revision, without waiting for it.
func (s *site) change(what string, do call) uint64 {
	s.t.Helper()
	var header metadata.MD
	if err := do(grpc.Header(&header)); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	values := header.Get("tandem-revision")
	if len(values) != 1 {
		s.t.Fatalf("%s: header tandem-revision is %v, want one number", what, values)
	}
	revision, err := strconv.ParseUint(values[0], 10, 64)
	if err != nil {
		s.t.Fatalf("%s: header tandem-revision: %v", what, err)
	}
	return revision
}

// inEffect waits until a revision, or a newer one, is applied on both nodes.
func (s *site) inEffect(ctx context.Context, revision uint64) {
	s.t.Helper()
	if _, err := s.Until(ctx, fmt.Sprintf("revision %d on both nodes", revision), since(revision)); err != nil {
		s.t.Fatal(err)
	}
}

// since holds when both nodes have applied a revision or a newer one.
func since(revision uint64) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		for _, node := range clustertest.Both {
			if n := cluster.FindNode(status, node); n.GetApplied() < revision {
				return fmt.Errorf("%s has applied %d (%s)", node, n.GetApplied(), n.GetFailure())
			}
		}
		return nil
	}
}

// head is the number of the newest revision.
func (s *site) head(ctx context.Context) uint64 {
	s.t.Helper()
	status, err := s.Status(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return status.GetDesired()
}

// reloads counts HAProxy's reloads on both nodes.
func (s *site) reloads(ctx context.Context) (sum uint64) {
	s.t.Helper()
	status, err := s.Status(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range status.GetNodes() {
		sum += n.GetReloads()
	}
	return sum
}

// lbctl runs lbctl, which must succeed, and returns what it prints.
func (s *site) lbctl(ctx context.Context, args ...string) string {
	s.t.Helper()
	out, err := s.Lbctl(ctx, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// healthy waits until all is well.
func (s *site) healthy(ctx context.Context) {
	s.t.Helper()
	if _, err := s.Until(ctx, "a cluster in good health", clustertest.Healthy()...); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition at most so long.
func (s *site) until(d time.Duration, what string, condition func(context.Context) error) {
	s.t.Helper()
	if err := lab.Until(labtest.Deadline(s.t, d), what, condition); err != nil {
		s.t.Fatal(err)
	}
}

// backendName is the name of a backend of the pool web_servers.
func backendName(id string) string { return cluster.Name + "/pools/web_servers/backends/" + id }

// setTimeout changes the cluster's client timeout, which needs a reload.
func (s *site) setTimeout(ctx context.Context, d time.Duration) call {
	return func(o grpc.CallOption) error {
		_, err := s.config.UpdateCluster(ctx, clientTimeout(d), o)
		return err
	}
}

// restructuring is the nth of changes that HAProxy is reloaded for on both nodes,
// or, each tenth, keepalived.
func (s *site) restructuring(ctx context.Context, n int) call {
	if n%10 > 0 {
		return s.setTimeout(ctx, time.Minute+time.Duration(n)*time.Second)
	}
	step := uint32(n / 10 % 10)
	return func(o grpc.CallOption) error {
		_, err := s.config.UpdateVip(ctx, &tandemv1.UpdateVipRequest{
			Vip: &tandemv1.Vip{Name: cluster.Name + "/vips/web",
				Priorities: map[string]uint32{cluster.Master: 220 + step, cluster.Backup: 210 + step}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"priorities"}},
		}, o)
		return err
	}
}

// allEvents reads the whole log, the oldest first.
func (s *site) allEvents(ctx context.Context) ([]*tandemv1.Event, error) {
	var all []*tandemv1.Event
	request := &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1000}
	for {
		page, err := s.events.ListEvents(ctx, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetEvents()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			slices.Reverse(all)
			return all, nil
		}
	}
}
