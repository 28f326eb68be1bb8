package keepalived

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// Wire is what reaches an instance's interface. It is not changed after it was made.
type Wire struct {
	// Listens tells that the interface is listened on, for long enough to hear a peer:
	// only then do the other fields say something, but for Reach; and for MAC, Gateway and
	// Asked where advertisements go over another interface than the addresses', which these
	// are of.
	Listens bool
	// MAC is the interface's link-layer address.
	MAC string
	// Advertisers are the other machines that advertise the virtual router, in
	// order of their addresses.
	Advertisers []Advertiser
	// Findings are what should not be, at most maxFindings.
	Findings []Finding
	// Gateway is whether the interface's gateway answers.
	Gateway wire.Gateway
	// Asked tells that a host has asked for the VIP within the last seconds.
	Asked bool
	// Reach is what the interface carries.
	Reach wire.Reach
	// Jitter of the others' advertisements.
	Jitter wire.Jitter
}

// Advertiser is a machine that advertises a virtual router.
type Advertiser struct {
	Address  netip.Addr
	MAC      string
	Node     string // its id; empty: not known to be a node
	Priority int    // that it advertises; a stranger's is that which was heard first
}

// FindingKind is what should not be on the wire.
type FindingKind string

// What should not be.
const (
	// FindingMismatch: a node advertises with other parameters.
	FindingMismatch FindingKind = "advert mismatch"
	// FindingForeign: a machine that is no node advertises the virtual router.
	FindingForeign FindingKind = "foreign VRRP speaker"
	// FindingDuplicate: a machine that advertises nothing has an address of the VIP.
	FindingDuplicate FindingKind = "duplicate address"
	// FindingDeaf: nothing reaches the interface, though it is asked for.
	FindingDeaf FindingKind = "nothing received"
	// FindingMute: nothing that the interface sends arrives.
	FindingMute FindingKind = "nothing sent"
)

// findingKinds are those that are noted when they begin.
var findingKinds = []FindingKind{FindingMismatch, FindingForeign, FindingDuplicate, FindingDeaf, FindingMute}

// Finding is something on the wire that should not be.
type Finding struct {
	Kind FindingKind
	// Who is the address of the machine, or its link-layer address.
	Who string
	// Text is a sentence for people.
	Text string
}

// maxFindings bounds what is told of one instance: anybody on the network can
// have more found.
const maxFindings = 8

// listen has the listener listen for the instances that there are.
func (o *observer) listen() {
	var routers []wire.Router
	for n := range o.watched {
		w := &o.watched[n]
		r := wire.Router{Name: w.name, Interface: w.over, VRID: uint8(w.vrid), Interval: w.advert, Holds: w.Holds && !w.apart()}
		for _, a := range w.addresses() {
			r.Addresses = append(r.Addresses, a.Addr())
		}
		for _, node := range slices.Sorted(maps.Keys(o.peers)) {
			r.Peers = append(r.Peers, o.peers[node][w.over]...)
		}
		routers = append(routers, r)
		if w.apart() {
			r.Name, r.Interface, r.Holds, r.Apart, r.Peers = apartName(w.name), w.iface, w.Holds, true, nil
			r.Yields = o.yields(w)
			for _, node := range slices.Sorted(maps.Keys(o.peers)) {
				r.Peers = append(r.Peers, o.peers[node][w.iface]...)
			}
			routers = append(routers, r)
		}
	}
	o.wire.Watch(routers)
}

// apartName is what the listener calls an instance where its addresses are but not its
// advertisements. Names of instances do not hold slashes.
func apartName(instance string) string { return instance + "/addresses" }

// heardOf is what the listener has heard of an instance, wherever that is to be heard.
func (o *observer) heardOf(i *instance) wire.Heard {
	h := o.wire.Heard(i.name)
	if i.apart() {
		there := o.wire.Heard(apartName(i.name))
		h.MAC, h.Claims, h.Gateway, h.Asked, h.Reach = there.MAC, there.Claims, there.Gateway, there.Asked, there.Reach
	}
	return h
}

// hear takes what the listener has heard.
func (o *observer) hear(now time.Time) {
	for n := range o.watched {
		w := &o.watched[n]
		was, rival := w.Wire.Findings, w.State == InstanceMaster && w.Wire.hearsNode()
		w.Wire = o.digest(&w.instance, &w.Wire, o.heardOf(&w.instance))
		o.hearBeside(w, now)
		for _, kind := range findingKinds {
			if text := first(w.Wire.Findings, kind); text != "" && first(was, kind) == "" {
				o.note(w.name+" "+string(kind), fmt.Sprintf("VIP %s: %s: %s", w.vip, kind, text), now)
			}
		}
		if rival && w.State == InstanceMaster && w.Wire.Listens && !w.Wire.hearsNode() {
			// It has told everybody that it has the VIP.
			o.unrivaled = append(o.unrivaled, w.vip)
			o.rouse()
		}
	}
	o.endFences(now)
	o.judgeReach(now)
}

// first is the text of the first finding of a kind.
func first(all []Finding, kind FindingKind) string {
	for _, f := range all {
		if f.Kind == kind {
			return f.Text
		}
	}
	return ""
}

