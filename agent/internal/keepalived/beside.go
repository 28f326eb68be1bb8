package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// Where the network of the advertisements is broken and both nodes live, each holds the
// VIP. The controller fences one of them off. Without it they settle that between
// themselves on the network of the addresses, where each hears that the other one has
// them: one after the other would yield, the lower priority first, and the next one finds
// itself alone then. Who yields keeps itself off the VIP, as a node that is cut off does,
// for as long as the other one answers for it. See decision 0037.

const (
	// yieldAfter is how long another node may have the VIP until the first one yields:
	// the controller, which sees more, fences one of them off before.
	yieldAfter = time.Second
	// yieldLater is how much later yields who has a proxy that works, and who has a
	// priority that is higher by yieldStep. Up to yieldLowest, and for those that are closer
	// to each other, the order is that of their link-layer addresses.
	yieldLater  = 300 * time.Millisecond
	yieldStep   = 10
	yieldLowest = 170
)

// yields is how long another node may have the VIP before this one yields to it; 0: nobody
// looks whether one has it.
func (o *observer) yields(w *watched) time.Duration {
	switch {
	case !w.apart() || !w.peered:
		return 0
	case o.scores.cuts[w.name] != nil:
		return time.Millisecond // it has done so, or does not hold it
	case w.State != InstanceMaster:
		return 0
	case !o.scores.healthy:
		return yieldAfter
	default:
		return yieldAfter + (1+max(0, time.Duration(w.Priority-yieldLowest)/yieldStep))*yieldLater
	}
}

// listenBeside has the listener know what has become of an instance, where that matters.
func (o *observer) listenBeside(w *watched) {
	if w.apart() {
		o.listen()
	}
}

// mayYield tells that an instance may have to be kept off soon. A guard that is there by then
// makes that a matter of milliseconds, so that the other node does not yield as well.
func (w *watched) mayYield() bool { return w.beside.Node.IsValid() }

// yielding tells whether an instance is to be kept off, as another node has the VIP that
// cannot be heard to advertise it.
func (w *watched) yielding() bool { return w.mayYield() && w.beside.Yield }

// hearBeside takes what is known of another node with the addresses of an instance. It is
// none to yield to where it is there on the network of the advertisements and sends none:
// its keepalived is dead or hangs, and perhaps more, while its kernel answers.
func (o *observer) hearBeside(w *watched, now time.Time) {
	w.beside = wire.Beside{}
	if !w.apart() {
		return
	}
	found := o.wire.Heard(apartName(w.name)).Beside
	if !found.Node.IsValid() || w.Wire.hearsNode() {
		return
	}
	who := o.besideName(w, found.Node)
	if w.State == InstanceMaster {
		o.note(w.name+" beside", fmt.Sprintf("VIP %s: %s has it on %s as well and is not heard on %s: let the nodes hear each other's VRRP advertisements there",
			w.vip, who, w.iface, w.over), now)
	}
	if o.isAbsent(w, who) {
		w.beside = found
		o.rouse()
	}
}

// isAbsent tells whether a node cannot be reached on an instance's network of
// advertisements: there is no carrier, or none of its addresses there answers.
func (o *observer) isAbsent(w *watched, node string) bool {
	over := o.wire.Heard(w.name)
	if over.MAC == (link.MAC{}) {
		return true
	}
	asked := 0
	for _, a := range o.peers[node][w.over] {
		switch {
		case !a.Is4():
		case !slices.Contains(over.Absent, a):
			return false
		default:
			asked++
		}
	}
	return asked > 0
}

// besideName is the name of the node with an address on an instance's network, or that.
func (o *observer) besideName(w *watched, address netip.Addr) string {
	for name, p := range o.peers {
		if slices.Contains(p[w.iface], address) {
			return name
		}
	}
	return address.String()
}
