package api

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// defaultLease is how long a node keeps away from a VIP that it gave up.
const defaultLease = time.Minute

func (f *fleetService) FailoverVip(ctx context.Context, r *tandemv1.FailoverVipRequest) (*tandemv1.FailoverVipResponse, error) {
	// Nodes keep serving what they have while a restored store waits.
	if err := f.writer.Ready(); err != nil {
		return nil, err
	}
	name, err := parse(r.GetName(), state.KindVip, "name")
	if err != nil {
		return nil, err
	}
	if _, err := get(f.writer.Ledger, vipNoun, r.GetName()); err != nil {
		return nil, err
	}
	if r.GetTo() != "" {
		if _, err := get(f.writer.Ledger, nodeNoun, state.NodeName(name.Cluster, r.GetTo()).String()); err != nil {
			return nil, err
		}
	}
	moved, err := f.fleet.Failover(ctx, fleet.Move{
		Cluster: name.Cluster, VIP: name.ID, To: r.GetTo(),
		Lease:  cmp.Or(r.GetLease().AsDuration(), defaultLease),
		Author: callerOf(ctx).operator, Reason: r.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	return &tandemv1.FailoverVipResponse{
		Name: r.GetName(), From: moved.From, To: moved.To, Duration: durationpb.New(moved.Took),
	}, nil
}
