package wire

import (
	"errors"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// repeats is what a socket has received since there was news. What a network says each
// second without any news in it, such as that a holder advertises and a witness answers,
// is taken at the next beat: it wakes nobody.
type repeats struct {
	kinds   []link.Kind
	scratch []byte
	hushed  []link.Kind // what wakes nobody now
}

// maxRepeats bounds what is remembered of a socket.
const maxRepeats = 16

// hear takes a packet.
func (r *repeats) hear(packet []byte, from link.MAC) {
	var ok bool
	if r.scratch, ok = link.AppendKind(r.scratch[:0], packet, from); !ok || len(r.kinds) == maxRepeats {
		return
	}
	at, known := slices.BinarySearchFunc(r.kinds, r.scratch, func(k link.Kind, s []byte) int {
		switch {
		case string(k) < string(s):
			return -1
		case string(k) > string(s):
			return 1
		default:
			return 0
		}
	})
	if !known {
		r.kinds = slices.Insert(r.kinds, at, link.Kind(r.scratch))
	}
}

// settle ends a second, in which there was news or not, and tells whether something else
// is to wake nobody from now on than before.
func (r *repeats) settle(news bool) (changed bool) {
	if news || len(r.kinds) == maxRepeats {
		r.kinds = r.kinds[:0] // and learn anew
	}
	changed = len(r.kinds) != len(r.hushed)
	r.hushed = slices.Clone(r.kinds)
	return changed
}

// settle has what is said again and again wake nobody, unless there was news in it.
func (e *ear) settle(now time.Time) error {
	news := e.news || e.reach.doubt(now)
	e.news = false
	for n, s := range e.sockets {
		if e.wakeful || !e.repeats[n].settle(news) {
			continue
		}
		err := s.Hush(e.repeats[n].hushed)
		if errors.Is(err, link.ErrAllWake) {
			e.listener.log.Info("each packet wakes this agent", "interface", e.name, "reason", err)
			e.wakeful = true
			return e.stir()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stir has everything wake this ear that comes, as there is news, for a second at least.
func (e *ear) stir() error {
	for n, s := range e.sockets {
		r := &e.repeats[n]
		r.kinds = r.kinds[:0]
		if len(r.hushed) == 0 {
			continue
		}
		r.hushed = nil
		if err := s.Hush(nil); err != nil {
			return err
		}
	}
	return nil
}

// arrival is when a packet came that the kernel has received at a time by the wall clock.
// None has waited for longer than to a beat but for this process or since the clock was
// set, which is nobody's silence.
func arrival(at, now time.Time) time.Time {
	return now.Add(-min(max(now.Round(0).Sub(at), 0), beat.Every))
}
