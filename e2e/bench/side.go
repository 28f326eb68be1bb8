package bench

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// The load balancers have these names on both sides.
const (
	master = "lb-master"
	backup = "lb-backup"
)

// side is one pair of load balancers in front of three web servers.
type side interface {
	// network is the lab that it runs on.
	network() *lab.Lab
	// port of the web service on each node's own address.
	port() uint16
	// shown waits until what was done to the master has shown in full, apart from
	// what clients are answered: the VIP is on that node, if one is named.
	shown(ctx context.Context, to string) error
	// forbid keeps HAProxy on the master from being started, permit ends that.
	forbid(ctx context.Context) error
	permit(ctx context.Context) error
	// powerBack starts the master again after a power cut, by what starts at boot.
	powerBack(ctx context.Context) error
	// moveAway moves the VIP off the master as an operator does who plans it, and
	// moveBack ends that. They do not wait for the VIP.
	moveAway(ctx context.Context) error
	moveBack(ctx context.Context) error
	// reload makes HAProxy on both nodes reload, the n-th time.
	reload(ctx context.Context, n int) error
	// weigh sets the weight of web1 on both nodes.
	weigh(ctx context.Context, weight uint32) error
	// fill adds backends that nobody uses, until end is called.
	fill(ctx context.Context, backends int) (end func(context.Context) error, err error)
	// agents are the processes that drive the daemons of the two nodes; none: nobody does.
	agents() []int
	// repair starts again what its operators would. It does not wait for what comes
	// of it.
	repair(ctx context.Context) error
	// well waits until both HAProxy run and the master holds the VIP.
	well(ctx context.Context) error
	// close ends it with its lab.
	close() error
}

// held waits until a host, and no other, holds the VIP.
func held(ctx context.Context, l *lab.Lab, name string) error {
	return lab.Until(ctx, "the VIP on "+name+" alone", func(ctx context.Context) error {
		holders, err := l.Holders(ctx, lab.VIP.Addr())
		if err == nil && !slices.Equal(holders, []string{name}) {
			err = fmt.Errorf("held by %v", holders)
		}
		return err
	})
}

// open starts a lab with its web servers.
func open(ctx context.Context, spec lab.Spec, labhost string) (*lab.Lab, error) {
	l, err := lab.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	if _, err := traffic.StartWebs(ctx, l, labhost); err != nil {
		return l, err
	}
	return l, nil
}

// port of the web service on the VIP.
const port = 80

var target = netip.AddrPortFrom(lab.VIP.Addr(), port).String()
