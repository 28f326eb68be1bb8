package importer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// FrontNetwork is the network of a VIP that names none.
const FrontNetwork = "front"

// versionOf is the version that keepalived speaks for an instance: IPv6 has
// VRRPv3 only.
func (r *vrrpReader) versionOf(i *instance) uint32 {
	switch {
	case i.version != 0:
		return i.version
	case i.anchor.IsValid() && i.anchor.Addr().Is6():
		return 3
	default:
		return r.version
	}
}

// minAdvert is the shortest interval that the model has.
const minAdvert = 50 * time.Millisecond

// cluster settles what all instances of a cluster must share.
func (r *vrrpReader) cluster() {
	if len(r.instances) == 0 {
		return
	}
	first := r.instances[0]
	version := r.versionOf(first)
	for _, i := range r.instances {
		switch own := r.versionOf(i); {
		case own != version:
			r.refuse(i.line, "a cluster has one version of VRRP: %s speaks %d and %s speaks %d", first.name, version, i.name, own)
		case own == 3 && i.password != "":
			r.lines.set(i.passLine, Ignored, "VRRPv3 has no authentication")
			i.password = ""
		case own == 2 && i.password != first.password:
			r.refuse(i.line, "a cluster has one VRRP password: that of %s is another", first.name)
		}
		switch {
		case version == 2 && i.advert%time.Second != 0:
			r.refuse(i.line, "VRRPv2 counts in whole seconds: change advert_int on both nodes")
		case i.advert < minAdvert || i.advert > 40*time.Second:
			r.refuse(i.line, "advert_int must be 0.05 to 40: change it on both nodes")
		}
	}
	r.vrrp = &tandemv1.Vrrp{
		Version: proto.Uint32(version), AdvertInterval: duration(first.advert), AuthPassword: first.password,
	}
}

// vip makes a VIP of an instance.
func (r *vrrpReader) vip(i *instance) {
	v := &tandemv1.Vip{
		Name:       i.name,
		Vrid:       i.vrid,
		Priorities: map[string]uint32{r.node.ID: i.priority},
		FailBack:   i.failBack,
		VirtualMac: i.virtual.line != 0,
	}
	for _, p := range append([]netip.Prefix{i.anchor}, i.further...) {
		v.Addresses = append(v.Addresses, p.String())
	}
	for _, n := range i.needs {
		v.Tracks = append(v.Tracks, &tandemv1.Track{Kind: "network", Target: r.network(i, n.iface), Weight: proto.Int32(n.weight)})
	}
	if i.failBack == "delayed" {
		v.FailBackDelay = duration(i.failDelay)
	}
	if len(i.speaking.Peers) > 0 {
		v.Unicast = proto.Bool(true)
	}
	if shared := r.vrrp.GetAdvertInterval().AsDuration(); i.advert != shared {
		v.AdvertInterval = duration(i.advert)
	}
	network, over := r.network(i, i.device), r.network(i, i.iface)
	if network != FrontNetwork {
		v.Network = network
	}
	if over != network {
		v.VrrpNetwork = over
	}
	if base, ok := strings.CutSuffix(i.name, secondFamily); ok {
		r.join(base, i, v)
		return
	}
	r.vips = append(r.vips, v)
}

// secondFamily ends the name of the IPv6 instance of a VIP with both families.
const secondFamily = "-v6"

// join adds the IPv6 instance of a VIP to the VIP.
func (r *vrrpReader) join(base string, i *instance, second *tandemv1.Vip) {
	for _, v := range r.vips {
		twin := proto.CloneOf(second)
		twin.Name, twin.Addresses = v.Name, v.Addresses
		if v.Name == base && i.anchor.IsValid() && i.anchor.Addr().Is6() && proto.Equal(twin, v) {
			v.Addresses = append(v.Addresses, second.Addresses...)
			return
		}
	}
	r.refuse(i.line, "only the IPv6 half of a VIP may be called *%s: rename it on both nodes", secondFamily)
}

// interfaces settles which one the addresses are on, and which ones are tracked.
func (r *vrrpReader) interfaces(i *instance) {
	for _, line := range slices.Sorted(maps.Keys(i.on)) {
		on := cmp.Or(i.on[line], i.iface)
		if i.device = cmp.Or(i.device, on); on != i.device {
			r.refuse(line, "a VIP has all its addresses on one interface, %s here: make an instance of its own of what is on %s, on both nodes", i.device, on)
		}
	}
	switch {
	case i.untracked == 0:
	case i.device == i.iface:
		r.refuse(i.untracked, "Tandem gives a VIP up where the interface of its addresses is down: remove it on both nodes")
	default:
		r.lines.set(i.untracked, Ignored, "Tandem gives no VIP up for an interface that only its advertisements go over")
	}
	for _, line := range slices.Sorted(maps.Keys(i.tracked)) {
		name, weight, _ := strings.Cut(i.tracked[line], " weight ")
		switch n, err := strconv.ParseInt(weight, 10, 32); {
		case name == i.iface:
			r.lines.set(line, Ignored, "keepalived always tracks the instance's own interface")
		case name == i.device:
			r.lines.set(line, Ignored, "Tandem always tracks the interface of the addresses")
		case err == nil && n >= -56 && n <= -1:
			i.needs = append(i.needs, need{name, int32(n)})
			r.lines.set(line, Typed, "")
		default:
			r.refuse(line, "Tandem tracks another interface than the VIP's own by a weight of -56 to -1 only: "+
				"without one, and lost on both nodes, it would leave the VIP to nobody")
		}
	}
}

// network finds the name of the network that an interface of an instance is mapped to.
// Without any mapping the interface of the first instance's addresses is the front.
func (r *vrrpReader) network(i *instance, on string) string {
	if len(r.node.Networks) == 0 && on == r.instances[0].device {
		return FrontNetwork
	}
	var names []string
	for name, iface := range r.node.Networks {
		if iface == on {
			names = append(names, name)
		}
	}
	switch {
	case slices.Contains(names, FrontNetwork):
		return FrontNetwork
	case len(names) > 0:
		return slices.Min(names)
	}
	if len(r.node.Networks) > 0 {
		r.refuse(i.line, "no network of the agent's configuration file is mapped to the interface %s: add it under networks", on)
	}
	return on
}
