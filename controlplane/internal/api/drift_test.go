package api_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// driftedAgent joins lb-master and says that it is drained and that web1 is, on
// the node itself, and web9, which nobody knows. It answers commands with what refusal says.
func driftedAgent(t *testing.T, c *controller, refusal *atomic.Value) *atomic.Pointer[agentv1.DiscardCommand] {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(c.dial(t, c.join(t, "lb-master"))).Session(t.Context())
	must(t, err)
	say := func(m *agentv1.SessionRequest) { must(t, stream.Send(m)) }
	say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{
		Protocol: 1, BootId: "b", SessionId: "s", Capabilities: []string{"command/discard"},
	}}})
	say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: &agentv1.Observation{
		Whole: true, LocalChanges: &agentv1.LocalChangeSet{Changes: []*agentv1.LocalChange{
			{Author: "root", Reason: "kernel", Kind: &agentv1.LocalChange_Drain{Drain: true}},
			{Author: "root", Kind: &agentv1.LocalChange_Backend{Backend: &agentv1.LocalBackend{
				Pool: "p", Backend: "web1", State: agentv1.AdminState_ADMIN_STATE_DRAIN,
			}}},
			{Author: "root", Kind: &agentv1.LocalChange_Backend{Backend: &agentv1.LocalBackend{
				Pool: "p", Backend: "web9", State: agentv1.AdminState_ADMIN_STATE_DRAIN,
			}}},
		}},
	}}})
	got := &atomic.Pointer[agentv1.DiscardCommand]{}
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if command := m.GetCommand(); command != nil {
				got.Store(command.GetDiscard())
				words, _ := refusal.Load().(string)
				_ = stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{
					Result: &agentv1.CommandResult{Id: command.GetId(), Error: words},
				}})
			}
		}
	}()
	return got
}

func TestDriftIsKeptOrDiscarded(t *testing.T) {
	c := start(t)
	fleet := tandemv1.NewFleetServiceClient(c.dial(t))
	config := tandemv1.NewConfigServiceClient(c.dial(t))
	ctx := c.admin(t)
	const node, web1 = "clusters/default/nodes/lb-master", "clusters/default/pools/p/backends/web1"
	_, err := config.CreatePool(ctx, &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", Pool: &tandemv1.Pool{}})
	must(t, err)
	_, err = config.CreateBackend(ctx, &tandemv1.CreateBackendRequest{Parent: "clusters/default/pools/p", BackendId: "web1",
		Backend: &tandemv1.Backend{Address: "192.0.2.1", Port: 80}})
	must(t, err)
	want := func(what string, err error, code codes.Code, says string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s: %s", what, err, code, says)
		}
	}
	_, err = fleet.KeepDrift(ctx, &tandemv1.KeepDriftRequest{Name: node})
	want("of no node", err, codes.NotFound, "does not exist")
	var refusal atomic.Value
	command := driftedAgent(t, c, &refusal)
	watch, err := fleet.WatchStatus(ctx, &tandemv1.WatchStatusRequest{Name: "clusters/default"})
	must(t, err)
	for drift := 0; drift != 3; {
		step, err := watch.Recv()
		must(t, err)
		drift = len(step.GetNode().GetDrift())
	}

	_, err = fleet.DiscardDrift(ctx, &tandemv1.DiscardDriftRequest{Name: node, Subjects: []string{"clusters/default/pools/p"}})
	want("of a pool", err, codes.InvalidArgument, "subjects[0]")
	discarded, err := fleet.DiscardDrift(ctx, &tandemv1.DiscardDriftRequest{Name: node, Subjects: []string{web1}})
	if err != nil || len(discarded.GetDiscarded()) != 1 || discarded.GetDiscarded()[0].GetName() != web1 {
		t.Errorf("DiscardDrift = %v, %v", discarded, err)
	}
	if got := command.Load(); got.GetDrain() || len(got.GetBackends()) != 1 || got.GetBackends()[0] != "p/web1" || got.GetAuthor() != "admin" {
		t.Errorf("the node was told %v", got)
	}
	refusal.Store("haproxy does not answer")
	_, err = fleet.DiscardDrift(ctx, &tandemv1.DiscardDriftRequest{Name: node})
	want("a node that fails", err, codes.FailedPrecondition, "lb-master: haproxy does not answer")

	const web9 = "clusters/default/pools/p/backends/web9"
	_, err = fleet.KeepDrift(ctx, &tandemv1.KeepDriftRequest{Name: node, Subjects: []string{web9}})
	want("of a backend that exists no more", err, codes.NotFound, "web9")
	before := newest(ctx, t, config)
	kept := c.rest(t, http.MethodPost, "/v1/"+node+":keepDrift", `{"message":"as it is","requestId":"once"}`)
	if kept.status != http.StatusOK || strings.Count(string(kept.body), `"name"`) != 3 {
		t.Fatalf("keepDrift says %d %s", kept.status, kept.body)
	}
	if gone, ok := kept.decode(t)["gone"].([]any); !ok || len(gone) != 1 || gone[0].(map[string]any)["name"] != web9 {
		t.Errorf("keepDrift says %s, want web9 alone as gone", kept.body)
	}
	// One revision, also when the call is repeated or nothing is left to keep.
	for _, request := range []*tandemv1.KeepDriftRequest{{Name: node, RequestId: "once", Message: "as it is"}, {Name: node}} {
		_, err = fleet.KeepDrift(ctx, request)
		must(t, err)
	}
	if after := newest(ctx, t, config); after != before+1 {
		t.Errorf("keeping made revision %d of %d", after, before)
	}
	got, err := fleet.GetNode(ctx, &tandemv1.GetNodeRequest{Name: node})
	if err != nil || !got.GetDrain() {
		t.Errorf("the node is %v, %v", got, err)
	}
	backend, err := config.GetBackend(ctx, &tandemv1.GetBackendRequest{Name: web1})
	if err != nil || backend.GetOverride().GetState() != "drain" || backend.GetOverride().GetAuthor() != "admin" {
		t.Errorf("the backend is %v, %v", backend, err)
	}
}

func TestDriftOfANodeThatIsAway(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	fleet := tandemv1.NewFleetServiceClient(c.dial(t))
	_, kept := fleet.KeepDrift(c.admin(t), &tandemv1.KeepDriftRequest{Name: "clusters/default/nodes/lb-master"})
	_, discarded := fleet.DiscardDrift(c.admin(t), &tandemv1.DiscardDriftRequest{Name: "clusters/default/nodes/lb-master"})
	for _, err := range []error{kept, discarded} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not connected") {
			t.Errorf("of a node that is away: %v", err)
		}
	}
}

// newest is the number of the newest revision.
func newest(ctx context.Context, t *testing.T, config tandemv1.ConfigServiceClient) uint64 {
	t.Helper()
	list, err := config.ListRevisions(ctx, &tandemv1.ListRevisionsRequest{Parent: "clusters/default", PageSize: 1})
	must(t, err)
	return list.GetRevisions()[0].GetNumber()
}
