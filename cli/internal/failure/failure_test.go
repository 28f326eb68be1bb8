package failure

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func refusal(t *testing.T, code codes.Code, message string, details ...*errdetails.BadRequest_FieldViolation) error {
	t.Helper()
	st, err := status.New(code, message).WithDetails(
		&errdetails.ErrorInfo{Reason: "SOME_REASON", Domain: "tandem"},
		&errdetails.BadRequest{FieldViolations: details},
	)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func TestFromNamesFieldReasonAndCure(t *testing.T) {
	backend := &tandemv1.CreateBackendRequest{Backend: &tandemv1.Backend{Address: "192.168.1.999", Port: 99999}}
	config := &tandemv1.ApplyConfigRequest{Config: &tandemv1.ClusterConfig{
		Cluster: &tandemv1.Cluster{StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Password: "hunter2\n"}}}},
		Pools: []*tandemv1.Pool{
			{Backends: []*tandemv1.Backend{{Address: "192.168.1.20"}, {Address: "x\x1b[2J"}}},
		},
	}}
	tests := []struct {
		name    string
		request proto.Message
		field   string
		want    string
	}{
		{"string", backend, "backend.address", `backend.address: must be right (got "192.168.1.999") [R]`},
		{"number", backend, "backend.port", `backend.port: must be right (got 99999) [R]`},
		{"unset", backend, "backend.weight", `backend.weight: must be right [R]`},
		{"no such field", backend, "backend.none", `backend.none: must be right [R]`},
		{"list, control characters", config, "config.pools[0].backends[1].address", `config.pools[0].backends[1].address: must be right (got "x[2J") [R]`},
		{"beyond the list", config, "config.pools[7].backends[1].address", `config.pools[7].backends[1].address: must be right [R]`},
		{"a message", config, "config.pools[0]", `config.pools[0]: must be right [R]`},
		{"a secret", config, "config.cluster.stats_page.users[0].password", `config.cluster.stats_page.users[0].password: must be right [R]`},
		{"no request", nil, "backend.address", `backend.address: must be right [R]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := From(refusal(t, codes.InvalidArgument, "invalid", &errdetails.BadRequest_FieldViolation{
				Field: tt.field, Reason: "R", Description: "must be right",
			}), tt.request)
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFromWithoutViolations(t *testing.T) {
	err := From(refusal(t, codes.NotFound, "clusters/default/pools/x does not exist\x07"), nil)
	if want := "clusters/default/pools/x does not exist [SOME_REASON]"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if From(nil, nil) != nil {
		t.Error("no error must stay none")
	}
	plain := errors.New("plain")
	if got := From(plain, nil); !errors.Is(got, plain) || got.Error() != "plain" {
		t.Errorf("a foreign error became %v", got)
	}
}

func TestExitCode(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), ExitError},
		{Usagef("x"), ExitUsage},
		{fmt.Errorf("wrapped: %w", Usagef("x")), ExitUsage},
		{context.DeadlineExceeded, ExitTimeout},
		{&Error{Code: codes.InvalidArgument}, ExitError},
		{&Error{Code: codes.Unavailable}, ExitError},
		{&Error{Code: codes.NotFound}, ExitNotFound},
		{&Error{Code: codes.PermissionDenied}, ExitNotAllowed},
		{&Error{Code: codes.Unauthenticated}, ExitNotAllowed},
		{&Error{Code: codes.AlreadyExists}, ExitConflict},
		{&Error{Code: codes.Aborted}, ExitConflict},
		{&Error{Code: codes.FailedPrecondition}, ExitConflict},
		{&Error{Code: codes.DeadlineExceeded}, ExitTimeout},
	}
	for _, tt := range tests {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("ExitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}
