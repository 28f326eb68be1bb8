package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Announce tells everybody on an interface once that its machine has the addresses:
// by gratuitous ARP, as a request and as an answer, since some take only one of them
// (RFC 5227, 3), and by unsolicited neighbour advertisements (RFC 4861, 7.2.6).
func Announce(on *net.Interface, addresses []netip.Addr) error {
	s4, err := Open(on.Index, unix.ETH_P_ARP, Filter{{Code: unix.BPF_RET | unix.BPF_K}})
	if err != nil {
		return err
	}
	defer func() { _ = s4.Close() }()
	s6, err := Open(on.Index, unix.ETH_P_IPV6, Filter{{Code: unix.BPF_RET | unix.BPF_K}})
	if err != nil {
		return err
	}
	defer func() { _ = s6.Close() }()
	for _, a := range addresses {
		if a.Is6() {
			err = s6.Send(advertisement(on.HardwareAddr, a), AllNodes)
		} else if err = s4.Send(gratuitous(on.HardwareAddr, a, 1), Everyone); err == nil {
			err = s4.Send(gratuitous(on.HardwareAddr, a, 2), Everyone)
		}
		if err != nil {
			return fmt.Errorf("announce %s on %s: %w", a, on.Name, err)
		}
	}
	return nil
}

// gratuitous is an ARP packet that tells that a machine has an address.
func gratuitous(mac net.HardwareAddr, address netip.Addr, operation byte) []byte {
	p := make([]byte, 0, arpLength)
	p = append(p, 0, 1, 8, 0, 6, 4, 0, operation)
	p = append(p, mac...)
	p = append(p, address.AsSlice()...)
	p = append(p, Everyone...)
	return append(p, address.AsSlice()...)
}

// advertisement is an unsolicited one that overrides what others know. It is sent
// from the address itself.
func advertisement(mac net.HardwareAddr, address netip.Addr) []byte {
	const length, override, targetLinkLayer = ndLength + 8, 0x20, 2
	p := make([]byte, ipv6Header+length)
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], length)
	p[6], p[7] = protoICMPv6, 255
	copy(p[8:], address.AsSlice())
	copy(p[24:], []byte{0: 0xff, 1: 0x02, 15: 0x01})
	body := p[ipv6Header:]
	body[0], body[4] = typeAdvertisement, override
	copy(body[8:], address.AsSlice())
	body[24], body[25] = targetLinkLayer, 1 // in units of 8 bytes
	copy(body[26:], mac)
	binary.BigEndian.PutUint16(body[2:], checksum(p[8:ipv6Header], body))
	return p
}
