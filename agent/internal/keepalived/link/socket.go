// Package link sends and receives packets on one interface beside the kernel: ARP,
// IPv6 neighbour discovery, and whatever else a filter lets through.
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MAC is a link-layer address.
type MAC [6]byte

// String writes it as net.HardwareAddr does.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// VirtualMAC is a virtual router's own link-layer address (RFC 9568, 7.3).
func VirtualMAC(v6 bool, vrid uint8) MAC {
	family := byte(1)
	if v6 {
		family = 2
	}
	return MAC{0, 0, 0x5e, 0, family, vrid}
}

// Own are the link-layer addresses of this machine.
func Own() (map[MAC]bool, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	own := make(map[MAC]bool)
	for _, l := range links {
		if len(l.HardwareAddr) == 6 {
			own[MAC(l.HardwareAddr)] = true
		}
	}
	return own, nil
}

// Where VRRP advertisements (224.0.0.18 and ff02::12) and answers (ff02::1) go to.
var (
	Routers4 = net.HardwareAddr{0x01, 0x00, 0x5e, 0x00, 0x00, 0x12}
	Routers6 = net.HardwareAddr{0x33, 0x33, 0x00, 0x00, 0x00, 0x12}
	AllNodes = net.HardwareAddr{0x33, 0x33, 0x00, 0x00, 0x00, 0x01}
	Everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// Socket receives packets of one protocol on one interface, and sends them. It is
// not for concurrent use.
type Socket struct {
	fd      int
	quiet   int // of packets that wake nobody, see Hush; -1: there is none
	ifindex int
	proto   uint16 // in network byte order
	program Filter
	buffer  [2048]byte // of Receive
	control [128]byte
	bytes   []byte // of aside
	aside   []aside
}

// Filter is a program by which the kernel picks packets (socket(7),
// SO_ATTACH_FILTER), so that a busy machine's own traffic costs nothing. Offsets
// begin at the network header.
type Filter []unix.SockFilter

// Where the protocol is in a header.
const (
	Protocol4 = 9
	Protocol6 = 6 // the next header
)

// Only accepts packets whose byte at that offset is one of the values.
func Only(offset uint32, values ...uint32) Filter {
	program := Filter{{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset}}
	for n, value := range values {
		program = append(program, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(len(values) - n),
		})
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
}

// AnswersOrAbout accepts ARP packets that are answers, which go to this machine alone
// mostly, and those that About accepts.
func AnswersOrAbout(addresses []netip.Addr) Filter {
	const operationAt, answer = 6, 2
	about := About(addresses)
	if about == nil {
		return nil
	}
	return append(Filter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: operationAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: answer, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	}, about...)
}

// About accepts ARP packets that name one of the addresses as the sender's or as
// the one that is asked for. A program has at most 4096 instructions: with more than
// a thousand addresses it accepts all.
func About(addresses []netip.Addr) Filter {
	const most, senderAt, targetAt = 1000, 14, 24
	if len(addresses) > most {
		return nil
	}
	var program Filter
	for _, at := range []uint32{senderAt, targetAt} {
		program = append(program, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at})
		for _, a := range addresses {
			bytes := a.As4()
			program = append(program,
				unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(bytes[:]), Jf: 1},
				unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
		}
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// AdvertisementsOr accepts neighbour advertisements of IPv6 and a protocol.
func AdvertisementsOr(protocol uint32) Filter {
	return Filter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: Protocol6},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocol, Jt: 3},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ipv6Header},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: typeAdvertisement, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Open opens a socket for packets of one Ethernet protocol and joins link-layer
// groups. A nil filter lets all of them through.
func Open(ifindex int, ethertype uint16, program Filter, groups ...net.HardwareAddr) (*Socket, error) {
	fd, err := open()
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &Socket{fd: fd, quiet: -1, ifindex: ifindex, proto: ethertype<<8 | ethertype>>8, program: program}
	if err := s.prepare(groups); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), s.Close())
	}
	return s, nil
}

