package api

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
)

// What is open to anyone is bounded, for grpc reads a whole message, of
// maxRequest bytes, before any interceptor runs.
const (
	// maxOpenCalls bounds the calls at a time that need no credential, and
	// maxHostCalls those of them from one address, so that no one host keeps all
	// others from joining.
	maxOpenCalls = 16
	maxHostCalls = 4
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
			if !s.callsOfNodes.begin(ctx, callerOf(admitted).node.UID) {
				err = fail(codes.ResourceExhausted, reasonBusy, "%d calls of this node are under way: end one first", maxNodeCalls)
			}
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
	ctx, cancel := context.WithTimeout(ctx, openCallTimeout)
	if !s.callsOfHosts.begin(ctx, hostOf(ctx)) {
		cancel()
		return nil, fail(codes.Unavailable, reasonBusy, "%d calls without a credential from your address are under way: try again", maxHostCalls)
	}
	select {
	case s.opened <- struct{}{}:
	default:
		cancel()
		return nil, fail(codes.Unavailable, reasonBusy, "%d calls without a credential are under way: try again", maxOpenCalls)
	}
	context.AfterFunc(ctx, func() {
		cancel()
		<-s.opened
	})
	return ctx, nil
}

// hostOf is the host that a call comes from: an IPv4 address, or a network of
// 64 bits of IPv6, of which one host may have all addresses.
func hostOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	from, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	address := from.Addr().Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	return netip.PrefixFrom(address, 64).Masked().String()
}

// places counts the calls under way of each caller, by what tells it from others.
type places struct {
	most int
	mu   sync.Mutex
	of   map[string]int
}

func newPlaces(most int) *places { return &places{most: most, of: make(map[string]int)} }

// begin takes one of the places of a caller, and gives it back when the call's
// context ends. It tells whether there was one.
func (p *places) begin(ctx context.Context, caller string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[caller] >= p.most {
		return false
	}
	p.of[caller]++
	context.AfterFunc(ctx, func() { p.end(caller) })
	return true
}

func (p *places) end(caller string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[caller]--; p.of[caller] == 0 {
		delete(p.of, caller)
	}
}
