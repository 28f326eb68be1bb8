// Package probe counts what clients of a load balancer lose. Its clients work
// on sockets of their own and make one attempt each: nothing is retried, so
// that one reset connection counts as one failure. Kinds of traffic are counted
// apart, because they break for different reasons.
package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Kind names a kind of traffic in a report.
type Kind string

// The kinds of traffic.
const (
	New          Kind = "new"           // a connection a request
	ReusedGet    Kind = "reused_get"    // GET on a connection idle before
	ReusedPost   Kind = "reused_post"   // POST on a connection idle before
	InflightGet  Kind = "inflight_get"  // GET whose answer takes long to begin
	InflightPost Kind = "inflight_post" // POST whose answer takes long to begin
	Download     Kind = "download"      // a long answer
	WebSocket    Kind = "websocket"     // a message and its echo
)

// Config says what to send. The zero count or interval of a kind leaves it out.
type Config struct {
	// Target is the address and port to connect to; a literal address, as name
	// look-ups would be measured too.
	Target string
	// Interval opens a new connection that often, whether or not earlier ones
	// were answered, so that outages show to about twice the interval.
	Interval time.Duration
	// Reused is the number of keep-alive clients; each alternates GET and POST.
	Reused int
	// Inflight is the number of keep-alive clients whose requests, alternately
	// GET and POST, are answered after Hold.
	Inflight int
	// Downloads is the number of clients that download over Hold.
	Downloads int
	// WebSockets is the number of clients that exchange messages.
	WebSockets int
	// Think is the pause between two requests of a client. An inflight client
	// pauses only after a failure.
	Think time.Duration
	// Hold is how long a slow answer or a download takes.
	Hold time.Duration
	// Timeout bounds one attempt, connecting included, on top of Hold.
	Timeout time.Duration
	// Answers adds the time and server of every answer to the report.
	Answers bool
}

func (c Config) check() error {
	switch {
	case c.Target == "":
		return errors.New("target missing: want an address and port, like 192.168.1.100:80")
	case c.Interval < 0 || c.Reused < 0 || c.Inflight < 0 || c.Downloads < 0 || c.WebSockets < 0:
		return errors.New("interval and numbers of clients: want 0 or more")
	case c.Interval == 0 && c.Reused+c.Inflight+c.Downloads+c.WebSockets == 0:
		return errors.New("nothing to send: want an interval or a number of clients")
	case c.Timeout <= 0:
		return fmt.Errorf("timeout %s: want more than 0", c.Timeout)
	case c.Think < 0 || c.Hold < 0:
		return errors.New("think and hold times: want 0 or more")
	}
	return nil
}

// Run sends until the context ends, then lets the attempts under way finish
// and returns what was counted. It calls warm once, when each client has had
// its first answer.
func Run(ctx context.Context, cfg Config, warm func()) (*Report, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var (
		rec     = newRecorder(cfg.Answers)
		clients sync.WaitGroup
		cold    sync.WaitGroup
	)
	start := func(c client, think time.Duration) {
		cold.Add(1)
		first := sync.OnceFunc(cold.Done)
		clients.Go(func() {
			defer first()
			loop(ctx, c, think, rec, first)
		})
	}
	if cfg.Interval > 0 {
		cold.Add(1)
		first := sync.OnceFunc(cold.Done)
		clients.Go(func() {
			defer first()
			fresh(ctx, cfg, rec, first)
		})
	}
	for range cfg.Reused {
		start(&keepAlive{cfg: cfg, get: ReusedGet, post: ReusedPost, path: "/"}, cfg.Think)
	}
	for range cfg.Inflight {
		start(&keepAlive{cfg: cfg, get: InflightGet, post: InflightPost, path: slowPath(cfg.Hold), hold: cfg.Hold}, 0)
	}
	for range cfg.Downloads {
		start(&downloader{cfg: cfg}, cfg.Think)
	}
	for range cfg.WebSockets {
		start(&socket{cfg: cfg}, cfg.Think)
	}
	cold.Wait()
	warm()
	clients.Wait()
	return rec.report(cfg.Interval), nil
}

// client makes one attempt at a time.
type client interface {
	// attempt sends one request and reads its answer. It connects first if it
	// must. An error leaves the client unconnected.
	attempt(ctx context.Context) result
	close()
}

// result is one attempt.
type result struct {
	kind       Kind
	start, end time.Time
	server     string
	err        error
}

// afterFailure is the least pause before a client connects again: one that is
// refused at once must not spin.
const afterFailure = 10 * time.Millisecond

// loop makes attempts until the context ends. An attempt under way then is
// finished, so that the end of a run is not counted as a loss.
func loop(ctx context.Context, c client, think time.Duration, rec *recorder, answered func()) {
	defer c.close()
	for ctx.Err() == nil {
		r := c.attempt(context.WithoutCancel(ctx))
		rec.add(r)
		if r.err == nil {
			answered()
			pause(ctx, think)
		} else {
			pause(ctx, max(think, afterFailure))
		}
	}
}

// fresh opens connections at the interval, each in a goroutine of its own, so
// that one that hangs does not delay the next.
func fresh(ctx context.Context, cfg Config, rec *recorder, answered func()) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	tick := time.NewTicker(cfg.Interval)
	defer tick.Stop()
	for {
		attempts.Go(func() {
			r := once(context.WithoutCancel(ctx), cfg)
			rec.add(r)
			if r.err == nil {
				answered()
			}
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			rec.sampled(time.Now())
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
