package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (c *configService) CreateBackend(ctx context.Context, r *tandemv1.CreateBackendRequest) (*tandemv1.Backend, error) {
	return create(ctx, c.writer, backendNoun, r, r.GetBackendId(), func(n state.Name) state.Change {
		return state.CreateBackend(n.Pool, n.ID, r.GetBackend())
	})
}

func (c *configService) GetBackend(_ context.Context, r *tandemv1.GetBackendRequest) (*tandemv1.Backend, error) {
	return get(c.writer.Ledger, backendNoun, r.GetName())
}

func (c *configService) ListBackends(_ context.Context, r *tandemv1.ListBackendsRequest) (*tandemv1.ListBackendsResponse, error) {
	backends, next, err := page(c.writer.Ledger, backendNoun, r, func(config *state.Config, parent state.Name) []*tandemv1.Backend {
		return config.Backends(parent.ID)
	})
	return &tandemv1.ListBackendsResponse{Backends: backends, NextPageToken: next}, err
}

func (c *configService) UpdateBackend(ctx context.Context, r *tandemv1.UpdateBackendRequest) (*tandemv1.Backend, error) {
	return update(ctx, c.writer, backendNoun, r, r.GetBackend().GetName(), state.UpdateBackend(r.GetBackend(), r.GetUpdateMask()))
}

func (c *configService) DeleteBackend(ctx context.Context, r *tandemv1.DeleteBackendRequest) (*emptypb.Empty, error) {
	return remove(ctx, c.writer, backendNoun, r, func(n state.Name) state.Change {
		return state.DeleteBackend(n.Pool, n.ID, r.GetEtag())
	})
}

func (c *configService) UpdateOverride(ctx context.Context, r *tandemv1.UpdateOverrideRequest) (*tandemv1.Override, error) {
	return update(ctx, c.writer, overrideNoun, r, r.GetOverride().GetName(), state.SetOverride(r.GetOverride(), r.GetUpdateMask()))
}

func (c *configService) DeleteOverride(ctx context.Context, r *tandemv1.DeleteOverrideRequest) (*emptypb.Empty, error) {
	return remove(ctx, c.writer, overrideNoun, r, func(n state.Name) state.Change { return state.DeleteOverride(n.Pool, n.ID) })
}
