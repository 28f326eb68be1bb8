package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollInterval is how often Until looks. It bounds how exactly a moment found
// by Until is known.
const pollInterval = 5 * time.Millisecond

// errNoDeadline is a mistake of the caller: a condition that never comes would
// wait for ever.
var errNoDeadline = errors.New("context has no deadline")

// Until calls the condition until it returns nil, at most until the context's
// deadline, which must be set. The error says what was waited for and why the
// condition last failed.
func Until(ctx context.Context, what string, condition func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		return fmt.Errorf("wait for %s: %w", what, errNoDeadline)
	}
	start := time.Now()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		last := condition(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", time.Since(start).Round(time.Millisecond), what, last)
		}
	}
}
