package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
)

// everyKind is traffic of all kinds, of which a planned move should lose nothing.
func everyKind() probe.Config {
	return probe.Config{
		Target: target, Interval: 20 * time.Millisecond, Reused: 10, Inflight: 4, Downloads: 4, WebSockets: 4,
		Think: 100 * time.Millisecond, Hold: 500 * time.Millisecond, Timeout: 2 * time.Second, Answers: true,
	}
}

// planned moves the VIP away and back, and counts what each kind of traffic loses.
func planned(ctx context.Context, r *runner, s side) ([]float64, error) {
	var begun, ended time.Time
	report, err := r.during(ctx, s, everyKind(), func() error {
		begun = time.Now()
		for _, move := range []struct {
			begin func(context.Context) error
			to    string
		}{{s.moveAway, backup}, {s.moveBack, master}} {
			if err := move.begin(ctx); err != nil {
				return err
			}
			if err := held(ctx, s.network(), move.to); err != nil {
				return err
			}
			// What was under way in the move ends, or is given up.
			if err := wait(ctx, everyKind().Hold+everyKind().Timeout); err != nil {
				return err
			}
		}
		ended = time.Now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range report.Failures[:min(len(report.Failures), 3)] {
		if _, err := fmt.Fprintf(r.Out, "lost: %s, %s after %.0f ms, %.1f s after the first move: %s\n", f.Kind, f.Phase, f.AfterMS, f.At.Sub(begun).Seconds(), f.Error); err != nil {
			return nil, err
		}
	}
	return []float64{
		longestGap(report, begun, ended),
		float64(report.Failed(probe.New)),
		float64(report.Failed(probe.ReusedGet, probe.ReusedPost)),
		float64(report.Failed(probe.InflightGet, probe.InflightPost)),
		float64(report.Failed(probe.Download)),
		float64(report.Failed(probe.WebSocket)),
	}, nil
}

func reloads(ctx context.Context, r *runner, s side) ([]float64, error) {
	clients := probe.Config{Target: target, Reused: 50, Think: 20 * time.Millisecond, Timeout: 5 * time.Second}
	report, err := r.during(ctx, s, clients, func() error {
		for range 10 {
			r.reloads++
			if err := s.reload(ctx, r.reloads); err != nil {
				return err
			}
			if err := wait(ctx, 250*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []float64{float64(report.Failed())}, nil
}

// during does something while clients send.
func (r *runner) during(ctx context.Context, s side, clients probe.Config, do func() error) (*probe.Report, error) {
	p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.Labhost, clients)
	if err != nil {
		return nil, err
	}
	failure := do()
	report, err := p.Stop(ctx)
	return report, errors.Join(failure, err)
}
