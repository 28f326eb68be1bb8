package api

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAPanicIsAnErrorAndLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	s := &Server{Options: Options{Logger: hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true})}}
	info := &grpc.UnaryServerInfo{FullMethod: "/grpc.health.v1.Health/Check"}
	_, err := s.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { panic("seeded") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "seeded") {
		t.Errorf("the caller sees %v; want INTERNAL without the inner detail", err)
	}
	if got := strings.Count(log.String(), "a call panicked"); got != 1 || !strings.Contains(log.String(), "seeded") {
		t.Errorf("the log says it %d times: %s", got, log.String())
	}
}

func TestWhatIsNotListedIsDenied(t *testing.T) {
	for _, method := range []string{"", "/", "//", "/x", "/x.Y/Z", "x.Y/Z", "/tandem.v1.configservice/GetPool", "/tandem.agent.v1.AgentService2/Enrol"} {
		if got := needOf(method); got != denied {
			t.Errorf("%q needs %v; want it denied", method, got)
		}
	}
	s := &Server{}
	if _, err := s.admit(t.Context(), "/x.Y/Z"); statusOf(err).Code() != codes.PermissionDenied {
		t.Errorf("got %v; want PERMISSION_DENIED", err)
	}
}
