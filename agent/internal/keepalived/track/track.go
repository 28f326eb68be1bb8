// Package track asks whether something outside the node works that a VIP needs: a
// gateway, a host, a URL. It knows nothing of keepalived; it touches nothing.
package track

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is how something is asked for.
type Kind int

// Kinds.
const (
	// Gateway by ARP or neighbour solicitation.
	Gateway Kind = iota + 1
	// Ping by ICMP echo.
	Ping
	// URL by a GET.
	URL
	// Link by the state of an interface, which is no question: it counts at once.
	Link
)

// Spec says what is asked for, and when it counts as lost. Two VIPs with the same one
// share the answers.
type Spec struct {
	Kind Kind
	// Target is the address, the URL, or for Link the network. That of a Gateway may be
	// empty: the interface's default gateway.
	Target string
	// Interface of the VIP: Gateway asks there, Ping where Target is a link-local
	// address. Of a Link it is the network's.
	Interface string
	// Six asks for the default gateway of IPv6.
	Six bool
	// Lowest and Highest are the statuses of a URL that are right.
	Lowest, Highest int
	// Interval between two questions, and Timeout of one, at most as long.
	Interval, Timeout time.Duration
	// Rise is how many answers in a row it takes to count again, Fall how many
	// questions without one to count as lost.
	Rise, Fall int
}

// Name is what people call it, such as "ping 192.168.1.1". A URL goes without its query,
// which may hold a secret: names are in statuses, events and logs.
func (s *Spec) Name() string {
	name := map[Kind]string{Gateway: "gateway", Ping: "ping", URL: "url", Link: "network"}[s.Kind]
	target := s.Target
	if before, _, found := strings.Cut(target, "?"); found && s.Kind == URL {
		target = before + "?..."
	}
	if target != "" {
		name += " " + target
	}
	return name
}

// Verdict is what is known of a Spec.
type Verdict struct {
	// Known tells that there was an answer, or none: the first outcome of all counts
	// by itself.
	Known bool
	// Lost tells that it does not work.
	Lost bool
	// Reason of that.
	Reason string
	// Since when it is so.
	Since time.Time
}

// Watcher asks while Run runs. Its methods may be called from any goroutine.
type Watcher struct {
	ask     func(context.Context, Spec) error
	stir    chan struct{} // depth one: the specs have changed
	changed chan struct{} // depth one

	mu    sync.Mutex // held for memory only
	tests map[Spec]*tally
}

// New returns a watcher that asks for nothing yet.
func New() *Watcher { return newWatcher(ask) }

func newWatcher(ask func(context.Context, Spec) error) *Watcher {
	return &Watcher{ask: ask, stir: make(chan struct{}, 1), changed: make(chan struct{}, 1), tests: make(map[Spec]*tally)}
}

// Watch makes the specs those given; what is known of those that were there before
// stays. It does not block.
func (w *Watcher) Watch(specs []Spec) {
	w.mu.Lock()
	old := w.tests
	w.tests = make(map[Spec]*tally)
	for _, s := range specs {
		if w.tests[s] = old[s]; w.tests[s] == nil {
			w.tests[s] = &tally{spec: s}
		}
	}
	w.mu.Unlock()
	put(w.stir)
	put(w.changed)
}

// Changed has an entry when a Verdict, or what is watched, has changed.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Verdict is what is known of a spec now.
func (w *Watcher) Verdict(s Spec) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tests[s]; t != nil {
		return t.Verdict
	}
	return Verdict{}
}

// Run asks until ctx is done: one goroutine a spec, which ends when that is watched no
// longer.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	ends := make(map[Spec]context.CancelFunc)
	for {
		w.mu.Lock()
		specs := slices.Collect(maps.Keys(w.tests))
		w.mu.Unlock()
		for s, end := range ends {
			if !slices.Contains(specs, s) {
				end()
				delete(ends, s)
			}
		}
		for _, s := range specs {
			if ends[s] != nil {
				continue
			}
			one, end := context.WithCancel(ctx)
			ends[s] = end
			if s.Kind == Link {
				asking.Go(func() { w.follow(one, s) })
				continue
			}
			asking.Go(func() { w.repeat(one, s) })
		}
		select {
		case <-w.stir:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// paused is how much longer than its timeout a question may take that counts: one of
// an agent that had no turn meanwhile says nothing.
const paused = 200 * time.Millisecond

// repeat asks for one spec, again and again.
func (w *Watcher) repeat(ctx context.Context, s Spec) {
	tick := time.NewTicker(s.Interval)
	defer tick.Stop()
	for {
		began := time.Now()
		asking, cancel := context.WithTimeout(ctx, s.Timeout)
		err := w.ask(asking, s)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if now := time.Now(); err == nil || now.Sub(began) < s.Timeout+paused {
			w.take(s, err, now)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// take notes the outcome of a question.
func (w *Watcher) take(s Spec, err error, now time.Time) {
	w.mu.Lock()
	t := w.tests[s]
	news := t != nil && t.take(err, now)
	w.mu.Unlock()
	if news {
		put(w.changed)
	}
}

// tally counts the outcomes of one spec.
type tally struct {
	Verdict
	spec   Spec
	streak int // outcomes in a row that speak against the verdict
}

// take takes an outcome and tells whether the verdict has changed by it.
func (t *tally) take(err error, now time.Time) bool {
	old := t.Verdict
	lost := err != nil
	switch {
	case !t.Known:
		t.Known, t.Lost, t.Since = true, lost, now
	case lost == t.Lost:
		t.streak = 0
	default:
		t.streak++
		if lost && t.streak >= t.spec.Fall || !lost && t.streak >= t.spec.Rise {
			t.Lost, t.Since, t.streak = lost, now, 0
		}
	}
	switch {
	case !t.Lost:
		t.Reason = ""
	case lost:
		t.Reason = err.Error()
	}
	return t.Verdict != old
}

func put(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
