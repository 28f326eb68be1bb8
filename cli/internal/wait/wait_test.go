package wait

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

type step = *tandemv1.WatchStatusResponse

// script is a watch that gives its steps, then an error, or blocks until its
// context ends.
type script struct {
	steps []step
	end   error
	over  <-chan struct{}
}

// Recv gives the next step.
func (s *script) Recv() (step, error) {
	if len(s.steps) > 0 {
		next := s.steps[0]
		s.steps = s.steps[1:]
		return next, nil
	}
	if s.end != nil {
		return nil, s.end
	}
	<-s.over
	return nil, context.Canceled
}

func node(id string, connected bool, applied, failed uint64, words string) step {
	return &tandemv1.WatchStatusResponse{Epoch: "e1", Change: &tandemv1.WatchStatusResponse_Node{Node: &tandemv1.NodeStatus{
		Name: "clusters/default/nodes/" + id, Connected: connected, Applied: applied, Failed: failed, Failure: words}}}
}

// waiting is a node that has a revision but for what waits for another one.
func waiting(id string, revision uint64) step {
	s := node(id, true, 4, 0, "")
	s.GetNode().Waiting, s.GetNode().Runtime = "VIP web waits for b", revision
	return s
}

func synced() step {
	return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Synced{Synced: true}}
}

func TestApplied(t *testing.T) {
	lost := &failure.Error{Code: codes.Unavailable, Message: "gone"}
	tests := []struct {
		name    string
		watches []script
		applied string
		offline string
		wantErr string
		exit    int
	}{
		{name: "no nodes", watches: []script{{steps: []step{synced()}}}},
		{
			name:    "there already",
			watches: []script{{steps: []step{node("a", true, 7, 0, ""), node("b", true, 9, 0, ""), synced()}}},
			applied: "a b",
		},
		{
			name:    "one by one",
			watches: []script{{steps: []step{node("a", true, 6, 0, ""), node("b", true, 6, 0, ""), synced(), node("b", true, 7, 0, ""), node("a", true, 7, 0, "")}}},
			applied: "a b",
		},
		{
			name:    "one is off",
			watches: []script{{steps: []step{node("a", true, 7, 0, ""), node("b", false, 2, 0, ""), synced()}}},
			applied: "a", offline: "b",
		},
		{
			name:    "one goes away",
			watches: []script{{steps: []step{node("a", true, 7, 0, ""), node("b", true, 6, 0, ""), synced(), node("b", false, 6, 0, "")}}},
			applied: "a", offline: "b",
		},
		{
			name:    "refused, in the daemon's words",
			watches: []script{{steps: []step{node("a", true, 6, 7, "[ALERT] line 3:\n\x1b[31munknown keyword"), node("b", true, 6, 0, ""), synced(), node("b", true, 7, 0, "")}}},
			applied: "b",
			wantErr: "a did not apply revision 7; its last good configuration keeps serving:\n    [ALERT] line 3:\n    [31munknown keyword",
			exit:    failure.ExitError,
		},
		{
			name:    "an earlier failure is not ours",
			watches: []script{{steps: []step{node("a", true, 5, 6, "old"), synced(), node("a", true, 7, 6, "old")}}},
			applied: "a",
		},
		{
			name: "the connection is lost and comes back",
			watches: []script{
				{steps: []step{node("a", true, 6, 0, ""), synced()}, end: lost},
				{end: lost},
				{steps: []step{node("a", true, 7, 0, ""), synced()}},
			},
			applied: "a",
		},
		{
			name:    "one waits for another that is away",
			watches: []script{{steps: []step{waiting("a", 7), node("b", false, 6, 0, ""), synced()}}},
			offline: "b",
		},
		{
			name:    "an earlier change waits, and this one is not in effect yet",
			watches: []script{{steps: []step{waiting("a", 6), node("b", false, 4, 0, ""), synced()}}},
			offline: "b",
			wantErr: `waited too long: not applied yet on a`,
			exit:    failure.ExitTimeout,
		},
		{
			name:    "an earlier change waits, and this one comes into effect",
			watches: []script{{steps: []step{waiting("a", 6), node("b", false, 4, 0, ""), synced(), waiting("a", 7)}}},
			offline: "b",
		},
		{
			name:    "too long",
			watches: []script{{steps: []step{node("a", true, 7, 0, ""), node("b", true, 6, 0, ""), synced()}}},
			applied: "a",
			wantErr: `waited too long: not applied yet on b; revision 7 is accepted`,
			exit:    failure.ExitTimeout,
		},
		{
			name:    "another epoch",
			watches: []script{{steps: []step{{Epoch: "e2"}, synced()}}},
			wantErr: "the controller's store was replaced meanwhile",
			exit:    failure.ExitError,
		},
		{
			name:    "not allowed to watch",
			watches: []script{{end: &failure.Error{Code: codes.PermissionDenied, Message: "no"}}},
			wantErr: "no",
			exit:    failure.ExitNotAllowed,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				watches := tt.watches
				watch := func(ctx context.Context) (Stream, error) {
					if len(watches) == 0 {
						return nil, errors.New("one watch too many")
					}
					next := watches[0]
					watches = watches[1:]
					next.over = ctx.Done()
					return &next, nil
				}
				var reported Progress
				got, err := Applied(ctx, watch, Target{"clusters/default", "e1", 7}, func(p Progress) { reported = p })
				if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
					t.Fatalf("got error %v, want %q", err, tt.wantErr)
				}
				if code := failure.ExitCode(err); code != tt.exit {
					t.Errorf("exit code %d, want %d", code, tt.exit)
				}
				if fmt.Sprint(got) != fmt.Sprint(reported) {
					t.Errorf("last report %v differs from the result %v", reported, got)
				}
				if applied, offline := strings.Join(got.Applied, " "), strings.Join(got.Offline, " "); applied != tt.applied || offline != tt.offline {
					t.Errorf("applied %q offline %q, want %q and %q", applied, offline, tt.applied, tt.offline)
				}
				if len(watches) > 0 {
					t.Errorf("%d watches were not used", len(watches))
				}
			})
		})
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	watch := func(ctx context.Context) (Stream, error) {
		return &script{over: ctx.Done(), steps: []step{node("a", true, 1, 0, ""), synced()}}, nil
	}
	_, err := Applied(ctx, watch, Target{"clusters/default", "e1", 7}, func(Progress) { cancel() })
	if err == nil || !strings.Contains(err.Error(), "interrupted") || failure.ExitCode(err) != failure.ExitError {
		t.Errorf("got %v with exit code %d", err, failure.ExitCode(err))
	}
}
