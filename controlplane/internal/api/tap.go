package api

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/tap"
)

// What is open to anyone is bounded, for grpc reads a whole message, of
// maxRequest bytes, before any interceptor runs.
const (
	// maxOpenCalls bounds the calls at a time that need no credential.
	maxOpenCalls = 16
	// openCallTimeout bounds each of them.
	openCallTimeout = 10 * time.Second
)

// tap refuses a call when its header has come, before its message takes up
// memory: calls that admit refuses, and too many that anyone may make. It runs
// on the connection's reader, so it must not block.
func (s *Server) tap(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
	begin := time.Now()
	if _, err = s.admit(ctx, info.FullMethodName); err == nil && needOf(info.FullMethodName) == nothing {
		ctx, err = s.open(ctx)
	}
	if err != nil {
		s.finish(info.FullMethodName, begin, &err)
		return nil, err
	}
	return ctx, nil
}

// open takes one of the places for calls by anyone, and gives it back when the
// call has ended.
func (s *Server) open(ctx context.Context) (context.Context, error) {
	select {
	case s.opened <- struct{}{}:
	default:
		return nil, fail(codes.Unavailable, reasonBusy, "%d calls without a credential are under way: try again", maxOpenCalls)
	}
	ctx, cancel := context.WithTimeout(ctx, openCallTimeout)
	context.AfterFunc(ctx, func() {
		cancel()
		<-s.opened
	})
	return ctx, nil
}
