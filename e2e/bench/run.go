package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Options of a run.
type Options struct {
	Bin     string    // directory of the built programs
	Labhost string    // path of labhost
	Example string    // the guide's cluster for lbctl apply
	Rounds  int       // of each measurement, at least 1
	Only    []string  // keys of the measurements to take; none: all
	Out     io.Writer // progress
}

const (
	// longestTake bounds one measurement of a side.
	longestTake = time.Minute
	// longestRepair is how long a side may take to be well again by itself.
	longestRepair = time.Minute
	// longestStart bounds the start of a side.
	longestStart = 2 * time.Minute
)

// runner is one run.
type runner struct {
	Options
	sides   [2]*contender // ours, then the guide's
	reloads int           // so far, so that each is a change
}

// contender is a side that can be started anew.
type contender struct {
	name  string
	start func(context.Context) (side, error)
	side  side // nil: none runs
}

// Run measures both sides in interleaved rounds and returns one result a row. It
// returns what it has also when it fails or the context ends. A side that
// misbehaves in a round gives no figure for it and is started anew if it must be.
func Run(ctx context.Context, o Options) ([]Result, error) {
	chosen, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	r := &runner{Options: o}
	r.sides = [2]*contender{
		{name: "Tandem", start: func(ctx context.Context) (side, error) { return startOurs(ctx, o) }},
		{name: PeerName, start: func(ctx context.Context) (side, error) { return startPeer(ctx, o) }},
	}
	t := newTable(chosen)
	err = r.rounds(ctx, chosen, t)
	for _, c := range r.sides {
		err = errors.Join(err, c.end())
	}
	return t.results(), err
}

// rounds takes every measurement on both sides, round by round.
func (r *runner) rounds(ctx context.Context, chosen []measurement, t *table) error {
	for round := range r.Rounds {
		for _, m := range chosen {
			for k, c := range r.sides {
				figures, err := r.take(ctx, c, m)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				t.add(m, k, figures)
				if _, err := fmt.Fprintf(r.Out, "round %d of %d: %s: %s: %s\n", round+1, r.Rounds, m.key, c.name, told(figures, err)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func told(figures []float64, err error) string {
	if err != nil {
		return "no figure: " + err.Error()
	}
	return fmt.Sprintf("%.1f", figures)
}

// take takes one measurement of a side that is well, and leaves it in repair: by its
// next turn, after that of the other side, it is mostly well again.
func (r *runner) take(ctx context.Context, c *contender, m measurement) ([]float64, error) {
	if err := c.ready(ctx, r.Out); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, longestTake)
	defer cancel()
	figures, err := m.take(bounded, r, c.side)
	_ = c.side.repair(ctx) // ready repairs what this could not, or says why not
	if err == nil && len(figures) != len(m.rows) {
		err = fmt.Errorf("%d figures, want %d", len(figures), len(m.rows))
	}
	return figures, err
}

// ready makes the side well, and starts it anew where that takes too long.
func (c *contender) ready(ctx context.Context, out io.Writer) error {
	if c.side != nil {
		bounded, cancel := context.WithTimeout(ctx, longestRepair)
		defer cancel()
		err := c.side.repair(bounded)
		if err == nil {
			err = c.side.well(bounded)
		}
		if err == nil {
			return nil
		}
		if _, err := fmt.Fprintf(out, "%s is started anew: %v\n", c.name, err); err != nil {
			return err
		}
		if err := c.end(); err != nil {
			return err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, longestStart)
	defer cancel()
	s, err := c.start(bounded)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.side = s
	return s.well(bounded)
}

// end ends the side that runs, if any.
func (c *contender) end() error {
	if c.side == nil {
		return nil
	}
	s := c.side
	c.side = nil
	return s.close()
}
