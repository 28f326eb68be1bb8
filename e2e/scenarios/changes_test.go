package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// drawn draws random runtime changes of the pool web_servers. web3 stays ready
// and weighted, so that a request always has somewhere to go.
type drawn struct {
	*site
	random *rand.Rand
	spare  []netip.AddrPort // addresses that no backend has
	extra  map[string]netip.AddrPort
	made   int
}

// next makes one change: 40 of 100 are weights, 30 states, 20 additions and 10
// removals, as far as there is something to add or to remove.
func (d *drawn) next(ctx context.Context) uint64 {
	d.t.Helper()
	switch n := d.random.IntN(100); {
	case n < 40:
		return d.weight(ctx)
	case n < 70:
		return d.state(ctx)
	case n < 90 && len(d.spare) > 0:
		return d.add(ctx)
	case len(d.extra) > 0:
		return d.remove(ctx)
	default:
		return d.weight(ctx)
	}
}

// one of the backends that may be taken out of service.
func (d *drawn) one() string {
	ids := []string{"web1", "web2"}
	for n := range d.made {
		if id := extraID(n); d.extra[id].IsValid() {
			ids = append(ids, id)
		}
	}
	return ids[d.random.IntN(len(ids))]
}

func extraID(n int) string { return fmt.Sprintf("extra%d", n) }

func (d *drawn) weight(ctx context.Context) uint64 {
	d.t.Helper()
	weight := uint32(1 + d.random.IntN(256))
	id := d.one()
	if d.random.IntN(4) == 0 {
		id = "web3"
	}
	return d.change("weight of "+id, func(o grpc.CallOption) error {
		_, err := d.config.UpdateBackend(ctx, &tandemv1.UpdateBackendRequest{
			Backend:    &tandemv1.Backend{Name: backendName(id), Weight: &weight},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
		}, o)
		return err
	})
}

func (d *drawn) state(ctx context.Context) uint64 {
	d.t.Helper()
	id := d.one()
	state := []string{"drain", "maintenance", "ready"}[d.random.IntN(3)]
	return d.change(state+" "+id, func(o grpc.CallOption) error {
		_, err := d.config.UpdateOverride(ctx, override(id, state), o)
		return err
	})
}

func override(id, state string) *tandemv1.UpdateOverrideRequest {
	return &tandemv1.UpdateOverrideRequest{
		Override: &tandemv1.Override{Name: backendName(id) + "/override", State: state},
	}
}

func (d *drawn) add(ctx context.Context) uint64 {
	d.t.Helper()
	id, at := extraID(d.made), d.spare[0]
	d.made++
	d.spare = d.spare[1:]
	d.extra[id] = at
	return d.change("add "+id, func(o grpc.CallOption) error {
		_, err := d.config.CreateBackend(ctx, &tandemv1.CreateBackendRequest{
			Parent: cluster.Name + "/pools/web_servers", BackendId: id,
			Backend: &tandemv1.Backend{Address: at.Addr().String(), Port: uint32(at.Port())},
		}, o)
		return err
	})
}

func (d *drawn) remove(ctx context.Context) uint64 {
	d.t.Helper()
	id := d.one()
	for !d.extra[id].IsValid() {
		id = d.one()
	}
	d.spare = append(d.spare, d.extra[id])
	delete(d.extra, id)
	return d.change("remove "+id, func(o grpc.CallOption) error {
		_, err := d.config.DeleteBackend(ctx, &tandemv1.DeleteBackendRequest{Name: backendName(id)}, o)
		return err
	})
}

// clientTimeout asks for another client timeout, which HAProxy cannot change
// at run time.
func clientTimeout(d time.Duration) *tandemv1.UpdateClusterRequest {
	return &tandemv1.UpdateClusterRequest{
		Cluster: &tandemv1.Cluster{
			Name: cluster.Name, Defaults: &tandemv1.ProxySettings{ClientTimeout: durationpb.New(d)},
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"defaults.client_timeout"}},
	}
}
