package report

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// maxSpool bounds the events that wait for the controller.
	maxSpool = 10000
	// maxBatch bounds the events in one message.
	maxBatch = 256
)

// spool is the events that the controller does not have safe. Past maxSpool the
// oldest are dropped, and the controller is told how many.
type spool struct {
	bootID string
	events []*agentv1.Event // in order of their numbers, without a hole
	last   uint64           // the newest number given
	acked  uint64           // the newest number that a controller has had safe
	sent   uint64           // the newest number that this session has sent
}

func (s *spool) add(e *agentv1.Event) {
	s.last++
	e.Sequence, e.Time = s.last, timestamppb.Now()
	s.events = append(s.events, e)
	s.events = s.events[max(0, len(s.events)-maxSpool):]
}

// ack drops events up to one that the controller has safe.
func (s *spool) ack(sequence uint64) {
	s.acked = max(s.acked, min(sequence, s.last))
	for len(s.events) > 0 && s.events[0].GetSequence() <= sequence {
		s.events = s.events[1:]
	}
}

// next returns a batch that this session has not sent. Numbers have no holes,
// so a jump from the last one sent to the first one left is a gap; it carries
// the number before that first one.
func (s *spool) next() *agentv1.EventBatch {
	first := 0
	for first < len(s.events) && s.events[first].GetSequence() <= s.sent {
		first++
	}
	pending := s.events[first:]
	if len(pending) == 0 {
		return nil
	}
	batch := &agentv1.EventBatch{BootId: s.bootID}
	if lost := pending[0].GetSequence() - s.sent - 1; lost > 0 {
		batch.Events = append(batch.Events, &agentv1.Event{
			Sequence: pending[0].GetSequence() - 1,
			Time:     pending[0].GetTime(),
			Kind:     &agentv1.Event_Gap{Gap: lost},
		})
	}
	batch.Events = append(batch.Events, pending[:min(len(pending), maxBatch)]...)
	s.sent = batch.Events[len(batch.Events)-1].GetSequence()
	return batch
}
