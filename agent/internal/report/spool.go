package report

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// maxSpool and maxSpoolBytes bound the events that wait for the controller.
	maxSpool      = 10000
	maxSpoolBytes = 4 << 20
	// maxBatch bounds the events in one message, maxBatchBytes their size but for
	// the last one's.
	maxBatch      = 256
	maxBatchBytes = 256 << 10
	// maxLosses bounds the starts of the agent whose losses are told apart.
	maxLosses = 256
)

// spool is the events that the controller does not have safe: those that former
// starts of the agent left behind, then its own. Past its bounds the oldest are
// dropped, and the controller is told how many.
type spool struct {
	bootID string
	last   uint64 // the newest number given

	waiting []waiting // in order
	dropped []loss    // right before them, in order
	bytes   int       // of those that wait
	sent    int       // how many of them this session has had
	kept    int       // how many of them are on disk

	acked position // the newest that a controller has had safe
	at    position // the newest that this session has had
}

// waiting is an event in the spool.
type waiting struct {
	boot  string
	event *agentv1.Event
	size  int
}

// loss is n events in a row that the spool has dropped, the last of them.
type loss struct {
	position
	n uint64
}

// position names an event. Numbers of one boot have no holes.
type position struct {
	boot     string
	sequence uint64
}

func (s *spool) add(e *agentv1.Event) {
	s.last++
	e.Sequence, e.Time = s.last, timestamppb.Now()
	s.push(waiting{boot: s.bootID, event: e, size: proto.Size(e)})
}

func (s *spool) push(w waiting) {
	s.waiting = append(s.waiting, w)
	s.bytes += w.size
	drop, bytes := max(0, len(s.waiting)-maxSpool), s.bytes
	for _, d := range s.waiting[:drop] {
		bytes -= d.size
	}
	for ; bytes > maxSpoolBytes && drop < len(s.waiting)-1; drop++ {
		bytes -= s.waiting[drop].size
	}
	for _, d := range s.waiting[:drop] {
		s.lose(loss{position{d.boot, d.event.GetSequence()}, 1})
	}
	s.forget(drop)
}

// lose notes a loss right before those that wait.
func (s *spool) lose(l loss) {
	n := len(s.dropped)
	switch {
	case n > 0 && s.dropped[n-1].boot == l.boot:
		s.dropped[n-1].sequence = l.sequence
		s.dropped[n-1].n += l.n
	case n == maxLosses:
		s.dropped[1].n += s.dropped[0].n
		s.dropped = append(s.dropped[1:], l)
	default:
		s.dropped = append(s.dropped, l)
	}
}

// forget takes the n oldest out.
func (s *spool) forget(n int) {
	for _, w := range s.waiting[:n] {
		s.bytes -= w.size
	}
	clear(s.waiting[:n]) // what append leaves behind holds nothing
	s.waiting = s.waiting[n:]
	s.sent, s.kept = max(0, s.sent-n), max(0, s.kept-n)
}

// through is how many of those that wait are not after p. ok tells whether p's
// boot is among them.
func (s *spool) through(p position) (n int, ok bool) {
	for i, w := range s.waiting {
		if w.boot != p.boot {
			continue
		}
		ok = true
		if w.event.GetSequence() > p.sequence {
			return i, true
		}
		n = i + 1
	}
	return n, ok
}

// begin starts a session with a controller that has the events up to p; the
// zero position if it has none. What it had safe once and has forgotten is no
// gap.
func (s *spool) begin(p position) {
	n, ok := s.through(p)
	if !ok && (p.boot != s.acked.boot || p.sequence < s.acked.sequence) && s.acked != (position{}) {
		p = s.acked
	}
	if p.boot == s.acked.boot {
		p.sequence = max(p.sequence, s.acked.sequence)
	}
	s.sent, s.at = n, p
}

// ack drops events up to one that the controller has safe.
func (s *spool) ack(p position) {
	n, ok := s.through(p)
	if !ok {
		return // of a boot that is dealt with, or of none of this node's
	}
	if n > 0 {
		s.acked = position{s.waiting[n-1].boot, s.waiting[n-1].event.GetSequence()}
		s.dropped = nil // the controller has been told
	}
	s.forget(n)
}

// next returns a batch that this session has not sent, of one boot. A gap
// carries the number before the first event after it.
func (s *spool) next() *agentv1.EventBatch {
	pending := s.waiting[s.sent:]
	if len(pending) == 0 {
		return nil
	}
	first := pending[0]
	batch := &agentv1.EventBatch{BootId: first.boot}
	if lost := s.lostBefore(first); lost > 0 {
		batch.Events = append(batch.Events, &agentv1.Event{
			Sequence: first.event.GetSequence() - 1, Time: first.event.GetTime(), Kind: &agentv1.Event_Gap{Gap: lost},
		})
	}
	for bytes := 0; len(pending) > 0 && len(batch.Events) < maxBatch && bytes < maxBatchBytes && pending[0].boot == first.boot; pending = pending[1:] {
		bytes += pending[0].size
		batch.Events = append(batch.Events, pending[0].event)
		s.sent++
	}
	s.at = position{first.boot, batch.Events[len(batch.Events)-1].GetSequence()}
	return batch
}

// lostBefore is how many events between the last one that the session has had
// and w, which comes next, the spool does not have.
func (s *spool) lostBefore(w waiting) (n uint64) {
	if w.boot == s.at.boot {
		return w.event.GetSequence() - s.at.sequence - 1
	}
	if s.sent == 0 {
		for _, l := range s.lostAfter(s.at) {
			n += l.n
		}
	}
	return n
}

// lostAfter is what of the losses comes after p.
func (s *spool) lostAfter(p position) []loss {
	after := slices.Clone(s.dropped)
	if i := slices.IndexFunc(after, func(l loss) bool { return l.boot == p.boot }); i >= 0 {
		after = after[i:]
		after[0].n = min(after[0].n, after[0].sequence-min(after[0].sequence, p.sequence))
	}
	return slices.DeleteFunc(after, func(l loss) bool { return l.n == 0 })
}
