package importer

import (
	"fmt"
	"slices"
)

// virtual is an instance's virtual MAC address.
type virtual struct {
	line     int // 0: there is none
	words    []string
	overBase bool         // advertisements go over the interface
	unrouted map[int]bool // by line: the device gets no route with the address
}

// virtualMAC refuses one that is not like Tandem's: what a reload would change of its
// device takes the addresses away.
func (r *vrrpReader) virtualMAC(i *instance) {
	has, family := i.virtual.line != 0, 4
	if i.anchor.IsValid() && i.anchor.Addr().Is6() {
		family = 6
	}
	for line, unrouted := range i.virtual.unrouted {
		switch {
		case unrouted && !has:
			r.refuse(line, "Tandem has noprefixroute with use_vmac only: remove it on both nodes")
		case has && !unrouted:
			r.refuse(line, "Tandem gives the device with the virtual MAC address no routes: add noprefixroute on both nodes, and restart keepalived")
		}
	}
	name := fmt.Sprintf("v%d-%d-%s", family, i.vrid, i.iface)
	const longest = 15 // IFNAMSIZ without its end
	switch {
	case has && len(name) > longest:
		r.refuse(i.virtual.line, "the name of interface %s is too long for a device that both keepalived and Tandem would call %s: "+
			"remove use_vmac on both nodes, restart keepalived, and turn it on again with \"lbctl vip set --virtual-mac\"", i.iface, name)
	case has && !slices.Equal(i.virtual.words, []string{name}):
		r.refuse(i.virtual.line, "Tandem has the virtual router's own MAC address, on a device of another name, and a reload that changes that takes the addresses away: "+
			"say use_vmac %s on both nodes, and restart keepalived", name)
	case has && !i.virtual.overBase:
		r.refuse(i.virtual.line, "Tandem advertises over the interface itself, which a node that advertises over the device does not hear: "+
			"add vmac_xmit_base on both nodes at the same time")
	}
}
