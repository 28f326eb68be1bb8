package bench

import (
	"context"
	"errors"
	"strconv"
	"time"

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

// directPort is that of a listener on every address, by which each node can be
// asked.
const directPort = 8081

// startOurs starts Tandem on a lab of its own and applies the guide's cluster.
func startOurs(ctx context.Context, options Options) (side, error) {
	programs, err := cluster.Find(options.Bin)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, lab.Guide(), options.Labhost)
	o := &ours{lab: l}
	if err == nil {
		err = o.configure(ctx, programs, options.Example)
	}
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *ours) configure(ctx context.Context, programs cluster.Programs, example string) (err error) {
	if o.cluster, err = cluster.Start(ctx, o.lab, programs); err != nil {
		return err
	}
	if err := o.cluster.Apply(ctx, example); err != nil {
		return err
	}
	if _, err := o.cluster.Lbctl(ctx, "listener", "add", "direct", "--address", "*", "--port", strconv.Itoa(directPort), "--protocol", "http", "--pool", "web_servers"); err != nil {
		return err
	}
	conn, err := o.cluster.Controller.Conn()
	if err != nil {
		return err
	}
	o.config = tandemv1.NewConfigServiceClient(conn)
	return nil
}

func (o *ours) close() error {
	var errs []error
	if o.cluster != nil {
		errs = append(errs, o.cluster.Close())
	}
	if o.lab != nil {
		errs = append(errs, o.lab.Close())
	}
	return errors.Join(errs...)
}

func (o *ours) network() *lab.Lab { return o.lab }
func (o *ours) port() uint16      { return directPort }

// settles is far longer than any takeover of ours, and than it takes a daemon to be
// started again.
const settles = 2 * time.Second

// shown does not ask for the backup, from which the VIP may be back by then. To be back
// at the master it has to leave it first.
func (o *ours) shown(ctx context.Context, to string) error {
	if to == master {
		return errors.Join(wait(ctx, settles/2), held(ctx, o.lab, master))
	}
	return wait(ctx, settles)
}

func (o *ours) forbid(context.Context) error        { return o.cluster.Master().Uninstall("haproxy") }
func (o *ours) permit(context.Context) error        { return o.cluster.Master().Install("haproxy") }
func (o *ours) powerBack(ctx context.Context) error { return o.cluster.Master().PowerBack(ctx) }

func (o *ours) moveAway(ctx context.Context) error {
	_, err := o.cluster.Lbctl(ctx, "node", "drain", master, "--no-wait")
	return err
}

func (o *ours) moveBack(ctx context.Context) error {
	_, err := o.cluster.Lbctl(ctx, "node", "undrain", master, "--no-wait")
	return err
}

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

// repair heals what a measurement may have left: its daemons are the agents' to start.
func (o *ours) repair(ctx context.Context) error {
	return errors.Join(heal(ctx, o), plug(ctx, o))
}

func (o *ours) well(ctx context.Context) error {
	if err := o.settled(ctx); err != nil {
		return err
	}
	return held(ctx, o.lab, master)
}
