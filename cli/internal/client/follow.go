package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/cli/internal/failure"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// Follow runs watch, a call that goes on until it fails, and runs it again
// when the connection was lost, until ctx ends. watch reports progress by
// calling the function that it gets, which makes the next wait short again.
// lost, if not nil, is told why each time.
func Follow(ctx context.Context, watch func(ctx context.Context, alive func()) error, lost func(error)) error {
	backoff := firstBackoff
	for {
		err := watch(ctx, func() { backoff = firstBackoff })
		if err == nil || ctx.Err() != nil || !isLost(err) {
			return err
		}
		if lost != nil {
			lost(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff):
			backoff = min(2*backoff, lastBackoff)
		}
	}
}

func isLost(err error) bool {
	var call *failure.Error
	return errors.Is(err, io.EOF) || errors.As(err, &call) && call.Code == codes.Unavailable
}
