package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// fleetService holds the nodes and tells what really is.
type fleetService struct {
	tandemv1.UnimplementedFleetServiceServer
	writer     *writer
	fleet      *fleet.Fleet
	joinTokens *auth.JoinTokens
}

func (f *fleetService) CreateJoinToken(ctx context.Context, r *tandemv1.CreateJoinTokenRequest) (*tandemv1.JoinToken, error) {
	head, err := headOf(f.writer.Ledger, r.GetParent(), "parent")
	if err != nil {
		return nil, err
	}
	if err := f.writer.Ready(); err != nil {
		return nil, err
	}
	node := r.GetJoinToken().GetNode()
	if err := state.CheckID(state.KindNode, node, "join_token.node"); err != nil {
		return nil, err
	}
	replaced, err := placeOf(head, node, r.GetJoinToken().GetReplace())
	if err != nil {
		return nil, err
	}
	operator := callerOf(ctx).operator
	token, err := f.joinTokens.Create(ctx, auth.Order{
		Operator: operator, Cluster: head.ID(), Node: node, Replaces: replaced, TTL: r.GetTtl().AsDuration(),
	})
	if err != nil {
		return nil, err
	}
	purpose := "for node " + node
	if token.GetReplace() {
		purpose = "for a machine that takes the place of node " + node
	}
	f.writer.events.Append(head.ID(), accessEvent(head.ID(), node, "JOIN_TOKEN_CREATED",
		fmt.Sprintf("%s made a join token %s, good until %s", operator, purpose, token.GetExpireTime().AsTime().Format("2006-01-02 15:04 MST"))))
	return token, nil
}

// placeOf returns the uid of the node that is to be replaced, empty for a new
// node. A new node must not exist, one to replace must.
func placeOf(head *state.Config, node string, replace bool) (string, error) {
	name := state.NodeName(head.ID(), node)
	old := head.Node(node)
	switch {
	case replace && old == nil:
		return "", &state.Error{
			Code: state.NotFound, Reason: state.ReasonNotFound, Name: name.String(),
			Message: fmt.Sprintf("node %q does not exist: make a token for a new node with \"lbctl node token create\"", node),
		}
	case !replace && old != nil:
		return "", &state.Error{
			Code: state.AlreadyExists, Reason: state.ReasonNodeExists, Name: name.String(),
			Message: fmt.Sprintf("node %q has joined already: \"lbctl node replace\" makes a token for another machine that shall take its place", node),
		}
	}
	return old.GetUid(), nil
}

// accessEvent tells of a node's way into a cluster.
func accessEvent(cluster, node, reason, message string) *tandemv1.Event {
	return &tandemv1.Event{
		Type:     tandemv1.EventType_EVENT_TYPE_ACCESS,
		Severity: tandemv1.EventSeverity_EVENT_SEVERITY_INFO,
		Subject:  state.NodeName(cluster, node).String(),
		Reason:   reason,
		Message:  message,
	}
}

func (f *fleetService) GetNode(_ context.Context, r *tandemv1.GetNodeRequest) (*tandemv1.Node, error) {
	return get(f.writer.Ledger, nodeNoun, r.GetName())
}

func (f *fleetService) ListNodes(_ context.Context, r *tandemv1.ListNodesRequest) (*tandemv1.ListNodesResponse, error) {
	head, err := headOf(f.writer.Ledger, r.GetParent(), "parent")
	if err != nil {
		return nil, err
	}
	return &tandemv1.ListNodesResponse{Nodes: head.Nodes()}, nil
}

func (f *fleetService) UpdateNode(ctx context.Context, r *tandemv1.UpdateNodeRequest) (*tandemv1.Node, error) {
	return update(ctx, f.writer, nodeNoun, r, r.GetNode().GetName(), state.UpdateNode(r.GetNode(), r.GetUpdateMask()))
}

func (f *fleetService) DeleteNode(ctx context.Context, r *tandemv1.DeleteNodeRequest) (*emptypb.Empty, error) {
	if n, err := get(f.writer.Ledger, nodeNoun, r.GetName()); err == nil && !r.GetValidateOnly() {
		if err := f.joinTokens.Leaves(ctx, n.GetUid()); err != nil {
			return nil, err
		}
	}
	// The fleet hears of it and cuts the node's session.
	return remove(ctx, f.writer, nodeNoun, r, func(n state.Name) state.Change { return state.DeleteNode(n.ID, r.GetEtag()) })
}

func (f *fleetService) GetStatus(_ context.Context, r *tandemv1.GetStatusRequest) (*tandemv1.ClusterStatus, error) {
	head, err := headOf(f.writer.Ledger, r.GetName(), "name")
	if err != nil {
		return nil, err
	}
	return f.fleet.Status(head.ID())
}

func (f *fleetService) WatchStatus(r *tandemv1.WatchStatusRequest, stream grpc.ServerStreamingServer[tandemv1.WatchStatusResponse]) error {
	head, err := headOf(f.writer.Ledger, r.GetName(), "name")
	if err != nil {
		return err
	}
	watch, err := f.fleet.Watch(stream.Context(), head.ID())
	if err != nil {
		return err
	}
	for {
		next, err := watch.Next(stream.Context())
		if err != nil {
			return err
		}
		if err := stream.Send(next); err != nil {
			return err
		}
	}
}
