package neighbor

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket receives packets of one protocol on one interface, and sends them.
type socket struct {
	fd      int
	ifindex int
	proto   uint16 // in network byte order
}

// Filters let through what the parsers look at, so that a busy machine's own
// traffic costs nothing. They load a byte of the network header.
var (
	onlyVRRP4 = filter(9, protoVRRP)
	onlyND    = filter(6, protoICMPv6, protoVRRP)
)

// filter accepts packets whose byte at that offset is one of the values.
func filter(offset uint32, values ...uint32) []unix.SockFilter {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset}}
	for n, value := range values {
		program = append(program, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(len(values) - n),
		})
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
}

// open opens a socket and joins link-layer groups.
func open(ifindex int, ethertype uint16, program []unix.SockFilter, groups ...net.HardwareAddr) (*socket, error) {
	// Without a protocol nothing comes in before there is a filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &socket{fd: fd, ifindex: ifindex, proto: ethertype<<8 | ethertype>>8}
	if err := s.prepare(program, groups); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), s.close())
	}
	return s, nil
}

func (s *socket) prepare(program []unix.SockFilter, groups []net.HardwareAddr) error {
	if program != nil {
		err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
			Len: uint16(len(program)), Filter: unsafe.SliceData(program),
		})
		if err != nil {
			return err
		}
	}
	for _, group := range groups {
		m := unix.PacketMreq{Ifindex: int32(s.ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
		copy(m.Address[:], group)
		if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return err
		}
	}
	return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: s.ifindex})
}

// member makes this machine a member of VRRP's IPv6 group on an interface until
// the socket is closed. A switch that snoops on MLD sends advertisements to
// members only; those of IPv4 go everywhere (RFC 4541, 2.1.2 and 3).
func member(ifindex int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("IPv6 socket: %w", err)
	}
	s := &socket{fd: fd, ifindex: ifindex}
	group := unix.IPv6Mreq{Multiaddr: [16]byte{0: 0xff, 1: 0x02, 15: 0x12}, Interface: uint32(ifindex)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &group); err != nil {
		return nil, errors.Join(fmt.Errorf("join the group ff02::12: %w", err), s.close())
	}
	return s, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }

func (s *socket) send(packet []byte, to net.HardwareAddr) error {
	a := &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: s.ifindex, Halen: uint8(len(to))}
	copy(a.Addr[:], to)
	return unix.Sendto(s.fd, packet, 0, a)
}

// receive hands over every packet that waits, with its sender.
func (s *socket) receive(take func(packet []byte, from mac)) error {
	buffer := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(s.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("packet socket: %w", err)
		}
		a, ok := from.(*unix.SockaddrLinklayer)
		if ok && a.Halen == 6 && a.Pkttype != unix.PACKET_OUTGOING {
			take(buffer[:n], mac(a.Addr[:6]))
		}
	}
}
