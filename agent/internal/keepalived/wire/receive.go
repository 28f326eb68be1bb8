package wire

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

// poll takes what comes until a time, and returns a time before that: by it
// nobody has been silent whose packets waited while this process had no turn.
func (e *ear) poll(ctx context.Context, until time.Time) (now time.Time, err error) {
	if soon := time.Now().Add(time.Millisecond); until.Before(soon) {
		until = soon // nobody is heard in no time
	}
	ready, now, err := e.poller.ready(until)
	if err != nil {
		return now, err
	}
	if e.roused = slices.Contains(ready, int32(e.wake)); e.roused {
		var counter [8]byte
		_, _ = unix.Read(e.wake, counter[:])
	}
	if slices.Contains(ready, e.changes.FD()) {
		e.stale = true
	}
	flood := false
	for n, s := range e.sockets {
		full, err := e.drain(s, &e.repeats[n], slices.Contains(ready, s.FD()))
		if err != nil {
			return now, err
		}
		flood = flood || full
	}
	for _, s := range e.broad {
		full, err := e.drain(s, nil, slices.Contains(ready, s.FD()))
		if err != nil {
			return now, err
		}
		flood = flood || full
	}
	if flood {
		e.news = true
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	return now, nil
}

// drain takes what waits in a socket, which is said to have packets that wake or not, and
// tells whether there may be more.
func (e *ear) drain(s *link.Socket, repeats *repeats, woken bool) (full bool, err error) {
	isARP := s == e.arp || e.broad != nil && s == e.broad[0]
	take := func(p []byte, from link.MAC, at time.Time) {
		if repeats != nil {
			repeats.hear(p, from)
		}
		e.packet(p, from, isARP, arrival(at, time.Now()), at)
	}
	count := 0
	switch {
	case woken:
		count, err = s.Receive(atOnce, take)
	case s.Aside():
		count, err = s.ReceiveAside(atOnce, take)
	}
	return count >= atOnce, err
}

// packet takes one packet, which the kernel has received at a time.
func (e *ear) packet(p []byte, from link.MAC, isARP bool, now, at time.Time) {
	if e.table.own[from] {
		return
	}
	e.reach.hear(now)
	if !isARP {
		if host, ok := link.ParseSource(p); ok && e.beside(host).IsValid() {
			e.reach.meet(host, now)
		}
		if a, err := vrrp.Parse(p); err == nil {
			e.table.advert(&a, from, now)
			e.table.arrived(&a, from, at)
		} else if claimed, ok := link.ParseAdvertisement(p); ok {
			e.table.claim(claimed, from, now)
		}
		return
	}
	claimed, ok := link.ParseARP(p)
	if ok && claimed == e.gateway {
		e.at, e.answered, e.answers = from, now, true
		e.table.gateway = from
	}
	if ok && link.IsAnswerTo(p, e.on.HardwareAddr) {
		e.reach.answer(claimed, from, now)
	}
	if ok {
		e.reach.meet(claimed, now)
		e.table.claim(claimed, from, now)
	}
	if wanted, ok := link.ParseRequest(p); ok {
		e.table.ask(wanted, from, now)
	}
}
