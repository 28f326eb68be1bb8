package bench

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// Options of a run.
type Options struct {
	Bin     string    // directory of the built programs
	Labhost string    // path of labhost
	Example string    // the guide's cluster for lbctl apply
	Rounds  int       // of each measurement, at least 1
	Out     io.Writer // progress
}

// runner is one run.
type runner struct {
	Options
	labhost    string
	ours, peer side
	reloads    int // so far, so that each is a change
}

// Run starts both sides, measures in interleaved rounds and returns one result
// a measurement.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	r := &runner{Options: o, labhost: o.Labhost}
	first, err := open(ctx, lab.Guide(), o.Labhost)
	if first != nil {
		defer func() { err = errors.Join(err, first.Close()) }()
	}
	if err != nil {
		return nil, err
	}
	second, err := open(ctx, guide.Spec(), o.Labhost)
	if second != nil {
		defer func() { err = errors.Join(err, second.Close()) }()
	}
	if err != nil {
		return nil, err
	}
	if r.ours, err = startOurs(ctx, first, o.Bin, o.Example); err != nil {
		return nil, err
	}
	pair, err := guide.Start(ctx, second)
	if err != nil {
		return nil, err
	}
	r.peer = &peer{lab: second, pair: pair}
	return r.rounds(ctx)
}

// rounds takes every measurement on both sides, round by round.
func (r *runner) rounds(ctx context.Context) ([]Result, error) {
	figures := make([][2][]float64, len(measurements))
	for round := range r.Rounds {
		for i, m := range measurements {
			for k, s := range []side{r.ours, r.peer} {
				if err := s.well(ctx); err != nil {
					return nil, fmt.Errorf("before %q: %w", m.name, err)
				}
				figure, err := m.take(ctx, r, s)
				if err != nil {
					return nil, fmt.Errorf("%q: %w", m.name, err)
				}
				figures[i][k] = append(figures[i][k], figure)
			}
			if _, err := fmt.Fprintf(r.Out, "round %d of %d: %s: Tandem %.1f %s, %s %.1f %s\n", round+1, r.Rounds, m.name,
				figures[i][0][round], m.unit, PeerName, figures[i][1][round], m.unit); err != nil {
				return nil, err
			}
		}
	}
	var results []Result
	for i, m := range measurements {
		results = append(results, summarize(m, figures[i][0], figures[i][1]))
	}
	return results, nil
}
