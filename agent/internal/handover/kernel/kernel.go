// Package kernel is the part of a handover that works without the agent: a program
// on the interfaces that carry virtual addresses, what it knows of each address,
// and the routing rule by which this node takes the packets that it marks.
package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mark of the packets that this node takes, and the number of the routing table
// and of the rule that say so; "tdm" in hexadecimal.
const (
	Mark  = 0x74646d
	table = 0x74646d
	// priority of the rule: after the kernel's own table, before those of others.
	priority = 100
	// handle and filterPriority name the filter on an interface.
	filterHandle   = 0x74646d
	filterPriority = 7464
)

// Way is what happens to packets of established connections to an address.
type Way struct {
	// Until is when the forwarding ends, by the clock of Now; 0: there is none.
	Until time.Duration
	// New: this node takes packets that begin a connection, whether or not it holds
	// the address.
	New bool
	// All: also packets of this node's own connections are forwarded. Its proxy is
	// dead or hung, and whoever holds the address tells clients so.
	All bool
	// From and To are the link-layer addresses of this node and of the previous
	// holder on the address's interface.
	From, To net.HardwareAddr
}

// Equal tells whether two ways are the same.
func (w *Way) Equal(o Way) bool { return bytes.Equal(w.bytes(), o.bytes()) }

// Offsets in a Way as the kernel has it.
const (
	wayUntil = 0
	wayAll   = 8
	wayNew   = 10
	wayEther = 12
	wayLen   = 24
)

func (w *Way) bytes() []byte {
	b := make([]byte, wayLen)
	binary.NativeEndian.PutUint64(b[wayUntil:], uint64(w.Until))
	if w.All {
		binary.NativeEndian.PutUint16(b[wayAll:], 1)
	}
	if w.New {
		binary.NativeEndian.PutUint16(b[wayNew:], 1)
	}
	copy(b[wayEther:wayEther+6], w.To)
	copy(b[wayEther+6:], w.From)
	return b
}

// Now is the clock of Way.Until: the time since this machine was switched on,
// without that asleep.
func Now() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("monotonic clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Kernel is the program with what it knows. The filters of Attach go on with both
// when it is closed and the agent has ended.
type Kernel struct {
	ways    *ebpf.Map
	program *ebpf.Program // of interfaces with an address of their own
	virtual *ebpf.Program // of those with a virtual router's
}

// maxWays is more addresses than a node can have: 255 VRIDs of 64 for each family.
const maxWays = 65536

// Load gives the program to the kernel. It fails where the kernel cannot or does
// not let this process.
func Load() (*Kernel, error) {
	ways, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "tandem_ways", Type: ebpf.Hash, KeySize: 16, ValueSize: wayLen, MaxEntries: maxWays,
		Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		return nil, fmt.Errorf("table of the forwarding: %w", err)
	}
	p, err := compile(ways, false)
	if err != nil {
		return nil, errors.Join(err, ways.Close())
	}
	virtual, err := compile(ways, true)
	if err != nil {
		return nil, errors.Join(err, p.Close(), ways.Close())
	}
	return &Kernel{ways, p, virtual}, nil
}

// Close lets go of both.
func (k *Kernel) Close() error {
	return errors.Join(k.program.Close(), k.virtual.Close(), k.ways.Close())
}

// Set says what happens to an address's packets from now on.
func (k *Kernel) Set(address netip.Addr, way Way) error {
	key := address.As16()
	if err := k.ways.Put(key[:], way.bytes()); err != nil {
		return fmt.Errorf("way of %s: %w", address, err)
	}
	return nil
}

// Remove ends it.
func (k *Kernel) Remove(address netip.Addr) error {
	key := address.As16()
	if err := k.ways.Delete(key[:]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("way of %s: %w", address, err)
	}
	return nil
}

// Attach puts the program on an interface, in the place of an earlier agent's.
func (k *Kernel) Attach(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if link.Attrs().EncapType != "ether" {
		return fmt.Errorf("interface %s is no Ethernet: %s", name, link.Attrs().EncapType)
	}
	err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: qdisc(link)})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("queueing discipline clsact of %s: %w", name, err)
	}
	if err := netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: filter(link), Fd: k.of(link).FD(), Name: filterName, DirectAction: true,
	}); err != nil {
		return fmt.Errorf("filter of %s: %w", name, err)
	}
	return nil
}

// Attached tells whether the program of this Kernel is on an interface.
func (k *Kernel) Attached(name string) (bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", name, err)
	}
	filters, err := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return false, fmt.Errorf("filters of %s: %w", name, err)
	}
	info, err := k.of(link).Info()
	if err != nil {
		return false, err
	}
	id, _ := info.ID()
	return slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		ours, ok := f.(*netlink.BpfFilter)
		return ok && ours.Attrs().Handle == filterHandle && ours.Id == int(id)
	}), nil
}

// of is the program for an interface.
func (k *Kernel) of(link netlink.Link) *ebpf.Program {
	if bytes.HasPrefix(link.Attrs().HardwareAddr, virtualRouters) {
		return k.virtual
	}
	return k.program
}

// virtualRouters is how the link-layer addresses of virtual routers begin (RFC 9568, 7.3).
var virtualRouters = net.HardwareAddr{0, 0, 0x5e, 0}

// Index is that of an interface, 0 when there is none of the name.
func Index(name string) (int, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return link.Attrs().Index, nil
}

const filterName = "tandem-handover"

func qdisc(link netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
}

func filter(link netlink.Link) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
		Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}
}

// Detach takes the program of any agent from an interface, and the queueing
// discipline where nobody else uses it.
func Detach(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	err = netlink.FilterDel(&netlink.BpfFilter{FilterAttrs: filter(link)})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil // neither filter nor qdisc is there
	}
	if err != nil {
		return fmt.Errorf("filter of %s: %w", name, err)
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := netlink.FilterList(link, parent)
		if err != nil || len(others) > 0 {
			return err
		}
	}
	return netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: qdisc(link)})
}
