package cmd

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestFailoverTellsWhereTheVIPIs(t *testing.T) {
	for _, test := range []struct {
		reply  *tandemv1.FailoverVipResponse
		stderr string
	}{
		{&tandemv1.FailoverVipResponse{From: "lb-master", To: "lb-backup", Duration: durationpb.New(312*time.Millisecond + 499)},
			"VIP web moved from lb-master to lb-backup in 312ms\n"},
		{&tandemv1.FailoverVipResponse{From: "lb-backup", To: "lb-backup"}, "lb-backup holds VIP web already\n"},
	} {
		r := newRecorder(t)
		r.replies["FailoverVip"] = []proto.Message{test.reply}
		if got := r.run("", "vip", "failover", "web"); got.code != 0 || got.stderr != test.stderr || got.stdout != "" {
			t.Errorf("%+v, want %q", got, test.stderr)
		}
	}
}

func TestAFailoverThatIsRefusedHasItsExitCode(t *testing.T) {
	for code, want := range map[codes.Code]struct {
		exit  int
		words string
	}{
		codes.NotFound:           {failure.ExitNotFound, "lb-backup is drained"},
		codes.FailedPrecondition: {failure.ExitConflict, "lb-backup is drained"},
		codes.DeadlineExceeded:   {failure.ExitTimeout, "did not answer in time"},
	} {
		r := newRecorder(t)
		r.refusals["FailoverVip"] = status.Error(code, "VIP web: lb-backup is drained")
		if got := r.run("", "vip", "failover", "web"); got.code != want.exit || !strings.Contains(got.stderr, want.words) {
			t.Errorf("%s: %+v, want %+v", code, got, want)
		}
	}
}
