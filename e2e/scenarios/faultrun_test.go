package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// faultCount is how many faults a whole run has.
	faultCount = 100
	// recovery is how long after a fault's end exactly one node holds each VIP and
	// every client reaches it, at the latest.
	recovery = 5 * time.Second
	// repair is how long after it both nodes are as good as new, at the latest, so
	// that the next fault is the only one.
	repair = 30 * time.Second
	// handing is how long the VIP may take to go back to its node after that, with
	// nobody or two that hold it, or a client that does not reach it.
	handing = 500 * time.Millisecond
)

// faultRun is a site that stands one fault after the other.
type faultRun struct {
	*site
	t       *testing.T
	clients []*faultClient
	watch   *lab.AddressWatch
	past    []pastFault
	longest time.Duration // until all was well for clients
}

// activeVIP is a VIP of a pair of which each node holds one.
type activeVIP struct {
	id      string
	address netip.Addr
	home    string // who holds it when all is well
}

var activeVIPs = []activeVIP{
	{"web", lab.VIP.Addr(), cluster.Master},
	{"web2", netip.MustParseAddr("192.168.1.101"), cluster.Backup},
}

// pastFault is a fault that is over.
type pastFault struct {
	fault
	index                int
	begun, ended, mended time.Time
}

// faultTime is when a run of faults is to end. A whole run takes the time that it
// needs.
func faultTime(end time.Time) time.Time {
	if time.Until(end) < longestRun-time.Minute {
		return end
	}
	return end.Add(time.Hour)
}

// After each of 100 random faults exactly one node holds each VIP and clients
// reach it, and the event log tells what happened.
func TestRandomFaults(t *testing.T) {
	seed, end := runOf(t)
	s := newSite(t)
	r := newFaultRun(t, s)
	r.stand(s.drawFaults(seed, faultCount, true), faultTime(end))
	r.verify()
}

