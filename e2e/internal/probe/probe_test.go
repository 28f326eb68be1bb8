package probe

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/internal/web"
)

// relay passes connections on to a web server and breaks them as told. Pieces
// and connections are counted over the whole relay, from 1.
type relay struct {
	backend string
	// resetUp resets the connection that brings that piece from a client,
	// resetDown the one for which the server has that piece; 0 for none.
	resetUp, resetDown int64
	// refuse resets the connections with these numbers as they come.
	refuse func(connection int64) bool

	up, down, connections atomic.Int64
}

// start serves until the test ends and returns the address to connect to.
func (r *relay) start(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	backend, front := listen(t), listen(t)
	r.backend = backend.Addr().String()
	var running sync.WaitGroup
	running.Go(func() {
		if err := web.Serve(ctx, backend, "web1"); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.pass(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = front.Close()
		running.Wait()
	})
	return front.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (r *relay) pass(ctx context.Context, client net.Conn) {
	if n := r.connections.Add(1); r.refuse != nil && r.refuse(n) {
		reset(client)
		return
	}
	server, err := net.Dial("tcp", r.backend)
	if err != nil {
		reset(client)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { r.copy(server, client, &r.up, r.resetUp) })
	both.Go(func() { r.copy(client, server, &r.down, r.resetDown) })
	both.Wait()
}

// copy passes pieces on until one side ends or the piece to reset at comes.
func (r *relay) copy(to, from net.Conn, count *atomic.Int64, resetAt int64) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && count.Add(1) == resetAt {
			reset(to)
			reset(from)
			return
		}
		if n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// run probes for a while.
func run(t *testing.T, cfg Config, d time.Duration) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	rep, err := Run(ctx, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// traffic is one configuration a kind.
var traffic = map[string]struct {
	cfg   Config
	kinds []Kind
	down  bool // reset while the answer comes
}{
	"new":       {cfg: Config{Interval: 5 * time.Millisecond}, kinds: []Kind{New}},
	"reused":    {cfg: Config{Reused: 3, Think: 5 * time.Millisecond}, kinds: []Kind{ReusedGet, ReusedPost}},
	"inflight":  {cfg: Config{Inflight: 3, Hold: 20 * time.Millisecond}, kinds: []Kind{InflightGet, InflightPost}},
	"download":  {cfg: Config{Downloads: 2, Hold: 50 * time.Millisecond, Think: time.Millisecond}, kinds: []Kind{Download}, down: true},
	"websocket": {cfg: Config{WebSockets: 3, Think: 5 * time.Millisecond}, kinds: []Kind{WebSocket}},
}

func TestNoResetIsNoFailure(t *testing.T) {
	for name, test := range traffic {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &relay{}
			test.cfg.Target, test.cfg.Timeout = r.start(t), 10*time.Second
			rep := run(t, test.cfg, 300*time.Millisecond)
			if rep.Failed() != 0 {
				t.Errorf("got failures: %+v", rep.Failures)
			}
			for _, kind := range test.kinds {
				if rep.Kinds[kind].Attempts < 3 {
					t.Errorf("attempts of kind %s: got %d, want some", kind, rep.Kinds[kind].Attempts)
				}
			}
			if len(rep.Kinds) != len(test.kinds) {
				t.Errorf("kinds: got %v, want %v", rep.Kinds, test.kinds)
			}
			if got := rep.Servers["web1"]; got != rep.Attempts() {
				t.Errorf("answers of web1: got %d, want all %d", got, rep.Attempts())
			}
		})
	}
}

func TestOneResetIsOneFailure(t *testing.T) {
	for name, test := range traffic {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &relay{resetUp: 8}
			if test.down {
				r = &relay{resetDown: 8}
			}
			test.cfg.Target, test.cfg.Timeout = r.start(t), 10*time.Second
			rep := run(t, test.cfg, 500*time.Millisecond)
			if rep.Failed() != 1 || len(rep.Failures) != 1 || rep.Failed(test.kinds...) != 1 {
				t.Fatalf("got %d failures: %+v, want 1", rep.Failed(), rep.Failures)
			}
			f := rep.Failures[0]
			if f.Phase == "" || f.Error == "" || f.At.Before(rep.Start) || f.At.After(rep.End) {
				t.Errorf("failure lacks its phase, error or time: %+v", f)
			}
			if rep.Attempts() < 5 {
				t.Errorf("got %d attempts: the reset ended the run", rep.Attempts())
			}
		})
	}
}

