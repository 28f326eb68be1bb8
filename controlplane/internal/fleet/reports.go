package fleet

import (
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// An agent that has much to tell, out of its spool or out of malice, is
// listened to in portions: the log's queue belongs to all nodes.
const (
	portion = 256
	pause   = 10 * time.Millisecond
	// maxWaiting and maxWaitingBytes bound the events of one session that wait for
	// their turn. Those beyond are lost, and the log tells how many. An agent's
	// spool is smaller.
	maxWaiting      = 1 << 14
	maxWaitingBytes = 8 << 20
)

// waiting is an event that waits for its turn.
type waiting struct {
	boot  string
	event *agentv1.Event
	size  int
}

// events takes a batch in.
func (s *session) events(batch *agentv1.EventBatch) {
	boot := bounded(batch.GetBootId(), maxWord)
	resting := len(s.waiting) > 0
	for _, e := range batch.GetEvents() {
		if len(s.waiting) == maxWaiting || s.waitingBytes >= maxWaitingBytes {
			break
		}
		e = boundedEvent(e)
		size := proto.Size(e)
		s.waiting = append(s.waiting, waiting{boot, e, size})
		s.waitingBytes += size
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
		allowed := n.budget.take(min(len(s.waiting), portion), time.Now())
		for _, w := range s.waiting[:allowed] {
			if !s.cluster.agentEvent(n, w.boot, w.event) {
				break
			}
			logged++
			s.waitingBytes -= w.size
		}
		n.budget.put(allowed - logged) // the log was full
		s.cluster.acknowledge(n)       // in case all of them were repeats
	})
	s.waiting = s.waiting[logged:]
	if len(s.waiting) > 0 {
		s.rest.Reset(pause)
	} else {
		s.waiting = nil
	}
}
