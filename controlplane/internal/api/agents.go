package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

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
	if err := a.writer.Ready(); err != nil {
		return nil, err
	}
	key, err := pki.RequestKey(r.GetCsr())
	if err != nil {
		return nil, err
	}
	grant, err := a.joinTokens.Redeem(ctx, r.GetNode(), r.GetCredential(), pki.KeyHash(key))
	if err != nil {
		return nil, err
	}
	id := pki.NodeIdentity{Cluster: grant.Cluster, Node: r.GetNode(), UID: grant.UID}
	certificate, err := a.join(ctx, grant, id, key)
	if err != nil {
		return nil, err
	}
	return &agentv1.EnrolResponse{Certificate: certificate, Ca: a.authority.Bundle(), Cluster: id.Cluster, Uid: id.UID}, nil
}

// join makes the node part of its cluster. If that is refused the token stays good.
// If it fails otherwise, say because the disk is full, the token is good for the
// same key alone, which gets the same identity: the node may be a member by now.
func (a *agentService) join(ctx context.Context, grant *auth.Grant, id pki.NodeIdentity, key any) ([]byte, error) {
	// Neither an agent that hangs up now nor its deadline leaves a half.
	ctx = context.WithoutCancel(ctx)
	certificate, err := a.authority.IssueNode(key, id)
	if err != nil {
		return nil, err
	}
	if grant.Joined {
		// Only the answer was lost; but the node may have been removed since.
		return certificate, membership(a.writer.Ledger, id)
	}
	if grant.Replaces != "" {
		if err := a.joinTokens.Leaves(ctx, grant.Replaces); err != nil {
			return nil, err
		}
	}
	change, word, event := state.AddNode(id.Node, id.UID), "joined", "NODE_JOINED"
	if grant.Replaces != "" {
		change, word, event = state.ReplaceNode(id.Node, grant.Replaces, id.UID), "was replaced by another machine", "NODE_REPLACED"
	}
	result, err := a.writer.Commit(ctx, id.Cluster, ledger.Request{
		Change:  change,
		Author:  grant.Operator,
		Message: "node " + id.Node + " " + word,
	})
	var refused *state.Error
	if errors.As(err, &refused) {
		return nil, a.giveBack(ctx, grant, err)
	}
	if err != nil {
		return nil, err
	}
	if err := a.joinTokens.Joined(ctx, grant); err != nil {
		return nil, err
	}
	if result.Revision != nil {
		a.writer.events.Append(id.Cluster, accessEvent(id.Cluster, id.Node, event,
			fmt.Sprintf("node %s %s, with a token by %s", id.Node, word, grant.Operator)))
	}
	return certificate, nil
}

// giveBack makes the token good again and returns why.
func (a *agentService) giveBack(ctx context.Context, grant *auth.Grant, why error) error {
	if err := a.joinTokens.Return(ctx, grant); err != nil {
		return fmt.Errorf("%w; and its join token is lost: %w", why, err)
	}
	return why
}

func (a *agentService) Renew(ctx context.Context, r *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	key, err := pki.RequestKey(r.GetCsr())
	if err != nil {
		return nil, err
	}
	node := callerOf(ctx).node
	certificate, err := a.authority.IssueNode(key, node)
	if err != nil {
		return nil, err
	}
	if err := a.authority.CheckNode(shownLeaf(ctx), time.Now()); err != nil {
		a.fleet.Recovered(fleet.Identity{Cluster: node.Cluster, Node: node.Node, UID: node.UID}, err)
	}
	return &agentv1.RenewResponse{Certificate: certificate, Ca: a.authority.Bundle()}, nil
}

func (a *agentService) Session(stream grpc.BidiStreamingServer[agentv1.SessionRequest, agentv1.SessionResponse]) error {
	node := callerOf(stream.Context()).node
	a.writer.Beside(node.Cluster, node.Node, node.UID, onThisMachine(stream.Context()))
	err := a.fleet.Serve(stream.Context(), fleet.Identity{Cluster: node.Cluster, Node: node.Node, UID: node.UID}, stream)
	if errors.Is(err, fleet.ErrRevoked) {
		err = cmp.Or(membership(a.writer.Ledger, node), err) // why it was
	}
	return err
}

// onThisMachine tells whether a call comes from the controller's own machine, or
// through a proxy there.
func onThisMachine(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	from, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	if from.IP.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(from.IP)
	})
}
