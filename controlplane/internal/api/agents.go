package api

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// agentService is what agents call.
type agentService struct {
	agentv1.UnimplementedAgentServiceServer
	writer     *writer
	fleet      *fleet.Fleet
	joinTokens *auth.JoinTokens
	authority  *pki.Authority
}

// Enrol looks at everything that can be wrong before it uses the token up.
func (a *agentService) Enrol(ctx context.Context, r *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	if err := state.CheckID(state.KindNode, r.GetNode(), "node"); err != nil {
		return nil, err
	}
	key, err := pki.RequestKey(r.GetCsr())
	if err != nil {
		return nil, err
	}
	grant, err := a.joinTokens.Redeem(ctx, r.GetNode(), r.GetCredential())
	if err != nil {
		return nil, err
	}
	id := pki.NodeIdentity{Cluster: grant.Cluster, Node: r.GetNode(), UID: uuid.NewString()}
	certificate, err := a.join(ctx, grant, id, key)
	if err != nil {
		return nil, err
	}
	return &agentv1.EnrolResponse{Certificate: certificate, Ca: a.authority.Bundle(), Cluster: id.Cluster, Uid: id.UID}, nil
}

// join makes the node part of its cluster; if it cannot, the token stays good.
func (a *agentService) join(ctx context.Context, grant *auth.Grant, id pki.NodeIdentity, key any) ([]byte, error) {
	// Neither an agent that hangs up now nor its deadline leaves a half.
	ctx = context.WithoutCancel(ctx)
	certificate, err := a.authority.IssueNode(key, id)
	if err == nil {
		_, err = a.writer.Commit(ctx, id.Cluster, ledger.Request{
			Change:  state.AddNode(id.Node, id.UID),
			Author:  grant.Operator,
			Message: "node " + id.Node + " joined",
		})
	}
	if err != nil {
		if back := a.joinTokens.Return(ctx, grant); back != nil {
			err = fmt.Errorf("%w; and its join token is lost: %w", err, back)
		}
		return nil, err
	}
	a.writer.events.Append(id.Cluster, accessEvent(id.Cluster, id.Node, "NODE_JOINED",
		fmt.Sprintf("node %s joined with a token by %s", id.Node, grant.Operator)))
	return certificate, nil
}

func (a *agentService) Renew(ctx context.Context, r *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	key, err := pki.RequestKey(r.GetCsr())
	if err != nil {
		return nil, err
	}
	certificate, err := a.authority.IssueNode(key, callerOf(ctx).node)
	if err != nil {
		return nil, err
	}
	return &agentv1.RenewResponse{Certificate: certificate, Ca: a.authority.Bundle()}, nil
}

func (a *agentService) Session(stream grpc.BidiStreamingServer[agentv1.SessionRequest, agentv1.SessionResponse]) error {
	node := callerOf(stream.Context()).node
	return a.fleet.Serve(stream.Context(), fleet.Identity{Cluster: node.Cluster, Node: node.Node, UID: node.UID}, stream)
}
