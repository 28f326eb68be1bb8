package api_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestOneOf100ConcurrentAgentsJoins(t *testing.T) {
	c := start(t)
	credential := c.joinToken(t, "lb-master")
	_, csr := newRequest(t)
	conn := c.dial(t)
	var joined, refused atomic.Int32
	var agents sync.WaitGroup
	for range 100 {
		agents.Go(func() {
			err := status.Error(codes.Unavailable, "not tried yet")
			for status.Code(err) == codes.Unavailable { // too many at once
				_, err = agentv1.NewAgentServiceClient(conn).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
			}
			switch status.Code(err) {
			case codes.OK:
				joined.Add(1)
			case codes.Unauthenticated:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	agents.Wait()
	if joined.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d joined and %d were refused; want 1 and 99", joined.Load(), refused.Load())
	}
	nodes, err := tandemv1.NewFleetServiceClient(conn).ListNodes(c.admin(t), &tandemv1.ListNodesRequest{Parent: "clusters/default"})
	if err != nil || len(nodes.GetNodes()) != 1 {
		t.Errorf("%v, %v; want one node", nodes, err)
	}
}

func TestRefusedJoinsDoNotUseTheTokenUp(t *testing.T) {
	c := start(t)
	credential := c.joinToken(t, "lb-master")
	key, csr := newRequest(t)
	agents := agentv1.NewAgentServiceClient(c.dial(t))
	for name, use := range map[string]struct {
		request *agentv1.EnrolRequest
		want    codes.Code
		reason  string
	}{
		"no certificate request": {&agentv1.EnrolRequest{Node: "lb-master", Credential: credential}, codes.InvalidArgument, "CSR_INVALID"},
		"another node":           {&agentv1.EnrolRequest{Node: "lb-backup", Credential: credential, Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
		"no node":                {&agentv1.EnrolRequest{Credential: credential, Csr: csr}, codes.InvalidArgument, "NAME_INVALID"},
		"wrong secret":           {&agentv1.EnrolRequest{Node: "lb-master", Credential: credential + "A", Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
		"operator's token":       {&agentv1.EnrolRequest{Node: "lb-master", Credential: c.token, Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
	} {
		_, err := agents.Enrol(t.Context(), use.request)
		if got := grpcFault(t, err); got.code != use.want || got.reason != use.reason {
			t.Errorf("%s: %v %s; want %v %s", name, got.code, got.reason, use.want, use.reason)
		}
	}
	answer, err := agents.Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
	must(t, err)
	if answer.GetCluster() != "default" || answer.GetUid() == "" || !slices.Equal(answer.GetCa(), c.authority.Bundle()) {
		t.Errorf("answer %v", answer)
	}
	// The certificate is good for a renewal, and the new one for the next.
	node := keyPair(t, key, answer.GetCertificate())
	for range 2 {
		key, csr := newRequest(t)
		renewed, err := agentv1.NewAgentServiceClient(c.dial(t, node)).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
		must(t, err)
		node = keyPair(t, key, renewed.GetCertificate())
	}
}

func TestANodeThatHasJoinedIsNotReplaced(t *testing.T) {
	c := start(t)
	early := c.joinToken(t, "lb-master")
	c.join(t, "lb-master")
	operator := tandemv1.NewFleetServiceClient(c.dial(t))
	_, err := operator.CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: "lb-master"},
	})
	if got := grpcFault(t, err); got.code != codes.AlreadyExists || got.reason != "NODE_EXISTS" {
		t.Errorf("a token for it: %+v; want NODE_EXISTS", got)
	}
	_, csr := newRequest(t)
	enrol := func() error {
		_, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: early, Csr: csr})
		return err
	}
	if got := grpcFault(t, enrol()); got.code != codes.AlreadyExists || got.reason != "NODE_EXISTS" {
		t.Errorf("a token made before: %+v; want NODE_EXISTS", got)
	}
	_, err = operator.DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	if err := enrol(); err != nil {
		t.Errorf("the refused join used its token up: %v", err)
	}
}

// A node that joins again under its name is another one.
func TestARemovedNodesCertificateStaysRefused(t *testing.T) {
	c := start(t)
	old := c.join(t, "lb-master")
	_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	c.join(t, "lb-master")
	_, csr := newRequest(t)
	_, err = agentv1.NewAgentServiceClient(c.dial(t, old)).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
	if got := grpcFault(t, err); got.code != codes.PermissionDenied || got.reason != "NODE_REMOVED" {
		t.Errorf("got %+v; want NODE_REMOVED", got)
	}
}

func TestRemovingANodeCutsItsSession(t *testing.T) {
	c := start(t)
	stream, err := agentv1.NewAgentServiceClient(c.dial(t, c.join(t, "lb-master"))).Session(t.Context())
	must(t, err)
	must(t, stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{
		Protocol: 1, AgentVersion: "test", BootId: "b", SessionId: "s",
	}}}))
	welcome, err := stream.Recv()
	if err != nil || welcome.GetWelcome().GetControllerVersion() != "test" {
		t.Fatalf("got %v, %v; want a welcome", welcome, err)
	}
	_, err = tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	if got := grpcFault(t, err); got.code != codes.PermissionDenied || got.reason != "NODE_REMOVED" {
		t.Errorf("the session ended with %+v; want NODE_REMOVED", got)
	}
}
