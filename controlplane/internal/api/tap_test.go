package api

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// from is a context of a call that comes from an address.
func from(ctx context.Context, address string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 40000))})
}

// Who begins a join and never ends it holds its place for a while only, and no
// host holds the places of all others.
func TestOpenCallsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{Logger: hclog.NewNullLogger()}, opened: make(chan struct{}, maxOpenCalls), callsOfHosts: newPlaces(maxHostCalls)}
		begin := func(address string) (context.Context, error) {
			return s.tap(from(t.Context(), address), &tap.Info{FullMethodName: agentv1.AgentService_Enrol_FullMethodName})
		}
		for range 2 {
			var last context.Context
			for _, host := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"} {
				for range maxHostCalls {
					ctx, err := begin(host)
					if err != nil {
						t.Fatal(err)
					}
					last = ctx
				}
				if _, err := begin(host); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "from your address") {
					t.Errorf("one call more of %s: %v; want UNAVAILABLE", host, err)
				}
			}
			if _, err := begin("2001:db8::2"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "from your address") {
				t.Errorf("of another address of the same network: %v; want UNAVAILABLE", err)
			}
			if _, err := begin("192.0.2.3"); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "from your address") {
				t.Errorf("one call more of another host: %v; want UNAVAILABLE", err)
			}
			<-time.After(openCallTimeout)
			synctest.Wait()
			if last.Err() == nil {
				t.Error("the call goes on")
			}
			if len(s.opened) != 0 || len(s.callsOfHosts.of) != 0 {
				t.Errorf("%d places are held, by %v", len(s.opened), s.callsOfHosts.of)
			}
		}
	})
}
