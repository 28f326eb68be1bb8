package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrSilent means that nobody answers for an address.
var ErrSilent = errors.New("nobody answers for it on the network")

// askEvery is how often the kernel is asked whether an answer has come.
const askEvery = 2 * time.Millisecond

// LinkAddress asks the network who has an address now, by ARP or neighbour
// solicitation, and returns its link-layer address, and that of this machine there.
// It waits for the answer until ctx ends, and then fails with ErrSilent.
func LinkAddress(ctx context.Context, name string, address netip.Addr) (to, from net.HardwareAddr, err error) {
	on, err := net.InterfaceByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := probe(on.Index, address); err != nil {
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
		n, err := neighbor(on.Index, address)
		if err != nil {
			return nil, nil, fmt.Errorf("neighbour %s on %s: %w", address, name, err)
		}
		if n != nil && n.State&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) != 0 && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr, on.HardwareAddr, nil
		}
	}
}

// probe has the kernel ask for an address, whatever it knows of it.
func probe(link int, address netip.Addr) error {
	entry := &netlink.Neigh{LinkIndex: link, IP: address.AsSlice(), Family: family(address)}
	known, err := neighbor(link, address)
	switch {
	case err != nil:
		return err
	case known != nil && known.State&unix.NUD_PERMANENT != 0:
		return nil
	case known != nil && len(known.HardwareAddr) == 6 && known.State&unix.NUD_FAILED == 0:
		entry.State, entry.HardwareAddr = unix.NUD_PROBE, known.HardwareAddr
	default:
		entry.Flags = unix.NTF_USE
	}
	return netlink.NeighSet(entry)
}

// neighbor is what the kernel knows of an address; nil: nothing. The library would list
// all that it knows.
func neighbor(link int, address netip.Addr) (*netlink.Neigh, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	request.AddData(&netlink.Ndmsg{Family: uint8(family(address)), Index: uint32(link)})
	request.AddData(nl.NewRtAttr(netlink.NDA_DST, address.AsSlice()))
	found, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return netlink.NeighDeserialize(found[0])
}

func family(address netip.Addr) int {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
