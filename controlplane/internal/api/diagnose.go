package api

import (
	"context"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (f *fleetService) Diagnose(ctx context.Context, r *tandemv1.DiagnoseRequest) (*tandemv1.Diagnosis, error) {
	head, err := headOf(f.writer.Ledger, r.GetName(), "name")
	if err != nil {
		return nil, err
	}
	if r.GetVip() == "" {
		return f.fleet.Diagnose(ctx, head.ID(), "")
	}
	vip, err := parse(r.GetVip(), state.KindVip, "vip")
	if err != nil {
		return nil, err
	}
	if vip.Cluster != head.ID() {
		return nil, refuse("vip", state.ReasonNameInvalid, "must be the name of a VIP of cluster "+head.ID())
	}
	if _, err := get(f.writer.Ledger, vipNoun, r.GetVip()); err != nil {
		return nil, err
	}
	return f.fleet.Diagnose(ctx, head.ID(), vip.ID)
}
