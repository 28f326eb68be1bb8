package state

import (
	"fmt"
	"net/netip"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// anchor returns a VIP's first address of a family and its index; "" and 0 if
// it has none.
func anchor(v *tandemv1.Vip, v6 bool) (string, int) {
	for i, a := range v.GetAddresses() {
		if prefix(a).Addr().Is6() == v6 {
			return a, i
		}
	}
	return "", 0
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// addr and prefix parse what the field rules have let through.
func addr(s string) netip.Addr { a, _ := netip.ParseAddr(s); return a }

func prefix(s string) netip.Prefix { p, _ := netip.ParsePrefix(s); return p }

// vipIndex finds VIPs that claim the same thing on one network, across
// clusters: networks of the same name are taken to be one.
type vipIndex struct {
	vrids     map[vridKey]Name
	addresses map[addressKey]vipAddress
}

type vridKey struct {
	network string
	v6      bool
	vrid    uint32
}

type addressKey struct {
	network string
	address netip.Addr
}

type vipAddress struct {
	vip   Name
	index int
}

// conflict is a claim that another VIP has made before.
type conflict struct {
	reason, field, message string
	other                  Name
	otherField             string
}

func newVipIndex(clusters []*Config) *vipIndex {
	x := &vipIndex{vrids: map[vridKey]Name{}, addresses: map[addressKey]vipAddress{}}
	for _, c := range clusters {
		for i, v := range c.vips.values {
			x.claim(c.id, c.vips.keys[i], v)
		}
	}
	return x
}

// claim adds a VIP and returns what it wants that others have.
func (x *vipIndex) claim(cluster, id string, v *tandemv1.Vip) []conflict {
	var out []conflict
	n, network, over := VipName(cluster, id), EffectiveNetwork(v), EffectiveVrrpNetwork(v)
	for _, v6 := range []bool{false, true} {
		if a, _ := anchor(v, v6); a == "" {
			continue
		}
		key := vridKey{over, v6, v.GetVrid()}
		if other, ok := x.vrids[key]; ok {
			out = append(out, conflict{ReasonVridTaken, "vrid", fmt.Sprintf(
				"%s and %s both have VRID %d on network %q (%s): choose another one, 1 to 255", other, n, v.GetVrid(), over, family(v6)),
				other, "vrid"})
		}
		x.vrids[key] = n
	}
	for i, a := range v.GetAddresses() {
		key := addressKey{network, prefix(a).Addr()}
		if other, ok := x.addresses[key]; ok {
			out = append(out, conflict{ReasonAddressTaken, fmt.Sprintf("addresses[%d]", i), fmt.Sprintf(
				"%s is an address of %s and of %s: an address belongs to one VIP, once", key.address, other.vip, n),
				other.vip, fmt.Sprintf("addresses[%d]", other.index)})
		}
		x.addresses[key] = vipAddress{n, i}
	}
	return out
}