// The same while the controller is dead. It hears of everything when it is back.
func TestRandomFaultsWithoutController(t *testing.T) {
	seed, end := runOf(t)
	s := newSite(t)
	r := newFaultRun(t, s)
	if err := s.Controller.Kill(); err != nil {
		t.Fatal(err)
	}
	r.stand(s.drawFaults(seed, faultCount, false), faultTime(end))
	if err := s.Controller.Start(labtest.Deadline(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	r.verify()
}

// newFaultRun gives the other node a VIP as well, and has clients ask both.
func newFaultRun(t *testing.T, s *site) *faultRun {
	t.Helper()
	r := &faultRun{site: s, t: t}
	ctx := labtest.Deadline(t, time.Minute)
	second := activeVIPs[1]
	s.lbctl(ctx, "vip", "add", second.id, second.address.String()+"/24", "--vrid", "52", "--priority", "lb-master=210", "--priority", "lb-backup=230")
	s.lbctl(ctx, "listener", "add", "web2_frontend", "--vip", second.id, "--port", "80", "--protocol", "http", "--pool", "web_servers")
	var addresses []netip.Addr
	for _, v := range activeVIPs {
		addresses = append(addresses, v.address)
		if _, err := s.Until(ctx, v.id+" on "+v.home, cluster.HeldBy(v.id, v.home)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	hosts := []*lab.Host{s.Master().Host, s.Backup().Host}
	if r.watch, err = lab.WatchAddresses(t.Context(), hosts, addresses...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.watch.Close(); err != nil {
			t.Error(err)
		}
	})
	r.clients = s.startFaultClients(t.Context(), t, addresses...)
	return r
}

// stand goes through the faults until the time is over.
func (r *faultRun) stand(faults []fault, end time.Time) {
	r.t.Helper()
	for i, f := range faults {
		if time.Now().After(end) {
			r.t.Logf("%d of %d faults in the time given", i, len(faults))
			break
		}
		r.standOne(i, f)
	}
	r.t.Logf("%d faults; clients had their VIP at most %s after the end of one", len(r.past), r.longest.Round(time.Millisecond))
}

// standOne makes one fault and waits until nothing is left of it.
func (r *faultRun) standOne(index int, f fault) {
	r.t.Helper()
	ctx := labtest.Deadline(r.t, time.Minute) // what a condition lacks is not hidden by its own deadline
	p := pastFault{fault: f, index: index, begun: time.Now()}
	err := f.begin(ctx)
	if err == nil && f.end != nil {
		if f.lasts > recovery {
			r.bear(ctx, p)
		}
		wait(ctx, time.Until(p.begun.Add(f.lasts)))
		err = f.end(ctx)
	}
	if err != nil {
		r.t.Fatalf("fault %d, %s: %v", index, f, err)
	}
	p.ended = time.Now()
	bounded, cancel := context.WithDeadline(ctx, p.ended.Add(recovery))
	defer cancel()
	if err := lab.Until(bounded, "each VIP to be held by one node and reached", func(context.Context) error {
		return errors.Join(r.heldOnce(ctx), reachedBy(r.clients, p.ended))
	}); err != nil {
		r.t.Fatalf("fault %d, %s: %v\n%s", index, f, err, r.scene(ctx))
	}
	reached := time.Since(p.ended)
	r.longest = max(r.longest, reached)
	bounded, cancel = context.WithDeadline(ctx, p.ended.Add(repair))
	defer cancel()
	if err := lab.Until(bounded, "both nodes to be as good as new", func(context.Context) error { return r.asGoodAsNew(ctx) }); err != nil {
		r.t.Fatalf("fault %d, %s: %v\n%s", index, f, err, r.scene(ctx))
	}
	// What was well right after the fault may have been lost and found meanwhile.
	good := time.Now()
	bounded, cancel = context.WithDeadline(ctx, latest(p.ended.Add(recovery), good.Add(2*faultAttempt)))
	defer cancel()
	if err := lab.Until(bounded, "each VIP to be reached on good nodes", func(context.Context) error {
		return errors.Join(r.heldOnce(ctx), reachedBy(r.clients, good))
	}); err != nil {
		r.t.Fatalf("fault %d, %s: %v\n%s", index, f, err, r.scene(ctx))
	}
	p.mended = time.Now()
	r.t.Logf("fault %d: %s: clients %s, nodes %s after its end", index, f, reached.Round(time.Millisecond), good.Sub(p.ended).Round(time.Millisecond))
	r.past = append(r.past, p)
}

// heldOnce asks the kernels whether one node alone holds each VIP.
func (r *faultRun) heldOnce(ctx context.Context) error {
	for _, v := range activeVIPs {
		holders, err := r.Lab.Holders(ctx, v.address)
		if err != nil {
			return err
		}
		if len(holders) != 1 {
			return fmt.Errorf("%s is held by %v", v.address, holders)
		}
	}
	return nil
}

// asGoodAsNew asks both agents, which need no controller for an answer.
func (r *faultRun) asGoodAsNew(ctx context.Context) error {
	for _, name := range clustertest.Both {
		out, err := r.Nodes[name].LbAgent(ctx, "status", "-o", "json")
		if err != nil {
			return err
		}
		status := &localv1.GetStatusResponse{}
		if err := protojson.Unmarshal(out, status); err != nil {
			return err
		}
		if score := status.GetScore().GetTotal(); score != 0 || len(status.GetLocalChanges()) > 0 {
			return fmt.Errorf("%s has the score %d and %d local changes", name, score, len(status.GetLocalChanges()))
		}
		for _, v := range activeVIPs {
			if err := v.isHome(name, status.GetVips()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// isHome tells what a node has of a VIP that it should not have.
func (v activeVIP) isHome(node string, has []*localv1.VipStatus) error {
	want := agentv1.VrrpState_VRRP_STATE_BACKUP
	if v.home == node {
		want = agentv1.VrrpState_VRRP_STATE_MASTER
	}
	i := slices.IndexFunc(has, func(s *localv1.VipStatus) bool { return s.GetVip() == v.id })
	if i < 0 {
		return fmt.Errorf("no VIP %s", v.id)
	}
	if s := has[i]; s.GetState() != want || s.GetHolds() != (v.home == node) {
		return fmt.Errorf("VIP %s is %s, its address is held: %v", v.id, s.GetState(), s.GetHolds())
	}
	return nil
}

// bear holds that the pair does without the node where the fault is, in the end of
// the time that it has for that.
func (r *faultRun) bear(ctx context.Context, p pastFault) {
	r.t.Helper()
	since := p.begun.Add(recovery - 2*faultAttempt)
	wait(ctx, time.Until(since))
	bounded, cancel := context.WithDeadline(ctx, p.begun.Add(recovery))
	defer cancel()
	if err := lab.Until(bounded, "each VIP to be held by one node and reached while a fault lasts", func(context.Context) error {
		return errors.Join(r.heldOnce(ctx), reachedBy(r.clients, since))
	}); err != nil {
		r.t.Errorf("fault %d, %s: %v\n%s", p.index, p.fault, err, r.scene(ctx))
	}
}

// scene is what there is to see where a fault was not stood.
func (r *faultRun) scene(ctx context.Context) string {
	var b strings.Builder
	changes, err := r.watch.Changes(ctx)
	fmt.Fprintln(&b, "addresses, by the kernels:", err)
	for _, c := range changes[max(0, len(changes)-20):] {
		fmt.Fprintln(&b, " ", c)
	}
	for _, name := range clustertest.Both {
		out, err := r.Nodes[name].LbAgent(ctx, "status")
		fmt.Fprintf(&b, "lb-agent status on %s: %v\n%s", name, err, out)
		text, err := os.ReadFile(r.Nodes[name].LogDir() + "/keepalived-state.log")
		if err != nil {
			fmt.Fprintln(&b, err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "keepalived-state.log of %s:\n%s\n", name, strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	for _, name := range []string{"client", "client2"} {
		out, err := r.Lab.Host(name).Output(ctx, "ip", "neighbour")
		fmt.Fprintf(&b, "neighbours of %s: %v\n%s", name, err, out)
	}
	return b.String()
}
