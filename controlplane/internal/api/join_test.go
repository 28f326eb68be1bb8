package api_test

import (
	"crypto/tls"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// enrolled is what became of 100 agents that joined at once.
type enrolled struct {
	joined, refused int
	uids            map[string]bool
}

// enrol100 has 100 agents use one credential at once, each with a key of its own
// or all with the same.
func (c *controller) enrol100(t *testing.T, credential string, csr func() []byte) enrolled {
	t.Helper()
	conn := c.dial(t)
	got := enrolled{uids: map[string]bool{}}
	var mu sync.Mutex
	var agents sync.WaitGroup
	for range 100 {
		request := &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr()}
		agents.Go(func() {
			answer, err := (*agentv1.EnrolResponse)(nil), status.Error(codes.Unavailable, "not tried yet")
			for status.Code(err) == codes.Unavailable { // too many at once
				answer, err = agentv1.NewAgentServiceClient(conn).Enrol(t.Context(), request)
			}
			mu.Lock()
			defer mu.Unlock()
			switch status.Code(err) {
			case codes.OK:
				got.joined++
				got.uids[answer.GetUid()] = true
			case codes.Unauthenticated:
				got.refused++
			default:
				t.Error(err)
			}
		})
	}
	agents.Wait()
	nodes, err := tandemv1.NewFleetServiceClient(conn).ListNodes(c.admin(t), &tandemv1.ListNodesRequest{Parent: "clusters/default"})
	if err != nil || len(nodes.GetNodes()) != 1 || !got.uids[nodes.GetNodes()[0].GetUid()] {
		t.Errorf("%v, %v; want the one node that joined", nodes, err)
	}
	return got
}

func TestOneOf100ConcurrentAgentsJoins(t *testing.T) {
	c := start(t)
	got := c.enrol100(t, c.joinToken(t, "lb-master"), func() []byte {
		_, csr := newRequest(t)
		return csr
	})
	if got.joined != 1 || got.refused != 99 {
		t.Errorf("%d joined and %d were refused; want 1 and 99", got.joined, got.refused)
	}
}

// One agent that repeats itself, as its answers are lost, is one node.
func TestARepeatedEnrolmentGivesTheSameIdentity(t *testing.T) {
	c := start(t)
	credential := c.joinToken(t, "lb-master")
	_, csr := newRequest(t)
	same := func() []byte { return csr }
	if got := c.enrol100(t, credential, same); got.joined != 100 || len(got.uids) != 1 {
		t.Errorf("%+v; want 100 answers with one identity", got)
	}
	if revisions := c.rest(t, "GET", "/v1/clusters/default/revisions", ""); strings.Count(string(revisions.body), "node lb-master joined") != 1 {
		t.Errorf("more than one revision: %s", revisions.body)
	}
	_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	_, err = agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
	if got := grpcFault(t, err); got.code != codes.PermissionDenied || got.reason != "NODE_REMOVED" {
		t.Errorf("a repeat after the removal: %+v; want NODE_REMOVED", got)
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
		"no certificate request":      {&agentv1.EnrolRequest{Node: "lb-master", Credential: credential}, codes.InvalidArgument, "CSR_INVALID"},
		"another node":                {&agentv1.EnrolRequest{Node: "lb-backup", Credential: credential, Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
		"no node":                     {&agentv1.EnrolRequest{Credential: credential, Csr: csr}, codes.InvalidArgument, "NAME_INVALID"},
		"wrong secret":                {&agentv1.EnrolRequest{Node: "lb-master", Credential: credential + "A", Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
		"token of another controller": {&agentv1.EnrolRequest{Node: "lb-master", Credential: start(t).joinToken(t, "lb-master"), Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
		"operator's token":            {&agentv1.EnrolRequest{Node: "lb-master", Credential: c.token, Csr: csr}, codes.Unauthenticated, "TOKEN_INVALID"},
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

// What a machine is told whose certificate is no longer a member's, by its next
// call and by the end of its session.
func TestNodesThatAreNoLongerMembers(t *testing.T) {
	remove := func(t *testing.T, c *controller) {
		_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
		must(t, err)
	}
	for name, test := range map[string]struct {
		leave func(*testing.T, *controller)
		want  string
	}{
		"removed":            {remove, "NODE_REMOVED"},
		"removed, and anew":  {func(t *testing.T, c *controller) { remove(t, c); c.join(t, "lb-master") }, "NODE_REPLACED"},
		"replaced":           {func(t *testing.T, c *controller) { c.replace(t, "lb-master") }, "NODE_REPLACED"},
		"replaced, and gone": {func(t *testing.T, c *controller) { c.replace(t, "lb-master"); remove(t, c) }, "NODE_REMOVED"},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			old := c.join(t, "lb-master")
			uid := path.Base(old.Leaf.URIs[0].Path)
			stream := c.session(t, old)
			test.leave(t, c)
			var err error
			for err == nil {
				_, err = stream.Recv()
			}
			// Its session may have ended when it was removed, before another came.
			if got := grpcFault(t, err); got.code != codes.PermissionDenied || got.metadata["uid"] != uid || name == "replaced" && got.reason != test.want {
				t.Errorf("the session ended with %+v; want %s of %s", got, test.want, uid)
			}
			_, csr := newRequest(t)
			_, err = agentv1.NewAgentServiceClient(c.dial(t, old)).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
			if got := grpcFault(t, err); got.code != codes.PermissionDenied || got.reason != test.want || got.metadata["uid"] != uid {
				t.Errorf("the next call: %+v; want %s of %s", got, test.want, uid)
			}
		})
	}
}

// session opens a session and waits for its welcome.
func (c *controller) session(t *testing.T, node tls.Certificate) agentv1.AgentService_SessionClient {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(c.dial(t, node)).Session(t.Context())
	must(t, err)
	must(t, stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{
		Protocol: 1, AgentVersion: "test", BootId: "b", SessionId: "s",
	}}}))
	welcome, err := stream.Recv()
	if err != nil || welcome.GetWelcome().GetControllerVersion() != "test" {
		t.Fatalf("got %v, %v; want a welcome", welcome, err)
	}
	return stream
}

// replacement makes a token for a machine that takes a node's place.
func (c *controller) replacement(t *testing.T, node string) string {
	t.Helper()
	token, err := tandemv1.NewFleetServiceClient(c.dial(t)).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: node, Replace: true},
	})
	must(t, err)
	return strings.SplitN(token.GetToken(), ".", 3)[2]
}

