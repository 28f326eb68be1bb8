package keepalived

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/neighbor"
)

// checkOwners asks the network for every address that keepalived shall bring up
// and has not had before on this node. One that an unknown host has is an error:
// both would answer for it. The peer that holds the VIP is known by its
// advertisements.
func (d *Driver) checkOwners(ctx context.Context, c *control, in *intent) error {
	questions, err := newAddresses(in, c.record)
	if err != nil || len(questions) == 0 {
		return err
	}
	owners, err := neighbor.Ask(ctx, questions, d.opts.ProbeInterval)
	if errors.Is(err, unix.EPERM) {
		d.log.Warn("cannot ask whether addresses are free: raw sockets are not allowed", "error", err)
		return nil
	}
	errs := []error{err}
	for _, o := range owners {
		errs = append(errs, fmt.Errorf("%s is in use on %s by the machine with the MAC address %s, which does not "+
			"advertise VRRP's virtual router %d: remove the address there (find it with `ip neighbor` and the "+
			"switch's table), or give the VIP another one", o.Address, o.Interface, o.MAC, o.VRID))
	}
	return errors.Join(errs...)
}

// newAddresses are the questions for addresses that are not on record. One that
// this node has already, such as from a keepalived before Tandem, is its own.
func newAddresses(in *intent, record []place) ([]neighbor.Question, error) {
	held, err := present(in.places())
	if err != nil {
		return nil, err
	}
	var questions []neighbor.Question
	for n := range in.instances {
		i := &in.instances[n]
		nodes := i.peers // by unicast, one is not heard before it has this node's address
		if i.apart() {
			nodes = nil
			for _, node := range slices.Sorted(maps.Keys(in.peers)) {
				nodes = append(nodes, in.peers[node][i.iface]...)
			}
		}
		for _, p := range i.places() {
			if !slices.Contains(record, p) && !slices.Contains(held, p) {
				questions = append(questions, neighbor.Question{
					Interface: i.iface, Address: p.Address.Addr(), VRID: uint8(i.vrid), Advert: i.advert, Nodes: nodes,
				})
			}
		}
	}
	return questions, nil
}
