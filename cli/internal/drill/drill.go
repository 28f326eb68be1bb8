// Package drill measures for how long a VIP answers nobody: it opens new connections
// to one of its listeners all the time, as clients do, each with one attempt.
package drill

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// Interval is how often a connection is opened, and what a measure is exact to.
	Interval = 10 * time.Millisecond
	// patience is how long one may take: a lost packet is sent again after a second.
	patience = 3 * time.Second
	// most are open at a time; those beyond wait, and count from when they were due.
	most = 256
)

// Target is what is asked.
type Target struct {
	// Address is IP:port.
	Address string
	// Probe is the request of an HTTP listener; nil: to be connected is an answer.
	Probe *tandemv1.Probe
}

// String is the target as people write it.
func (t Target) String() string {
	if t.Probe == nil {
		return "tcp://" + t.Address
	}
	return "http://" + t.Address + cmp.Or(t.Probe.GetPath(), "/")
}

// ServerError is an answer with a status of 500 or above: a node that holds the VIP and
// reaches no backend gives such ones, and so may a backend.
type ServerError struct {
	// Status is its status line, such as "503 Service Unavailable".
	Status string
}

func (e *ServerError) Error() string { return "it answers " + e.Status }

// Ask opens one connection and waits for the answer. Any whole answer of HTTP counts,
// unless the listener says which one, but for a *ServerError.
func (t Target) Ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Address)
	if err != nil || t.Probe == nil {
		if err == nil {
			_ = conn.Close() // nothing was said
		}
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	host := cmp.Or(t.Probe.GetHost(), t.Address)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+cmp.Or(t.Probe.GetPath(), "/"), nil)
	if err != nil {
		return err
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch want := int(t.Probe.GetExpectedStatus()); {
	case want != 0 && answer.StatusCode != want:
		return fmt.Errorf("it answers %s", answer.Status)
	case want == 0 && answer.StatusCode >= http.StatusInternalServerError:
		return &ServerError{answer.Status}
	}
	return nil
}

// Measure is what came of the connections of a while.
type Measure struct {
	// Blackout is the longest time between two answers that are no *ServerError, or
	// between the first or last and the begin or end.
	Blackout time.Duration
	// Requests that were made, how many of them got no answer, and how many of them a
	// *ServerError.
	Requests, Failed, Errors int
	// Failure is why the first of them got none, and Error the first *ServerError; nil:
	// there is none.
	Failure error
	Error   *ServerError
}

// Watch is a measurement under way.
type Watch struct {
	end  context.CancelFunc
	done chan Measure
}

// Begin begins to ask all the time, until End.
func Begin(ctx context.Context, ask func(context.Context) error) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watch{cancel, make(chan Measure, 1)}
	go func() { w.done <- watch(ctx, ask) }()
	return w
}

// End ends it, waits for the answers that are under way, and tells what came of all.
func (w *Watch) End() Measure {
	w.end()
	return <-w.done
}

// answer to one connection.
type answer struct {
	due, at time.Time
	err     error
}

func watch(ctx context.Context, ask func(context.Context) error) Measure {
	began := time.Now()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	var asking sync.WaitGroup
	var mu sync.Mutex
	var answers []answer
	room := make(chan struct{}, most)
	for ended := false; !ended; {
		select {
		case due := <-tick.C:
			asking.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				// One that is under way at the end is no loss.
				err := ask(context.WithoutCancel(ctx))
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, answer{due, time.Now(), err})
			})
		case <-ctx.Done():
			ended = true
		}
	}
	end := time.Now()
	asking.Wait()
	return measure(answers, began, end)
}

// measure sums the answers up. What comes after the end was due before.
func measure(answers []answer, began, end time.Time) Measure {
	m := Measure{Requests: len(answers)}
	slices.SortFunc(answers, func(a, b answer) int { return a.due.Compare(b.due) })
	var good []time.Time
	for _, a := range answers {
		if a.err == nil {
			good = append(good, a.at)
			continue
		}
		var server *ServerError
		if errors.As(a.err, &server) {
			m.Errors, m.Error = m.Errors+1, cmp.Or(m.Error, server)
			continue
		}
		if m.Failed == 0 {
			m.Failure = a.err
		}
		m.Failed++
	}
	slices.SortFunc(good, time.Time.Compare)
	last := began
	for _, at := range good {
		m.Blackout, last = max(m.Blackout, at.Sub(last)), at
	}
	m.Blackout = max(m.Blackout, end.Sub(last))
	return m
}
