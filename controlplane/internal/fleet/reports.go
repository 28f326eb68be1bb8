package fleet

import (
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// An agent that has much to tell, out of its spool or out of malice, is
// listened to in portions: the log's queue belongs to all nodes.
const (
	portion = 256
	pause   = 10 * time.Millisecond
	// maxWaiting bounds the events of one session that wait for their turn.
	// Those beyond are lost, and the log tells how many. Each is bounded itself.
	maxWaiting = 1 << 15
)

// waiting is an event that waits for its turn.
type waiting struct {
	boot  string
	event *agentv1.Event
}

// events takes a batch in.
func (s *session) events(batch *agentv1.EventBatch) {
	boot := bounded(batch.GetBootId(), maxWord)
	resting := len(s.waiting) > 0
	for _, e := range batch.GetEvents()[:min(len(batch.GetEvents()), maxWaiting-len(s.waiting))] {
		s.waiting = append(s.waiting, waiting{boot, boundedEvent(e)})
	}
	if !resting {
		s.logPortion()
	}
}

// logPortion logs events that wait, each once and in order, as far as the log
// takes them. The rest waits until s.rest fires. They are acknowledged when they
// are durable.
func (s *session) logPortion() {
	logged := 0
	s.cluster.with(s, func(n *node) {
		for _, w := range s.waiting[:min(len(s.waiting), portion)] {
			if !s.cluster.agentEvent(n, w.boot, w.event) {
				break
			}
			logged++
		}
		s.cluster.acknowledge(n) // in case all of them were repeats
	})
	s.waiting = s.waiting[logged:]
	if len(s.waiting) > 0 {
		s.rest.Reset(pause)
	} else {
		s.waiting = nil
	}
}