// open opens a socket. Without a protocol nothing comes in before there is a filter.
func open() (fd int, err error) {
	return unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func (s *Socket) prepare(groups []net.HardwareAddr) error {
	for _, group := range groups {
		m := unix.PacketMreq{Ifindex: int32(s.ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
		copy(m.Address[:], group)
		if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return err
		}
	}
	return s.bind(s.fd)
}

// bind has a socket receive what the program lets through.
func (s *Socket) bind(fd int) error {
	if s.program != nil {
		if err := attach(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, s.program); err != nil {
			return err
		}
	}
	// Without it a packet is as late as this process is.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: s.ifindex})
}

// attach puts a program in the place of the one before.
func attach(fd, level, option int, program Filter) error {
	return unix.SetsockoptSockFprog(fd, level, option, &unix.SockFprog{
		Len: uint16(len(program)), Filter: unsafe.SliceData(program),
	})
}

// Member makes this machine a member of VRRP's IPv6 group on an interface until
// the socket is closed. A switch that snoops on MLD sends advertisements to
// members only; those of IPv4 go everywhere (RFC 4541, 2.1.2 and 3).
func Member(ifindex int) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("IPv6 socket: %w", err)
	}
	s := &Socket{fd: fd, quiet: -1, ifindex: ifindex}
	group := unix.IPv6Mreq{Multiaddr: [16]byte{0: 0xff, 1: 0x02, 15: 0x12}, Interface: uint32(ifindex)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &group); err != nil {
		return nil, errors.Join(fmt.Errorf("join the group ff02::12: %w", err), s.Close())
	}
	return s, nil
}

// Close closes the socket.
func (s *Socket) Close() error {
	err := unix.Close(s.fd)
	if s.quiet >= 0 {
		err = errors.Join(err, unix.Close(s.quiet))
	}
	return err
}

// FD is for poll(2): it is ready when a packet waits that is to wake somebody.
func (s *Socket) FD() int32 { return int32(s.fd) }

// Send sends a packet to a link-layer address.
func (s *Socket) Send(packet []byte, to net.HardwareAddr) error {
	a := &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: s.ifindex, Halen: uint8(len(to))}
	copy(a.Addr[:], to)
	return unix.Sendto(s.fd, packet, 0, a)
}

// Lost tells whether an error of Send means that the packet is lost, as it might be
// on its way: the transmit queue is full.
func Lost(err error) bool { return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) }

// Receive hands over packets for this machine that wait, each with its sender and the
// time at which the kernel received it, by the wall clock, and returns how many waited: at
// most limit, and as many again of those that wake nobody. The packet is valid during the
// call only.
func (s *Socket) Receive(limit int, take func(packet []byte, from MAC, at time.Time)) (count int, err error) {
	if s.quiet >= 0 {
		return s.both(limit, take)
	}
	return s.receive(s.fd, limit, take)
}

func (s *Socket) receive(fd, limit int, take func(packet []byte, from MAC, at time.Time)) (count int, err error) {
	for count < limit {
		n, length, _, from, err := unix.Recvmsg(fd, s.buffer[:], s.control[:], 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return count, nil
		case err != nil:
			return count, fmt.Errorf("packet socket: %w", err)
		}
		count++
		a, ok := from.(*unix.SockaddrLinklayer)
		if ok && a.Halen == 6 && forUs(a.Pkttype) {
			take(s.buffer[:n], MAC(a.Addr[:6]), stamp(s.control[:length]))
		}
	}
	return count, nil
}

// stamp is the kernel's time of a packet (socket(7), SO_TIMESTAMPNS), or else now.
func stamp(control []byte) time.Time {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			t := *(*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(m.Data)))
			return time.Unix(t.Unix())
		}
	}
	return time.Now()
}

// forUs tells whether a packet of that kind is this machine's. That of a VLAN that it
// does not have is another machine's (PACKET_OTHERHOST), whatever its target is.
func forUs(kind uint8) bool {
	return kind == unix.PACKET_HOST || kind == unix.PACKET_BROADCAST || kind == unix.PACKET_MULTICAST
}
