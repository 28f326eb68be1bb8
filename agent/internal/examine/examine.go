// Package examine looks at what there is on this machine that keeps a VIP from
// moving and that nobody tells by himself: interfaces, firewalls, what keepalived sends
// and receives, listeners, and servers that HAProxy does not check. It finds facts,
// changes nothing and judges nothing.
package examine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Options are what a node's other parts know.
type Options struct {
	// Networks maps network names to interfaces.
	Networks map[string]string
	// Applied is the target in effect; nil: there is none.
	Applied func() *target.Target
	// State is what the node observes.
	State func() *agentv1.Observation
	// Counts is what keepalived has sent and received, by instances.
	Counts func(context.Context) (map[string]keepalived.Count, error)
}

// onItsWay is how long before ctx's deadline an examination ends, so that whoever has
// set it gets what was found.
const onItsWay = 500 * time.Millisecond

// Node examines the machine until it is done or ctx ends. It takes as long as it takes
// to hear three advertisements of the slowest VIP, 5 s at most.
func Node(ctx context.Context, o Options) *agentv1.Diagnosis {
	if deadline, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-onItsWay))
		defer cancel()
	}
	e := &examination{Options: o, found: &agentv1.Diagnosis{}}
	e.vrrp, e.proxy = &keepalivedv1.Config{}, &haproxyv1.Config{}
	if t := o.Applied(); t != nil {
		e.vrrp = t.Keepalived()
		proxy, err := t.HAProxy()
		e.fail("the configuration of HAProxy", err)
		if err == nil {
			e.proxy = proxy
		}
	}
	e.interfaces()
	e.firewalls()
	e.binds()
	var both sync.WaitGroup
	both.Go(func() { e.servers(ctx) })
	both.Go(func() { e.adverts(ctx) })
	both.Wait()
	return e.found
}

// examination is one of them. Its two goroutines fill in different fields of found.
type examination struct {
	Options
	vrrp  *keepalivedv1.Config
	proxy *haproxyv1.Config

	mu    sync.Mutex // of found.Failures
	found *agentv1.Diagnosis
}

// fail notes what could not be found out; nil is nothing.
func (e *examination) fail(what string, err error) {
	if err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.found.Failures = append(e.found.Failures, fmt.Sprintf("%s: %v", what, err))
}

const (
	// intervals is how many of its advertisements an instance is looked at for, and
	// slack the time on their way.
	intervals = 3
	slack     = 100 * time.Millisecond
	// longest is how long it is looked at, at most.
	longest = 5 * time.Second
)

// adverts counts what keepalived sends and receives for a while.
func (e *examination) adverts(ctx context.Context) {
	all := e.vrrp.GetInstances()
	if len(all) == 0 {
		return
	}
	slowest := slices.MaxFunc(all, func(a, b *keepalivedv1.Instance) int {
		return int(a.GetAdvertInterval().AsDuration() - b.GetAdvertInterval().AsDuration())
	})
	window := min(intervals*slowest.GetAdvertInterval().AsDuration()+slack, longest)
	before, err := e.Counts(ctx)
	began := time.Now()
	if err == nil {
		select {
		case <-time.After(window):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	var after map[string]keepalived.Count
	if err == nil {
		after, err = e.Counts(ctx)
	}
	e.fail("what keepalived sends and receives", err)
	for _, i := range all {
		facts := &agentv1.InstanceFacts{Name: i.GetName(), Vip: i.GetVip(), Network: networkOf(i), Interval: i.GetAdvertInterval()}
		was, counted := before[i.GetName()]
		is, still := after[i.GetName()]
		// A keepalived that was started anew counts from 0.
		if counted && still && is.Sent >= was.Sent && is.Received >= was.Received {
			facts.Window = durationpb.New(time.Since(began))
			facts.Sent, facts.Received = is.Sent-was.Sent, is.Received-was.Received
		}
		e.found.Instances = append(e.found.Instances, facts)
	}
}

// front is the network of an instance that names none.
const front = "front"

// networkOf is the network of an instance's addresses, vrrpNetworkOf the one that it is
// advertised over.
func networkOf(i *keepalivedv1.Instance) string { return cmp.Or(i.GetNetwork(), front) }

func vrrpNetworkOf(i *keepalivedv1.Instance) string { return cmp.Or(i.GetVrrpNetwork(), networkOf(i)) }
