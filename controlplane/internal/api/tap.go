package api

import (
	"context"
	"sync"
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
	// maxNodeCalls bounds the calls at a time of one node, over all connections
	// that show its certificate: a session, the one that follows it, a renewal.
	// Each may hold a message of maxRequest.
	maxNodeCalls = 4
)

// tap refuses a call when its header has come, before its message takes up
// memory: calls that admit refuses, and too many that anyone or one node may
// make. It runs on the connection's reader, so it must not block.
func (s *Server) tap(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
	begin := time.Now()
	admitted, err := s.admit(ctx, info.FullMethodName)
	if err == nil {
		switch needOf(info.FullMethodName) {
		case nothing:
			ctx, err = s.open(ctx)
		case certificate:
			err = s.callsOfNodes.begin(ctx, callerOf(admitted).node.UID)
		default:
		}
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

// nodeCalls counts the calls under way of each node, by its identity.
type nodeCalls struct {
	mu sync.Mutex
	of map[string]int
}

// begin takes one of the places of a node, and gives it back when the call's
// context ends.
func (c *nodeCalls) begin(ctx context.Context, uid string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[uid] >= maxNodeCalls {
		return fail(codes.ResourceExhausted, reasonBusy, "%d calls of this node are under way: end one first", maxNodeCalls)
	}
	c.of[uid]++
	context.AfterFunc(ctx, func() { c.end(uid) })
	return nil
}

func (c *nodeCalls) end(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[uid]--; c.of[uid] == 0 {
		delete(c.of, uid)
	}
}
