package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// measurement is one figure of a side, taken once a round. It leaves the side
// well.
type measurement struct {
	name, unit, note string
	take             func(ctx context.Context, r *runner, s side) (float64, error)
}

// patience is how long an outage may last before it counts as without an end.
const patience = 8 * time.Second

// sampling opens a new connection each 5 ms: outages show to about 10 ms.
func sampling() probe.Config {
	return probe.Config{Target: target(lab.VIP.Addr()), Interval: 5 * time.Millisecond, Timeout: time.Second}
}

// measurements in the order of a round.
var measurements = []measurement{
	{"HAProxy killed, it can be started again", "ms", "time without an answer to new connections, to about 10 ms", killed},
	{"HAProxy killed, it cannot be started", "ms",
		fmt.Sprintf("the guide's VIP never moves; its figure is where the measurement was ended (%d ms)", patience.Milliseconds()), gone},
	{"port of the VIP's holder down", "ms", "", cut},
	{"requests lost in 10 reloads, 50 keep-alive clients", "requests", "", reloads},
	{"weight change until every answer follows it, both nodes", "ms",
		"to about 15 ms; ours: one API call; the guide's: both files edited and reloaded by a script", weights},
}

// outage samples the VIP while f breaks something, until it answers again for a
// second or patience ends, and returns the longest time without an answer.
func (r *runner) outage(ctx context.Context, s side, f func() error) (float64, error) {
	p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.labhost, sampling())
	if err != nil {
		return 0, err
	}
	failure := f()
	report, err := p.Stop(ctx)
	if failure != nil {
		return 0, failure
	}
	if err != nil {
		return 0, err
	}
	return report.LongestGap.MS, nil
}

// wait lets time pass that is part of what is measured.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func killed(ctx context.Context, r *runner, s side) (float64, error) {
	figure, err := r.outage(ctx, s, func() error {
		if err := s.killProxy(ctx); err != nil {
			return err
		}
		// Longer than either side takes to start it again.
		return wait(ctx, patience/2)
	})
	if err != nil {
		return 0, err
	}
	return figure, s.well(ctx)
}

func gone(ctx context.Context, r *runner, s side) (float64, error) {
	figure, err := r.outage(ctx, s, func() error {
		if err := s.forbid(ctx); err != nil {
			return err
		}
		if err := s.killProxy(ctx); err != nil {
			return err
		}
		return wait(ctx, patience)
	})
	if err != nil {
		return 0, err
	}
	if err := s.permit(ctx); err != nil {
		return 0, err
	}
	return min(figure, float64(patience.Milliseconds())), s.well(ctx)
}

func cut(ctx context.Context, r *runner, s side) (float64, error) {
	host := s.network().Host(master)
	figure, err := r.outage(ctx, s, func() error {
		if err := host.Cut(ctx); err != nil {
			return err
		}
		return held(ctx, s.network(), backup)
	})
	if err != nil {
		return 0, err
	}
	if err := host.Plug(ctx); err != nil {
		return 0, err
	}
	return figure, s.well(ctx)
}

func reloads(ctx context.Context, r *runner, s side) (float64, error) {
	p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.labhost, probe.Config{
		Target: target(lab.VIP.Addr()), Reused: 50, Think: 20 * time.Millisecond, Timeout: 5 * time.Second,
	})
	if err != nil {
		return 0, err
	}
	var failure error
	for n := 0; n < 10 && failure == nil; n++ {
		r.reloads++
		if failure = s.reload(ctx, r.reloads); failure == nil {
			failure = wait(ctx, 500*time.Millisecond)
		}
	}
	report, err := p.Stop(ctx)
	if failure != nil {
		return 0, failure
	}
	if err != nil {
		return 0, err
	}
	return float64(report.Failed()), s.well(ctx)
}

// weights takes web1 out by weight 0 and returns when the last answer of web1
// came, counted from the beginning of the change, on the slower node.
func weights(ctx context.Context, r *runner, s side) (float64, error) {
	var probes []*traffic.Probe
	for _, name := range []string{master, backup} {
		cfg := sampling()
		cfg.Target, cfg.Answers = target(s.network().Host(name).Address.Addr()), true
		p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.labhost, cfg)
		if err != nil {
			return 0, err
		}
		probes = append(probes, p)
	}
	begun := time.Now()
	failure := s.weigh(ctx, 0)
	if failure == nil {
		failure = wait(ctx, time.Second)
	}
	var last time.Duration
	for _, p := range probes {
		report, err := p.Stop(ctx)
		if err != nil {
			return 0, err
		}
		last = max(last, lastAnswer(report, "web1", begun))
	}
	if failure != nil {
		return 0, failure
	}
	if err := s.weigh(ctx, 1); err != nil {
		return 0, err
	}
	return float64(last.Microseconds()) / 1000, s.well(ctx)
}

// lastAnswer is when a server gave its last answer, counted from begun.
func lastAnswer(report *probe.Report, server string, begun time.Time) time.Duration {
	var last time.Duration
	for _, a := range report.Answers {
		if a.Server == server {
			last = max(last, a.At.Sub(begun))
		}
	}
	return last
}
