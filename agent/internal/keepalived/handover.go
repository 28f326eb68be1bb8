package keepalived

import (
	"fmt"
	"net/netip"
	"time"
)

// Handover is what it takes to hand the established connections of an instance over
// when its VIP moves.
type Handover struct {
	Interface string
	// Device has the addresses, on top of Interface; empty: the same.
	Device    string
	Addresses []netip.Addr
	// Timeout is how long connections may outlive a move; 0: not at all.
	Timeout time.Duration
	// Peers are the own addresses of the other nodes on the interface's network, by
	// node.
	Peers map[string][]netip.Addr
}

// maxHandover is the longest Timeout.
const maxHandover = 24 * time.Hour

func checkHandover(field string, i *instance) error {
	if i.handover < 0 || i.handover > maxHandover {
		return fmt.Errorf("%shandover_timeout is %v: must be 0s to 24h", field, i.handover)
	}
	return nil
}

// handovers of all instances, by their names.
func (in *intent) handovers() map[string]Handover {
	all := make(map[string]Handover)
	for n := range in.instances {
		i := &in.instances[n]
		h := Handover{Interface: i.iface, Timeout: i.handover, Peers: make(map[string][]netip.Addr)}
		if i.virtualMAC {
			h.Device = i.device()
		}
		for _, a := range i.addresses() {
			h.Addresses = append(h.Addresses, a.Addr())
		}
		for node, p := range in.peers {
			h.Peers[node] = p[i.iface]
		}
		all[i.name] = h
	}
	return all
}
