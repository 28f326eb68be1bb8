package keepalived

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"regexp"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vmacfilter"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// A VIP with a virtual MAC address is on a device of its own (a macvlan) on top of its
// interface. keepalived makes it, and leaves it up on a node that stands by, without
// addresses. Advertisements go over the interface itself: keepalived on another node
// would not hear those of the device, as that node's kernel takes them for its own
// device's, which has the same address. See decision 0036.

// device is what the addresses are on.
func (i *instance) device() string {
	if i.virtualMAC {
		return virtualDevice(i.anchor.Addr().Is6(), i.vrid, i.iface)
	}
	return i.iface
}

// maxInterfaceName is the longest name of an interface (IFNAMSIZ without its end).
const maxInterfaceName = 15

// virtualDevice names the device of a virtual router, such as v4-51-eth0. It depends on
// nothing else: keepalived finds it again when it has been killed.
func virtualDevice(v6 bool, vrid int, on string) string {
	family := 4
	if v6 {
		family = 6
	}
	name := fmt.Sprintf("v%d-%d-", family, vrid)
	if len(name)+len(on) <= maxInterfaceName {
		return name + on
	}
	return fmt.Sprintf("%s%08x", name, crc32.ChecksumIEEE([]byte(on)))
}

var virtualDevices = regexp.MustCompile(`^v([46])-([0-9]{1,3})-`)

// checkVirtualMAC finds what a virtual MAC address does not go with.
func checkVirtualMAC(field string, c *keepalivedv1.Instance, i *instance) error {
	switch {
	case !c.GetVirtualMac():
		return nil
	case len(c.GetSpeakers()) > 0:
		return fmt.Errorf("%svirtual_mac is true: must be false with unicast", field)
	case c.GetVrrpNetwork() != "" && c.GetVrrpNetwork() != cmp.Or(c.GetNetwork(), front):
		return fmt.Errorf("%svirtual_mac is true: must be false where the VIP is advertised over another network, %q", field, c.GetVrrpNetwork())
	default:
		return nil
	}
}

// devicesOf are the devices that places are on.
func devicesOf(places []place) (all []vmacfilter.Device) {
	for _, p := range places {
		m := virtualDevices.FindStringSubmatch(p.Interface)
		if m == nil {
			continue
		}
		vrid, err := strconv.ParseUint(m[2], 10, 8)
		if err != nil {
			continue
		}
		n := slices.IndexFunc(all, func(d vmacfilter.Device) bool { return d.Name == p.Interface })
		if n < 0 {
			v6 := m[1] == "6"
			n, all = len(all), append(all, vmacfilter.Device{Name: p.Interface, MAC: link.VirtualMAC(v6, uint8(vrid)), IPv6: v6})
		}
		all[n].Addresses = append(all[n].Addresses, p.Address.Addr())
	}
	return all
}

// filterDevices keeps from the devices that places are on what they must not act upon. An
// interface that is only called like one is left alone.
func filterDevices(places []place) error {
	devices := slices.DeleteFunc(devicesOf(places), func(d vmacfilter.Device) bool {
		link, err := linkOf(d.Name)
		return err == nil && link != nil && !isVirtual(link)
	})
	if err := vmacfilter.Set(devices); err != nil {
		return fmt.Errorf("devices with virtual MAC addresses answer what they must not: %w: "+
			"see that the kernel has nf_tables (modprobe nf_tables), and the agent CAP_NET_ADMIN", err)
	}
	return nil
}

// checkDevice refuses an instance whose device's name is another interface's: keepalived
// would have none.
func (i *instance) checkDevice() error {
	if !i.virtualMAC {
		return nil
	}
	link, err := linkOf(i.device())
	if err != nil || link == nil || isVirtual(link) {
		return err
	}
	return fmt.Errorf("VIP %s: its device with the virtual MAC address is to be called %s, as an interface of this node is: "+
		"rename that one, or set virtual_mac to false", i.vip, i.device())
}

// removeDevices removes the devices of places that nothing which is kept is on, such as
// a killed keepalived leaves.
func removeDevices(all, kept []place) error {
	names := make(map[string]bool)
	for _, p := range all {
		names[p.Interface] = virtualDevices.MatchString(p.Interface)
	}
	for _, p := range kept {
		delete(names, p.Interface)
	}
	var failed []error
	for name, virtual := range names {
		if virtual {
			failed = append(failed, removeDevice(name))
		}
	}
	return errors.Join(failed...)
}

// removeDevice removes a device, if it is one of keepalived's.
func removeDevice(name string) error {
	link, err := linkOf(name)
	if link == nil || !isVirtual(link) {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// virtualRouters is how the link-layer addresses of virtual routers begin: those of IPv4,
// and of IPv6 (RFC 9568, 7.3).
var virtualRouters = []net.HardwareAddr{{0, 0, 0x5e, 0, 1}, {0, 0, 0x5e, 0, 2}}

func isVirtual(link netlink.Link) bool {
	_, ok := link.(*netlink.Macvlan)
	return ok && slices.ContainsFunc(virtualRouters, func(p net.HardwareAddr) bool { return bytes.HasPrefix(link.Attrs().HardwareAddr, p) })
}