// replace lets another machine take a node's place.
func (c *controller) replace(t *testing.T, node string) {
	t.Helper()
	_, csr := newRequest(t)
	_, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: node, Credential: c.replacement(t, node), Csr: csr})
	must(t, err)
}

// The machine that takes a node's place finds all that was set for it.
func TestReplacingKeepsWhatIsSetForANode(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	operator, config := tandemv1.NewFleetServiceClient(c.dial(t)), tandemv1.NewConfigServiceClient(c.dial(t))
	_, err := operator.UpdateNode(c.admin(t), &tandemv1.UpdateNodeRequest{
		Node:       &tandemv1.Node{Name: "clusters/default/nodes/lb-master", Drain: true},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"drain"}},
	})
	must(t, err)
	_, err = config.CreateVip(c.admin(t), &tandemv1.CreateVipRequest{Parent: "clusters/default", VipId: "web", Vip: &tandemv1.Vip{
		Addresses: []string{"192.168.1.100/24"}, Vrid: 51, Priorities: map[string]uint32{"lb-master": 120},
	}})
	must(t, err)
	node := func() *tandemv1.Node {
		n, err := operator.GetNode(c.admin(t), &tandemv1.GetNodeRequest{Name: "clusters/default/nodes/lb-master"})
		must(t, err)
		return n
	}
	before := node()
	first, second := c.replacement(t, "lb-master"), c.replacement(t, "lb-master")
	if node().GetUid() != before.GetUid() {
		t.Error("the token alone has replaced the node")
	}
	enrol := func(credential string) error {
		_, csr := newRequest(t)
		_, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
		return err
	}
	must(t, enrol(first))
	after := node()
	vip, err := config.GetVip(c.admin(t), &tandemv1.GetVipRequest{Name: "clusters/default/vips/web"})
	must(t, err)
	if after.GetUid() == before.GetUid() || !after.GetDrain() || after.GetNumber() != before.GetNumber() ||
		!after.GetJoinTime().AsTime().Equal(before.GetJoinTime().AsTime()) || vip.GetPriorities()["lb-master"] != 120 {
		t.Errorf("before %v, after %v with %v", before, after, vip)
	}
	// The other token was made for the place of a machine that is gone.
	if got := grpcFault(t, enrol(second)); got.reason != "NODE_REPLACED" || got.code != codes.FailedPrecondition {
		t.Errorf("a second replacement of the same machine: %+v; want NODE_REPLACED", got)
	}
}

// A token is for the node of one cluster: of the same name in another one it
// makes no member, whatever the agent believes.
func TestATokenJoinsItsOwnCluster(t *testing.T) {
	c := start(t)
	if got := c.rest(t, "POST", "/v1/clusters?cluster_id=staging", "{}"); got.status != 200 {
		t.Fatalf("%s", got.body)
	}
	own := c.join(t, "lb-master")
	operator := tandemv1.NewFleetServiceClient(c.dial(t))
	token, err := operator.CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/staging", JoinToken: &tandemv1.JoinToken{Node: "lb-master"},
	})
	must(t, err)
	_, csr := newRequest(t)
	answer, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{
		Node: "lb-master", Credential: strings.SplitN(token.GetToken(), ".", 3)[2], Csr: csr,
	})
	must(t, err)
	node, err := operator.GetNode(c.admin(t), &tandemv1.GetNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	if answer.GetCluster() != "staging" || node.GetUid() == answer.GetUid() || node.GetUid() != path.Base(own.Leaf.URIs[0].Path) {
		t.Errorf("joined %s as %s; lb-master of default is %s", answer.GetCluster(), answer.GetUid(), node.GetUid())
	}
}

func TestOnlyANodeThatExistsIsReplaced(t *testing.T) {
	c := start(t)
	_, err := tandemv1.NewFleetServiceClient(c.dial(t)).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: "lb-master", Replace: true},
	})
	if got := grpcFault(t, err); got.code != codes.NotFound || got.reason != "NOT_FOUND" {
		t.Errorf("%+v; want NOT_FOUND", got)
	}
}
