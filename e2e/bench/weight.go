package bench

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
)

// weights takes web1 out by weight 0 and returns when the last answer of web1
// came, counted from the beginning of the change, on the slower node.
func weights(ctx context.Context, r *runner, s side) ([]float64, error) {
	var probes []*traffic.Probe
	for _, name := range []string{master, backup} {
		cfg := sampling()
		cfg.Target, cfg.Answers = netip.AddrPortFrom(s.network().Host(name).Address.Addr(), s.port()).String(), true
		p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.Labhost, cfg)
		if err != nil {
			return nil, err
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
			failure = errors.Join(failure, err)
			continue
		}
		last = max(last, lastAnswer(report, "web1", begun))
	}
	if err := errors.Join(failure, s.weigh(ctx, 1)); err != nil {
		return nil, err
	}
	return []float64{float64(last.Microseconds()) / 1000}, nil
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
