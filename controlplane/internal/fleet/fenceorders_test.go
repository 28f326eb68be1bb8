package fleet

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A node that takes its time is not told the same once more while it is on its way: what
// it is told about each of many VIPs would pile up.
func TestASlowNodeIsToldOnceAtATime(t *testing.T) {
	const takes = orderTimeout * 3 / 4 // each of two, so that a fence is due before it is renewed
	synctest.Test(t, func(t *testing.T) {
		_, a, b, said := fencing(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(time.Second)
		b.observe(fenced())
		var under atomic.Int32
		for _, n := range []*agent{a, b} {
			n.mu.Lock()
			answer, on := n.commands, n.pipe
			n.commands = func(c *agentv1.Command) *agentv1.CommandResult {
				if under.Add(1) > 1 {
					t.Errorf("%s is told something while a node has not answered yet", n.node)
				}
				r := answer(c)
				r.Id = c.GetId()
				time.AfterFunc(takes, func() {
					under.Add(-1)
					_ = on.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: r}})
				})
				return nil
			}
			n.mu.Unlock()
		}
		said.take()
		pass(10 * time.Second)
		if got := said.take(); len(got) < 8 {
			t.Errorf("it is hardly renewed: told %v", got)
		}
	})
}

// A fence that is lifted while the survivor is asked is not renewed after that.
func TestFenceThatIsLiftedIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, said := fencing(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(moving)
		b.observe(fenced())
		a.mu.Lock()
		answer, survivor := a.commands, a.pipe
		a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			r := answer(c)
			r.Id = c.GetId()
			time.AfterFunc(orderTimeout/2, func() {
				_ = survivor.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: r}})
			})
			return nil
		}
		a.mu.Unlock()
		said.take()
		pass(fenceEvery + orderTimeout/4)
		b.observe(fenced("192.168.1.10"))
		pass(2 * time.Second)
		got, want := said.take(), []string{"lb-master may hold web", "lb-backup may hold web"}
		if !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	})
}

// Many VIPs are fenced with agents that carry out a few commands at a time, and stay
// so. What is told about them is what the loser says of itself.
func TestManyVIPsAreFenced(t *testing.T) {
	const vips, atATime, takes = 60, 4, 10 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		l, a, b, _ := fencing(t)
		for i := range vips {
			l.change(state.CreateVip(fmt.Sprint("vip", i), &tandemv1.Vip{Addresses: []string{fmt.Sprintf("192.168.2.%d/24", i+1)}, Vrid: uint32(100 + i)}))
		}
		pass(time.Second)
		leases := make(map[string]time.Time) // by VIP, until when lb-backup is fenced off
		for _, n := range []*agent{a, b} {
			n.mu.Lock()
			open := 0
			n.commands = func(c *agentv1.Command) *agentv1.CommandResult {
				if open >= atATime {
					return &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, Error: "ask again"}
				}
				open++
				time.AfterFunc(takes, func() {
					n.mu.Lock()
					open--
					if f := c.GetFence(); f != nil && n == b {
						leases[f.GetVip()] = time.Now().Add(f.GetLease().AsDuration())
					}
					n.mu.Unlock()
					_ = n.pipe.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{
						Id: c.GetId(), Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_DONE,
					}}})
				})
				return nil
			}
			n.mu.Unlock()
		}
		all := func(of *agentv1.Observation) *agentv1.Observation {
			one := of.GetInstances().GetInstances()[0]
			for i := range vips {
				more := proto.CloneOf(one)
				more.Name, more.Vip = fmt.Sprint("vip", i), fmt.Sprint("vip", i)
				of.Instances.Instances = append(of.Instances.Instances, more)
			}
			return of
		}
		a.observe(all(split(230)))
		b.observe(all(split(220)))
		pass(moving + 2*vips*takes + time.Second)
		if alarms := l.alarms(); !slices.Contains(alarms, "TWO_HOLDERS web") || slices.Contains(alarms, "FENCED web") {
			t.Errorf("alarms %v: the loser has not said yet that it is fenced off", alarms)
		}
		b.observe(all(fenced()))
		for range 10 {
			pass(time.Second)
			b.mu.Lock()
			for i := range vips {
				if vip := fmt.Sprint("vip", i); !time.Now().Before(leases[vip]) {
					t.Errorf("%s is not fenced off", vip)
				}
			}
			b.mu.Unlock()
		}
		if alarms := l.alarms(); !slices.Contains(alarms, "FENCED web") || slices.Contains(alarms, "TWO_HOLDERS web") {
			t.Errorf("alarms %v", alarms)
		}
	})
}
