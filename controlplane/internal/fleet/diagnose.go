package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/diagnose"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// diagnoseTimeout bounds the wait for one node's answer: an agent listens for 5 s at
// most.
const diagnoseTimeout = 8 * time.Second

// errNoDiagnosis is why a node that does not answer is asked no longer.
var errNoDiagnosis = errors.New("no answer within 8 s")

// Diagnose looks for what would keep a VIP of a cluster from moving, any VIP with an
// empty id: it asks all nodes at once what there is on them and judges that together
// with what they observe. The nodes of a cluster are asked one question at a time, whose
// answers all share who have asked before it begins. The error is that of ctx, or
// ErrUnknownCluster.
func (f *Fleet) Diagnose(ctx context.Context, cluster, vip string) (*tandemv1.Diagnosis, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	answers, err := c.askAll(ctx)
	if err != nil {
		return nil, err
	}
	// The newest one: what the operator has just changed is what he asks about.
	head, err := f.options.Ledger.Head(cluster)
	if err != nil {
		return nil, err
	}
	d := diagnose.Judge(c.facts(head, vip, answers))
	d.CreateTime = timestamppb.Now()
	return d, nil
}

// diagnosed is what a node has answered.
type diagnosed struct {
	found *agentv1.Diagnosis
	err   error
}

// inquiry is one question to all nodes.
type inquiry struct {
	done    chan struct{}        // closed when all have answered, or will not
	answers map[string]diagnosed // by node, then
}

// inquiries are those of a cluster: one at a time. Whoever asks meanwhile shares the next
// one, not the one under way, which may have passed over what an operator has just
// changed. The cluster's lock guards them.
type inquiries struct{ running, next *inquiry }

// askAll returns what all nodes answer to a question that they are asked from now on. The
// error is that of ctx, whose end ends no question: an agent goes on with it anyway.
func (c *cluster) askAll(ctx context.Context) (map[string]diagnosed, error) {
	q := c.inquire() //nolint:contextcheck // it goes on for those who share it
	select {
	case <-q.done:
		return q.answers, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// inquire returns the next inquiry, which begins when the one under way has ended.
func (c *cluster) inquire() *inquiry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inquiries.next == nil {
		c.inquiries.next = &inquiry{done: make(chan struct{})}
	}
	next := c.inquiries.next
	if c.inquiries.running == nil {
		c.inquiries = inquiries{running: next}
		go c.runInquiries(next)
	}
	return next
}

// runInquiries asks until nobody waits for another inquiry. Each takes diagnoseTimeout at
// most, and ends with the nodes' sessions.
func (c *cluster) runInquiries(q *inquiry) {
	for q != nil {
		q.answers = c.askNodes()
		close(q.done)
		c.mu.Lock()
		q = c.inquiries.next
		c.inquiries = inquiries{running: q}
		c.mu.Unlock()
	}
}

// askNodes asks all nodes at once. A node that does not answer has an error.
func (c *cluster) askNodes() map[string]diagnosed {
	c.mu.Lock()
	nodes := slices.Sorted(maps.Keys(c.nodes))
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), diagnoseTimeout, errNoDiagnosis)
	defer cancel()
	answers := make([]diagnosed, len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		asking.Go(func() {
			result, err := c.ask(ctx, node, &agentv1.Command{Kind: &agentv1.Command_Diagnose{Diagnose: &agentv1.DiagnoseCommand{}}})
			if err == nil && result.GetDiagnosis() == nil {
				err = errors.Join(ErrNotDone, errors.New(result.GetError()))
			}
			answers[i] = diagnosed{result.GetDiagnosis(), err}
		})
	}
	asking.Wait()
	all := make(map[string]diagnosed, len(nodes))
	for i, node := range nodes {
		all[node] = answers[i]
	}
	return all
}

// facts are what is known of the cluster now, with what is desired of it and what the
// nodes have answered.
func (c *cluster) facts(head *state.Config, vip string, answers map[string]diagnosed) *diagnose.Facts {
	c.mu.Lock()
	defer c.mu.Unlock()
	facts := &diagnose.Facts{Config: head, VIP: vip, Version: c.options.Version, Unfit: make(map[string]map[string]string)}
	for _, x := range head.Nodes() {
		node := lastID(x.GetName())
		facts.Nodes = append(facts.Nodes, c.nodeFacts(node, answers[node]))
	}
	for _, v := range head.Vips() {
		id := lastID(v.GetName())
		facts.Unfit[id] = make(map[string]string)
		if h := c.vips[id]; h != nil && len(h.nodes) == 1 {
			_, facts.Unfit[id] = c.takers(id, h.nodes[0])
		}
	}
	return facts
}