func TestWrongAnswersAreFailures(t *testing.T) {
	// A connection that is accepted and then silent.
	silent := listen(t)
	defer silent.Close()
	rep := run(t, Config{Target: silent.Addr().String(), Interval: 10 * time.Millisecond, Timeout: 50 * time.Millisecond}, 100*time.Millisecond)
	if rep.Kinds[New].Attempts < 2 || rep.Kinds[New].Failed != rep.Kinds[New].Attempts {
		t.Errorf("silent server: got %+v, want every attempt failed", rep.Kinds[New])
	}
	if !rep.LongestGap.Open || rep.LongestGap.MS < 90 {
		t.Errorf("longest gap: got %+v, want the whole run, open", rep.LongestGap)
	}
}

func TestOutageShowsAsGap(t *testing.T) {
	const from, to = 40, 100 // 60 connections at one every 5 ms: 300 ms
	r := &relay{refuse: func(n int64) bool { return n >= from && n < to }}
	rep := run(t, Config{Target: r.start(t), Interval: 5 * time.Millisecond, Timeout: time.Second}, time.Second)
	if got := rep.Kinds[New].Failed; got != to-from {
		t.Errorf("failed: got %d, want %d", got, to-from)
	}
	if ms := rep.LongestGap.MS; ms < 250 || ms > 600 || rep.LongestGap.Open {
		t.Errorf("longest gap: got %+v, want about 300 ms, closed", rep.LongestGap)
	}
	if len(rep.Gaps) == 0 {
		t.Error("no gap listed")
	}
}

func TestAnswersSayWhen(t *testing.T) {
	r := &relay{}
	rep := run(t, Config{Target: r.start(t), Interval: 5 * time.Millisecond, Timeout: time.Second, Answers: true}, 100*time.Millisecond)
	if len(rep.Answers) != rep.Attempts() || len(rep.Answers) < 3 {
		t.Fatalf("got %d answers of %d attempts", len(rep.Answers), rep.Attempts())
	}
	for i, a := range rep.Answers {
		if a.Server != "web1" || a.Kind != New || (i > 0 && a.At.Before(rep.Answers[i-1].At)) {
			t.Errorf("answer %d: %+v: want web1, in order of time", i, a)
		}
	}
}

func TestGaps(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(ms ...int) (times []time.Time) {
		for _, m := range ms {
			times = append(times, zero.Add(time.Duration(m)*time.Millisecond))
		}
		return times
	}
	gap := func(from, to int, open bool) Gap {
		return Gap{From: at(from)[0], To: at(to)[0], MS: float64(to - from), Open: open}
	}
	for _, test := range []struct {
		name     string
		answered []time.Time
		longest  Gap
		all      []Gap
	}{
		{"steady", at(10, 20, 30, 40, 50, 60, 70, 80, 90), gap(0, 10, false), nil},
		{"outage", at(10, 20, 70, 80, 90), gap(20, 70, false), []Gap{gap(20, 70, false)}},
		{"never back", at(10, 20), gap(20, 100, true), []Gap{gap(20, 100, true)}},
		{"late start", at(60, 70, 80, 90), gap(0, 60, false), []Gap{gap(0, 60, false)}},
		{"nothing", nil, gap(0, 100, true), []Gap{gap(0, 100, true)}},
		{"answer after the end", at(50, 110), gap(50, 110, false), []Gap{gap(0, 50, false), gap(50, 110, false)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			longest, all := gaps(zero, test.answered, at(100)[0], 25*time.Millisecond)
			if diff := cmp.Diff(test.longest, longest); diff != "" {
				t.Errorf("longest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.all, all); diff != "" {
				t.Errorf("all (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Target: "127.0.0.1:1", Interval: time.Second, Timeout: time.Second}
	for name, spoil := range map[string]func(*Config){
		"no target":     func(c *Config) { c.Target = "" },
		"nothing":       func(c *Config) { c.Interval = 0 },
		"negative":      func(c *Config) { c.Reused = -1 },
		"no timeout":    func(c *Config) { c.Timeout = 0 },
		"negative hold": func(c *Config) { c.Hold = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			spoil(&cfg)
			if _, err := Run(t.Context(), cfg, func() {}); err == nil {
				t.Errorf("config %+v is accepted", cfg)
			}
		})
	}
}
