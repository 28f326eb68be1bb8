package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSilent means that nobody answers for an address.
var ErrSilent = errors.New("nobody answers for it on the network")

// askEvery is how often the kernel is asked whether an answer has come.
const askEvery = 2 * time.Millisecond

// Network asks who has an address. What it asks the kernel by stays open until Close. The
// zero value is ready. It is not for concurrent use.
type Network struct {
	asker *asker // nil: not open
}

// Close lets go of it; it may be used again.
func (n *Network) Close() {
	if n.asker != nil {
		n.asker.close()
	}
	n.asker = nil
}

// LinkAddress asks the network who has an address now, by ARP or neighbour
// solicitation, and returns its link-layer address, and that of this machine there.
// It waits for the answer until ctx ends, and then fails with ErrSilent.
func (n *Network) LinkAddress(ctx context.Context, name string, address netip.Addr) (to, from net.HardwareAddr, err error) {
	if n.asker == nil {
		if n.asker, err = newAsker(); err != nil {
			return nil, nil, err
		}
	}
	if to, from, err = n.asker.linkAddress(ctx, name, address); err != nil && !errors.Is(err, ErrSilent) {
		n.Close() // an answer that was not taken would be that to the next question
	}
	return to, from, err
}

func (a *asker) linkAddress(ctx context.Context, name string, address netip.Addr) (to, from net.HardwareAddr, err error) {
	on, from, err := a.link(name)
	if err != nil {
		return nil, nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := a.probe(family(address), on, address.AsSlice()); err != nil {
		return nil, nil, fmt.Errorf("ask for %s on %s: %w", address, name, err)
	}
	poll := time.NewTicker(askEvery)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%s on %s: %w", address, name, ErrSilent)
		}
		n, err := a.neighbor(family(address), on, address.AsSlice())
		if err != nil {
			return nil, nil, fmt.Errorf("neighbour %s on %s: %w", address, name, err)
		}
		if n.state&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) != 0 && len(n.mac) == 6 {
			return n.mac, from, nil
		}
	}
}

func family(address netip.Addr) int {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
