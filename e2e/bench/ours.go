package bench

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// ours is Tandem with the guide's cluster.
type ours struct {
	lab     *lab.Lab
	cluster *cluster.Cluster
	config  tandemv1.ConfigServiceClient
}

const pool = "clusters/default/pools/web_servers"

// startOurs starts Tandem and applies the guide's cluster. Its listener binds
// every address, as the guide's does, so that each node can be asked.
func startOurs(ctx context.Context, l *lab.Lab, bin, example string) (*ours, error) {
	programs, err := cluster.Find(bin)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Start(ctx, l, programs)
	if err != nil {
		return nil, err
	}
	if err := c.Apply(ctx, example); err != nil {
		return nil, err
	}
	if _, err := c.Lbctl(ctx, "listener", "set", "web_frontend", "--address", "*", "--port", strconv.Itoa(port)); err != nil {
		return nil, err
	}
	var conn *grpc.ClientConn
	if conn, err = c.Controller.Conn(); err != nil {
		return nil, err
	}
	return &ours{lab: l, cluster: c, config: tandemv1.NewConfigServiceClient(conn)}, nil
}

func (o *ours) network() *lab.Lab { return o.lab }

func (o *ours) killProxy(ctx context.Context) error { return o.cluster.Master().KillHAProxy(ctx) }
func (o *ours) forbid(context.Context) error        { return o.cluster.Master().Uninstall("haproxy") }
func (o *ours) permit(context.Context) error        { return o.cluster.Master().Install("haproxy") }

func (o *ours) reload(ctx context.Context, n int) error {
	_, err := o.config.UpdatePool(ctx, &tandemv1.UpdatePoolRequest{
		Pool: &tandemv1.Pool{
			Name:          pool,
			ServerTimeout: durationpb.New(time.Minute + time.Duration(n)*time.Second),
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"server_timeout"}},
	})
	if err != nil {
		return err
	}
	return o.settled(ctx)
}

func (o *ours) weigh(ctx context.Context, weight uint32) error {
	_, err := o.config.UpdateBackend(ctx, &tandemv1.UpdateBackendRequest{
		Backend:    &tandemv1.Backend{Name: pool + "/backends/web1", Weight: proto.Uint32(weight)},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
	})
	return err
}

func (o *ours) settled(ctx context.Context) error {
	_, err := o.cluster.Until(ctx, "the change to be in effect", cluster.Settled(master, backup))
	return err
}

func (o *ours) well(ctx context.Context) error {
	if err := o.settled(ctx); err != nil {
		return err
	}
	return held(ctx, o.lab, master)
}
