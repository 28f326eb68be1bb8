package api_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Once a node of the controller's own machine has a session, its cluster cannot
// have the controller's ports, until it is removed.
func TestControllerBesideANode(t *testing.T) {
	c := start(t)
	config := tandemv1.NewConfigServiceClient(c.dial(t))
	_, err := config.CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", Pool: &tandemv1.Pool{}})
	must(t, err)
	listen := &tandemv1.CreateListenerRequest{
		Parent: "clusters/default", ListenerId: "l", ValidateOnly: true,
		Listener: &tandemv1.Listener{Pool: "p", Binds: []*tandemv1.Bind{{Port: 9443}}},
	}
	if _, err := config.CreateListener(c.admin(t), listen); err != nil {
		t.Errorf("with no node on this machine: %v", err)
	}
	session, err := agentv1.NewAgentServiceClient(c.dial(t, c.join(t, "lb-master"))).Session(t.Context())
	must(t, err)
	must(t, session.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{Protocol: 1}}}))
	if _, err := session.Recv(); err != nil { // welcome
		t.Fatal(err)
	}
	_, err = config.CreateListener(c.admin(t), listen)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "lb-controller on lb-master") {
		t.Errorf("got %v", err)
	}
	_, err = tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
	must(t, err)
	if _, err := config.CreateListener(c.admin(t), listen); err != nil {
		t.Errorf("with the node removed: %v", err)
	}
}
