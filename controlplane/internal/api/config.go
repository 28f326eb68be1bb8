package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// configService holds what is desired. Clusters, whole configurations and
// revisions are here, the resources of a cluster in resources.go and
// backends.go.
type configService struct {
	tandemv1.UnimplementedConfigServiceServer
	writer *writer
	fleet  *fleet.Fleet
}

func (c *configService) CreateCluster(ctx context.Context, r *tandemv1.CreateClusterRequest) (*tandemv1.Cluster, error) {
	cluster := r.GetCluster()
	if cluster == nil {
		cluster = &tandemv1.Cluster{}
	}
	result, err := c.writer.CreateCluster(ctx, r.GetClusterId(), cluster, ledgerRequest(ctx, r, nil))
	if err != nil {
		return nil, err
	}
	if err := c.writer.announce(ctx, r, result); err != nil {
		return nil, err
	}
	return found(state.ClusterView(result.Config), state.ClusterName(result.Config.ID()))
}

func (c *configService) GetCluster(_ context.Context, r *tandemv1.GetClusterRequest) (*tandemv1.Cluster, error) {
	head, err := headOf(c.writer.Ledger, r.GetName(), "name")
	if err != nil {
		return nil, err
	}
	return state.ClusterView(head), nil
}

// ListClusters goes on after a name: clusters have no revision in common.
func (c *configService) ListClusters(_ context.Context, r *tandemv1.ListClustersRequest) (*tandemv1.ListClustersResponse, error) {
	var after string
	if r.GetPageToken() != "" {
		if err := decodeToken(r.GetPageToken(), &after); err != nil {
			return nil, errPageToken
		}
	}
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	response := &tandemv1.ListClustersResponse{}
	for _, id := range c.writer.Clusters() {
		if id <= after {
			continue
		}
		if len(response.Clusters) == size {
			response.NextPageToken = encodeToken(after)
			break
		}
		head, err := c.writer.Head(id)
		if err != nil {
			continue // deleted this moment
		}
		response.Clusters = append(response.Clusters, state.ClusterView(head))
		after = id
	}
	return response, nil
}

func (c *configService) UpdateCluster(ctx context.Context, r *tandemv1.UpdateClusterRequest) (*tandemv1.Cluster, error) {
	name, err := parse(r.GetCluster().GetName(), state.KindCluster, "cluster.name")
	if err != nil {
		return nil, err
	}
	config, err := c.writer.commit(ctx, name.Cluster, r, state.UpdateCluster(r.GetCluster(), r.GetUpdateMask()))
	if err != nil {
		return nil, err
	}
	return found(state.ClusterView(config), name)
}

func (c *configService) DeleteCluster(ctx context.Context, r *tandemv1.DeleteClusterRequest) (*emptypb.Empty, error) {
	name, err := parse(r.GetName(), state.KindCluster, "name")
	if err != nil {
		return nil, err
	}
	result, err := c.writer.DeleteCluster(ctx, name.Cluster, r.GetEtag(), ledgerRequest(ctx, r, nil))
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.writer.announce(ctx, r, result)
}

func (c *configService) ApplyConfig(ctx context.Context, r *tandemv1.ApplyConfigRequest) (*tandemv1.ApplyConfigResponse, error) {
	name, err := parse(r.GetParent(), state.KindCluster, "parent")
	if err != nil {
		return nil, err
	}
	if r.GetConfig() == nil {
		return nil, refuse("config", state.ReasonFieldInvalid, "must be the whole configuration of the cluster")
	}
	if r.GetCheckNodes() && !r.GetValidateOnly() {
		return nil, refuse("check_nodes", state.ReasonFieldInvalid, "needs validate_only: the nodes check every change that is made")
	}
	result, err := c.writer.Commit(ctx, name.Cluster, ledgerRequest(ctx, r, state.ApplyConfig(r.GetConfig(), r.GetEtag())))
	if err != nil {
		return nil, err
	}
	response := &tandemv1.ApplyConfigResponse{Revision: result.Revision}
	if r.GetCheckNodes() {
		if response.NodeChecks, err = c.fleet.Check(ctx, result.Config); err != nil {
			return nil, err
		}
	}
	return response, c.writer.announce(ctx, r, result)
}

func (c *configService) ExportConfig(_ context.Context, r *tandemv1.ExportConfigRequest) (*tandemv1.ClusterConfig, error) {
	head, err := headOf(c.writer.Ledger, r.GetParent(), "parent")
	if err != nil {
		return nil, err
	}
	return state.Export(head), nil
}

func (c *configService) ListRevisions(ctx context.Context, r *tandemv1.ListRevisionsRequest) (*tandemv1.ListRevisionsResponse, error) {
	head, err := headOf(c.writer.Ledger, r.GetParent(), "parent")
	if err != nil {
		return nil, err
	}
	below, err := before(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size, ask := backward(r.GetPageSize())
	revisions, err := c.writer.Revisions(ctx, head.ID(), below, ask)
	if err != nil {
		return nil, err
	}
	response := &tandemv1.ListRevisionsResponse{Revisions: revisions}
	if len(revisions) > size {
		response.Revisions = revisions[:size]
		response.NextPageToken = encodeToken(revisions[size-1].GetNumber())
	}
	return response, nil
}

func (c *configService) GetRevision(ctx context.Context, r *tandemv1.GetRevisionRequest) (*tandemv1.Revision, error) {
	cluster, text, ok := strings.Cut(r.GetName(), "/revisions/")
	number, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil {
		return nil, refuse("name", state.ReasonNameInvalid,
			fmt.Sprintf("%q must be the full name of a revision, such as clusters/default/revisions/7", r.GetName()))
	}
	head, err := headOf(c.writer.Ledger, cluster, "name")
	if err != nil {
		return nil, err
	}
	return c.writer.Revision(ctx, head.ID(), number)
}

// headOf returns the newest configuration of a cluster by its full name.
func headOf(l *ledger.Ledger, cluster, field string) (*state.Config, error) {
	name, err := parse(cluster, state.KindCluster, field)
	if err != nil {
		return nil, err
	}
	return l.Head(name.Cluster)
}