// digest judges what was heard of an instance. The priority of a stranger stays as it
// was told first: one that changes it all the time would be news each time.
func (o *observer) digest(i *instance, was *Wire, h wire.Heard) Wire {
	switch {
	case !h.Listens && i.apart() && h.MAC != (link.MAC{}):
		// Without a carrier for advertisements it is their network alone that says nothing.
		return Wire{MAC: h.MAC.String(), Gateway: h.Gateway, Asked: h.Asked, Reach: h.Reach}
	case !h.Listens:
		// A cut is told by others than those who advertise.
		return Wire{Reach: h.Reach}
	}
	d := Wire{Listens: true, MAC: h.MAC.String(), Gateway: h.Gateway, Asked: h.Asked, Reach: h.Reach, Jitter: h.Jitter}
	switch h.Reach {
	case wire.ReachUnknown, wire.ReachBoth:
	case wire.ReachDeaf:
		d.find(FindingDeaf, i.iface, fmt.Sprintf("nothing is received on %s, neither answers of hosts that were there a moment before nor anything else", i.iface))
	case wire.ReachMute:
		d.find(FindingMute, i.iface, fmt.Sprintf("nothing that is sent on %s arrives: others are heard, and none that was there a moment before answers", i.iface))
	}
	for n := range h.Speakers {
		s := &h.Speakers[n]
		node, stranger := o.whoIs(i, s.Source)
		a := Advertiser{s.Source, s.MAC.String(), node, int(s.Priority)}
		if old := was.advertiser(a.Address, a.MAC); stranger && old != nil {
			a.Priority = old.Priority
		}
		d.Advertisers = append(d.Advertisers, a)
		who := fmt.Sprintf("%s (MAC address %s)", s.Source, s.MAC)
		if node != "" {
			who = fmt.Sprintf("%s (%s)", node, s.Source)
		}
		switch mismatch := i.mismatch(&s.Advert); {
		case stranger:
			d.find(FindingForeign, s.Source.String(),
				fmt.Sprintf("%s advertises the virtual router %d with priority %d on %s and is no node of the cluster", who, i.vrid, a.Priority, i.over))
		case mismatch != "":
			d.find(FindingMismatch, s.Source.String(), fmt.Sprintf("%s advertises the virtual router %d %s", who, i.vrid, mismatch))
		}
	}
	for n := range h.Strays {
		s := &h.Strays[n]
		if node, _ := o.whoIs(i, s.Source); node != "" {
			d.find(FindingMismatch, s.Source.String(),
				fmt.Sprintf("%s (%s) advertises %v with virtual router id %d and not %d", node, s.Source, s.Addresses(), s.VRID, i.vrid))
		}
	}
	for _, c := range h.Claims {
		d.find(FindingDuplicate, c.MAC.String(),
			fmt.Sprintf("%s is also on the machine with the MAC address %s on %s, which does not advertise it", c.Address, c.MAC, i.iface))
	}
	return d
}

// advertiser is one of an address and a link-layer address, nil when there is none.
func (w *Wire) advertiser(address netip.Addr, mac string) *Advertiser {
	for n := range w.Advertisers {
		if a := &w.Advertisers[n]; a.Address == address && a.MAC == mac {
			return a
		}
	}
	return nil
}

func (w *Wire) find(kind FindingKind, who, text string) {
	if len(w.Findings) < maxFindings {
		w.Findings = append(w.Findings, Finding{kind, who, text})
	}
}

// whoIs returns the node that an instance's advertisements from an address come
// from. stranger: it is no node, which can be told only where it is known of all of
// them (decision 0022).
func (o *observer) whoIs(i *instance, address netip.Addr) (node string, stranger bool) {
	stranger = len(o.peers) > 0
	for name, p := range o.peers {
		if slices.Contains(p[i.over], address) {
			return name, false
		}
		stranger = stranger && p.speaks(i.over, address.Is6())
	}
	return "", stranger && !slices.ContainsFunc(i.addresses(), func(a netip.Prefix) bool { return a.Addr() == address })
}

// mismatch tells what an advertisement and the instance do not agree in, each with
// both values, or nothing. A password stays secret.
func (i *instance) mismatch(a *vrrp.Advert) string {
	var found []string
	differ := func(what string, theirs, ours any) {
		found = append(found, fmt.Sprintf("with %s %v and not %v", what, theirs, ours))
	}
	if a.Version != i.version {
		// What else differs follows from it.
		differ("version", a.Version, i.version)
		return found[0]
	}
	if unicast := !a.Destination.IsMulticast(); unicast != (len(i.peers) > 0) {
		differ("destination", castWord(unicast), castWord(!unicast))
	}
	if a.Interval != i.advert {
		differ("interval", a.Interval, i.advert)
	}
	if a.Version == 2 {
		var own [8]byte
		copy(own[:], i.password)
		switch theirs, ours := a.Auth, auth(i.password); {
		case theirs != ours:
			differ("authentication", authWord(theirs), authWord(ours))
		case ours == vrrp.AuthSimple && a.Password != own:
			found = append(found, "with another password than this node's")
		}
	}
	if anchor := i.anchor.Addr(); a.Count() != 1 || a.Addresses()[0] != anchor {
		differ("addresses", a.Addresses(), []netip.Addr{anchor})
	}
	return strings.Join(found, ", ")
}

func castWord(unicast bool) string {
	if unicast {
		return "unicast"
	}
	return "multicast"
}

func auth(password string) vrrp.Auth {
	if password == "" {
		return vrrp.AuthNone
	}
	return vrrp.AuthSimple
}

func authWord(a vrrp.Auth) string {
	switch a {
	case vrrp.AuthNone:
		return "none"
	case vrrp.AuthSimple:
		return "by password"
	case vrrp.AuthHeader:
		return "by IPsec"
	default:
		return fmt.Sprintf("of type %d", a)
	}
}
