package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// Packets here begin with the network header: link-layer headers are the
// kernel's.

const (
	arpLength   = 28
	ipv6Header  = 40
	protoICMPv6 = 58

	typeSolicitation  = 135
	typeAdvertisement = 136
	ndLength          = 24 // without options
)

// ARPProbe asks who has an IPv4 address without claiming it: the sender's
// address is 0.0.0.0 (RFC 5227, 2.1.1).
func ARPProbe(mac net.HardwareAddr, address netip.Addr) []byte {
	return ARPRequest(mac, netip.IPv4Unspecified(), address)
}

// ARPRequest asks who has an IPv4 address, as somebody who has one (RFC 826).
func ARPRequest(mac net.HardwareAddr, from, address netip.Addr) []byte {
	p := make([]byte, 0, arpLength)
	p = append(p, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their lengths, request
	p = append(p, mac...)
	p = append(p, from.AsSlice()...)
	p = append(p, 0, 0, 0, 0, 0, 0)
	return append(p, address.AsSlice()...)
}

// ParseSource returns the address that an IPv4 packet says it comes from.
func ParseSource(p []byte) (from netip.Addr, ok bool) {
	const header, sourceAt = 20, 12
	if len(p) < header || p[0]>>4 != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(p[sourceAt : sourceAt+4])), true
}

// ParseARP returns the address that the sender of an ARP packet says it has,
// whether it asks or answers.
func ParseARP(p []byte) (claimed netip.Addr, ok bool) {
	if len(p) < arpLength || [6]byte(p[:6]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return netip.Addr{}, false
	}
	claimed = netip.AddrFrom4([4]byte(p[14:18]))
	return claimed, !claimed.IsUnspecified()
}

// IsAnswerTo tells whether an ARP packet answers a question of a machine.
func IsAnswerTo(p []byte, machine net.HardwareAddr) bool {
	return len(p) >= arpLength && [8]byte(p[:8]) == [8]byte{0, 1, 8, 0, 6, 4, 0, 2} && bytes.Equal(p[18:24], machine)
}

// SolicitedNode is the multicast address of those who may have an IPv6 address
// (RFC 4291, 2.7.1), and its link-layer address (RFC 2464, 7).
func SolicitedNode(address netip.Addr) (netip.Addr, net.HardwareAddr) {
	a := address.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
	return group, net.HardwareAddr{0x33, 0x33, 0xff, a[13], a[14], a[15]}
}

// Solicitation asks who has an IPv6 address without claiming it: the source is
// :: and there is no option (RFC 4862, 5.4.2).
func Solicitation(address netip.Addr) []byte {
	group, _ := SolicitedNode(address)
	p := make([]byte, ipv6Header+ndLength)
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], ndLength)
	p[6], p[7] = protoICMPv6, 255
	copy(p[24:], group.AsSlice())
	body := p[ipv6Header:]
	body[0] = typeSolicitation
	copy(body[8:], address.AsSlice())
	binary.BigEndian.PutUint16(body[2:], checksum(p[8:ipv6Header], body))
	return p
}

// checksum of an ICMPv6 message (RFC 4443, 2.3); addresses are source and
// destination.
func checksum(addresses, message []byte) uint16 {
	sum := uint32(len(message)) + protoICMPv6
	for _, part := range [][]byte{addresses, message} {
		for n := 0; n+1 < len(part); n += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[n:]))
		}
		if len(part)%2 == 1 {
			sum += uint32(part[len(part)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ParseAdvertisement returns the address that the sender of a neighbour
// advertisement says it has (RFC 4861, 4.4 and 7.1.2).
func ParseAdvertisement(p []byte) (claimed netip.Addr, ok bool) {
	if len(p) < ipv6Header+ndLength || p[0]>>4 != 6 || p[6] != protoICMPv6 || p[7] != 255 {
		return netip.Addr{}, false
	}
	body := p[ipv6Header:]
	if body[0] != typeAdvertisement || body[1] != 0 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(body[8:24])), true
}

// ParseRequest returns the IPv4 address that the sender of an ARP request, a host
// with an address, wants to reach. One that asks for its own address tells that it
// has it.
func ParseRequest(p []byte) (wanted netip.Addr, ok bool) {
	if len(p) < arpLength || [8]byte(p[:8]) != [8]byte{0, 1, 8, 0, 6, 4, 0, 1} {
		return netip.Addr{}, false
	}
	wanted, from := netip.AddrFrom4([4]byte(p[24:28])), netip.AddrFrom4([4]byte(p[14:18]))
	return wanted, wanted != from && !from.IsUnspecified()
}
