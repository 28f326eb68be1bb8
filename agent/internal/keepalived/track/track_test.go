package track

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What people call a track is in statuses, events and logs, and has no secrets.
func TestNamesHaveNoQuery(t *testing.T) {
	for want, s := range map[string]Spec{
		"gateway":                         {Kind: Gateway},
		"ping 192.0.2.1":                  {Kind: Ping, Target: "192.0.2.1"},
		"url http://192.0.2.1/up":         {Kind: URL, Target: "http://192.0.2.1/up"},
		"url https://192.0.2.1:8443/?...": {Kind: URL, Target: "https://192.0.2.1:8443/?token=secret"},
		"network back":                    {Kind: Link, Target: "back"},
	} {
		if got := s.Name(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

var errLost = errors.New("no answer")

// A verdict takes as many outcomes in a row as its spec says; the first one counts by
// itself.
func TestVerdictNeedsOutcomesInARow(t *testing.T) {
	for outcomes, want := range map[string]string{ // + is an answer, - none; L lost, . not
		"+":           ".",
		"-":           "L",
		"+--":         "...",
		"+---":        "...L",
		"+--+--+---":  ".........L",
		"-+":          "LL",
		"-++":         "LL.",
		"-+-+++":      "LLLL..",
		"+---+-++---": "...LLLL...L",
	} {
		y := tally{spec: Spec{Rise: 2, Fall: 3}}
		var got strings.Builder
		for n, o := range outcomes {
			var err error
			if o == '-' {
				err = errLost
			}
			before := y.Verdict
			if changed := y.take(err, time.Unix(int64(n), 0)); changed != (before != y.Verdict) {
				t.Errorf("%s: outcome %d: changed is %v", outcomes, n, changed)
			}
			if !y.Known || y.Lost != (y.Reason != "") {
				t.Errorf("%s: outcome %d: %+v", outcomes, n, y.Verdict)
			}
			got.WriteString(map[bool]string{true: "L", false: "."}[y.Lost])
		}
		if got.String() != want {
			t.Errorf("%s: %s, want %s", outcomes, got.String(), want)
		}
	}
}

// What two share is asked for once, what nobody watches no longer, and what is known of
// the rest stays.
func TestWatcherAsksForWhatIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := map[string]*atomic.Int32{"a": {}, "b": {}}
		w := newWatcher(func(_ context.Context, s Spec) error {
			counts[s.Target].Add(1)
			if s.Target == "b" {
				return errLost
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- w.Run(ctx) }()
		spec := func(target string) Spec {
			return Spec{Kind: Ping, Target: target, Interval: time.Second, Timeout: time.Second / 2, Rise: 1, Fall: 1}
		}
		w.Watch([]Spec{spec("a"), spec("b"), spec("a")})
		<-time.After(4500 * time.Millisecond)
		synctest.Wait()
		if a, b := counts["a"].Load(), counts["b"].Load(); a != 5 || b != 5 {
			t.Errorf("asked %d and %d times, want 5", a, b)
		}
		if v := w.Verdict(spec("b")); !v.Known || !v.Lost || v.Reason != "no answer" || time.Since(v.Since) != 4500*time.Millisecond {
			t.Errorf("%+v", v)
		}
		<-w.Changed()
		w.Watch([]Spec{spec("b")})
		<-w.Changed()
		<-time.After(5 * time.Second)
		synctest.Wait()
		if a, b := counts["a"].Load(), counts["b"].Load(); a != 5 || b != 10 {
			t.Errorf("asked %d and %d times, want 5 and 10", a, b)
		}
		if v := w.Verdict(spec("a")); v != (Verdict{}) {
			t.Errorf("nobody watches it: %+v", v)
		}
		if v := w.Verdict(spec("b")); time.Since(v.Since) != 9500*time.Millisecond {
			t.Errorf("forgotten: %+v", v)
		}
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A question that took longer than it may says nothing: the agent had no turn.
func TestAPauseOfTheAgentLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pause atomic.Int64
		w := newWatcher(func(ctx context.Context, _ Spec) error {
			if d := time.Duration(pause.Load()); d > 0 {
				<-time.After(d)
				return context.DeadlineExceeded
			}
			return nil
		})
		s := Spec{Kind: Ping, Interval: time.Second, Timeout: time.Second / 2, Rise: 1, Fall: 1}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- w.Run(ctx) }()
		w.Watch([]Spec{s})
		for _, test := range []struct {
			pause time.Duration
			lost  bool
		}{{0, false}, {s.Timeout + 2*paused, false}, {s.Timeout, true}} {
			pause.Store(int64(test.pause))
			<-time.After(5 * time.Second)
			synctest.Wait()
			if v := w.Verdict(s); v.Lost != test.lost {
				t.Errorf("after pauses of %v: %+v", test.pause, v)
			}
		}
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
