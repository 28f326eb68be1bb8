package api

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Who begins a join and never ends it holds its place for a while only.
func TestOpenCallsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{Logger: hclog.NewNullLogger()}, opened: make(chan struct{}, maxOpenCalls)}
		begin := func() (context.Context, error) {
			return s.tap(t.Context(), &tap.Info{FullMethodName: agentv1.AgentService_Enrol_FullMethodName})
		}
		for range 2 {
			var last context.Context
			for range maxOpenCalls {
				ctx, err := begin()
				if err != nil {
					t.Fatal(err)
				}
				last = ctx
			}
			if _, err := begin(); status.Code(err) != codes.Unavailable {
				t.Errorf("one call more: %v; want UNAVAILABLE", err)
			}
			<-time.After(openCallTimeout)
			synctest.Wait()
			if last.Err() == nil {
				t.Error("the call goes on")
			}
		}
	})
}
