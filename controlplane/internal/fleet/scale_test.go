package fleet

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// BenchmarkOneChange measures the way of one changed weight to all agents of a
// cluster and of their acks back, without a network; B/agent is the heap that
// one agent costs the controller, its simulation included.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{2, 1000, 10000} {
		b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) { benchmarkOneChange(b, n) })
	}
}

func benchmarkOneChange(b *testing.B, n int) {
	l := newLab(b)
	l.change(func(d *state.Draft) error {
		for i := range n {
			if err := state.AddNode(fmt.Sprint("n", i), fmt.Sprint("uid-n", i))(d); err != nil {
				return err
			}
		}
		return nil
	})
	before := heap()
	var left atomic.Int64
	done := make(chan struct{})
	left.Store(int64(n))
	for i := range n {
		a := l.agent(fmt.Sprint("n", i))
		a.judge = func(*agentv1.Update) *agentv1.Nack {
			if left.Add(-1) == 0 {
				done <- struct{}{}
			}
			return nil
		}
		a.connect()
	}
	<-done
	l.untilApplied()
	perAgent := (heap() - before) / float64(n)
	weights := uint32(0)
	for b.Loop() {
		left.Store(int64(n))
		weights++
		l.change(weight(weights % 250))
		<-done
		l.untilApplied()
	}
	b.ReportMetric(perAgent, "B/agent")
}

// untilApplied waits until the controller has every node's ack.
func (l *lab) untilApplied() {
	c := l.fleet.clusters[home]
	for all := false; !all; runtime.Gosched() {
		all = true
		c.mu.Lock()
		for _, n := range c.nodes {
			all = all && n.applied == c.head.Revision()
		}
		c.mu.Unlock()
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