// nodeFacts are those of one node. The lock is held.
func (c *cluster) nodeFacts(id string, answer diagnosed) diagnose.Node {
	n := c.nodes[id]
	if n == nil || n.session == nil || !n.observed.reported {
		return diagnose.Node{ID: id}
	}
	facts := diagnose.Node{
		ID: id, Connected: true,
		Failed: n.failed, Failure: n.failure, Waiting: c.waiting(n),
		Drained: c.drained(n), DrainedThere: slices.ContainsFunc(n.observed.local, func(l *agentv1.LocalChange) bool { return l.GetDrain() }),
		HAProxy: n.observed.haproxy, Keepalived: n.observed.keepalived,
		Score: n.observed.score, Problems: slices.Clone(n.observed.problems),
		Interfaces: n.interfaces, Instances: maps.Clone(n.observed.instances), Backends: maps.Clone(n.observed.backends),
		Diagnosis: answer.found, TooOld: errors.Is(answer.err, ErrTooOld),
	}
	if n.base != nil {
		facts.Structure = n.base.Version().GetStructure()
	}
	if answer.err != nil {
		facts.Silence = answer.err.Error()
	}
	return facts
}

// maxFacts bounds each list of a node's diagnosis.
const maxFacts = 1024

// boundedDiagnosis copies what an agent has found.
func boundedDiagnosis(d *agentv1.Diagnosis) *agentv1.Diagnosis {
	if d == nil {
		return nil
	}
	out := &agentv1.Diagnosis{Failures: boundedTexts(d.GetFailures(), maxProblems, maxReason)}
	for _, n := range first(d.GetNetworks()) {
		out.Networks = append(out.Networks, &agentv1.NetworkFacts{
			Network: bounded(n.GetNetwork(), maxWord), Interface: bounded(n.GetInterface(), maxWord),
			Exists: n.GetExists(), Up: n.GetUp(), Carrier: n.GetCarrier(), Addresses: boundedTexts(n.GetAddresses(), maxProblems, maxWord),
			ReversePathFilter: n.GetReversePathFilter(), ArpIgnore: n.GetArpIgnore(), Ipv6Disabled: n.GetIpv6Disabled(),
		})
	}
	for _, i := range first(d.GetInstances()) {
		out.Instances = append(out.Instances, &agentv1.InstanceFacts{
			Name: bounded(i.GetName(), maxWord), Vip: bounded(i.GetVip(), maxWord), Network: bounded(i.GetNetwork(), maxWord),
			Interval: i.GetInterval(), Window: i.GetWindow(), Sent: i.GetSent(), Received: i.GetReceived(),
		})
	}
	for _, r := range first(d.GetDrops()) {
		out.Drops = append(out.Drops, &agentv1.FirewallDrop{
			Network: bounded(r.GetNetwork(), maxWord), Outgoing: r.GetOutgoing(), Ipv6: r.GetIpv6(), Certain: r.GetCertain(),
			Family: bounded(r.GetFamily(), maxWord), Table: bounded(r.GetTable(), maxWord), Base: bounded(r.GetBase(), maxWord),
			Chain: bounded(r.GetChain(), maxWord), Handle: r.GetHandle(), Packets: r.Packets, Owner: bounded(r.GetOwner(), maxWord),
		})
	}
	for _, b := range first(d.GetBinds()) {
		out.Binds = append(out.Binds, &agentv1.BindFacts{
			Frontend: bounded(b.GetFrontend(), maxWord), Address: bounded(b.GetAddress(), maxWord), Port: b.GetPort(), Listens: b.GetListens(),
		})
	}
	for _, s := range first(d.GetServers()) {
		out.Servers = append(out.Servers, &agentv1.ServerFacts{
			Pool: bounded(s.GetPool(), maxWord), Backend: bounded(s.GetBackend(), maxWord), Error: bounded(s.GetError(), maxReason),
		})
	}
	return out
}

// first are as many of a list as are taken.
func first[T any](list []T) []T { return list[:min(len(list), maxFacts)] }

func boundedTexts(texts []string, most, limit int) []string {
	var out []string
	for _, text := range texts[:min(len(texts), most)] {
		out = append(out, bounded(text, limit))
	}
	return out
}
