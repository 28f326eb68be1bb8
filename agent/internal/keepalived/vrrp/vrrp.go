// Package vrrp reads VRRP advertisements as they are on the wire: version 2
// (RFC 3768) and version 3 (RFC 9568, which replaces RFC 5798).
package vrrp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Protocol is VRRP's number in IPv4 and IPv6 headers (RFC 9568, 5.1.1.4).
const Protocol = 112

// Auth is how an advertisement of version 2 is authenticated (RFC 3768, 5.3.6, and
// RFC 2338, which defined the types that are still in use).
type Auth uint8

// The types of authentication.
const (
	AuthNone   Auth = 0
	AuthSimple Auth = 1 // a password in the clear
	AuthHeader Auth = 2 // IPsec's authentication header
)

// Advert is an advertisement. Two can be compared.
type Advert struct {
	// Source and Destination of the packet: a group's address or, with unicast
	// peers, a node's.
	Source, Destination netip.Addr
	// Version is 2 or 3.
	Version int
	// VRID is the virtual router id, 1 to 255.
	VRID uint8
	// Priority is 1 to 255, and 0 when the sender gives the virtual router up.
	Priority uint8
	// Interval between advertisements: whole seconds in version 2, multiples of
	// 10 ms in version 3.
	Interval time.Duration
	// Auth and Password are version 2's. The password is a secret: it is for
	// comparison only.
	Auth     Auth
	Password [8]byte

	count     int
	addresses [MaxAddresses]netip.Addr
}

// MaxAddresses is how many addresses of one advertisement are kept. Tandem's own
// have one.
const MaxAddresses = 8

// Count is how many addresses the advertisement has, kept or not.
func (a *Advert) Count() int { return a.count }

// Addresses are the first ones of the advertisement, at most MaxAddresses.
func (a *Advert) Addresses() []netip.Addr { return a.addresses[:min(a.count, MaxAddresses)] }

// What is no advertisement.
var (
	errOther    = errors.New("not VRRP")
	errHops     = errors.New("it goes to a group and has come through a router: its TTL is not 255")
	errShort    = errors.New("it is shorter than it says")
	errKind     = errors.New("it is no advertisement of version 2 or 3")
	errVRID     = errors.New("its virtual router id is 0")
	errChecksum = errors.New("its checksum is wrong")
)

const (
	ipv4Header = 20 // without options
	ipv6Header = 40
	vrrpHeader = 8
	password   = 8 // behind the addresses of version 2
	maxHops    = 255
)

// Parse reads a packet that begins with its IPv4 or IPv6 header. It refuses what a
// VRRP router discards whatever its configuration is (RFC 9568, 7.1; RFC 3768, 7.1).
// What goes to a node's own address may have any TTL: keepalived 2.2.7 sends 64 with
// IPv6, and takes anything.
func Parse(p []byte) (Advert, error) {
	switch {
	case len(p) >= ipv4Header && p[0]>>4 == 4:
		return parse4(p)
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		return parse6(p)
	}
	return Advert{}, errOther
}

func parse4(p []byte) (Advert, error) {
	header, total := 4*int(p[0]&0x0f), int(binary.BigEndian.Uint16(p[2:]))
	const fragmented = 0x3fff // more fragments, or an offset
	switch {
	case p[9] != Protocol || binary.BigEndian.Uint16(p[6:])&fragmented != 0:
		return Advert{}, errOther
	case header < ipv4Header || total < header+vrrpHeader || total > len(p):
		return Advert{}, errShort
	}
	a := Advert{Source: netip.AddrFrom4([4]byte(p[12:16])), Destination: netip.AddrFrom4([4]byte(p[16:20]))}
	if p[8] != maxHops && a.Destination.IsMulticast() {
		return Advert{}, errHops
	}
	return a.read(p[header:total], p[12:20], 4)
}

func parse6(p []byte) (Advert, error) {
	length := int(binary.BigEndian.Uint16(p[4:]))
	switch {
	case p[6] != Protocol:
		return Advert{}, errOther
	case length < vrrpHeader || ipv6Header+length > len(p):
		return Advert{}, errShort
	}
	a := Advert{Source: netip.AddrFrom16([16]byte(p[8:24])), Destination: netip.AddrFrom16([16]byte(p[24:40]))}
	if p[7] != maxHops && a.Destination.IsMulticast() {
		return Advert{}, errHops
	}
	return a.read(p[ipv6Header:ipv6Header+length], p[8:40], 16)
}

// read reads the message itself. ends are both addresses of the packet, which
// version 3 puts under the checksum; size is that of an address.
func (a Advert) read(body, ends []byte, size int) (Advert, error) {
	const advertisement = 1
	a.Version = int(body[0] >> 4)
	if body[0]&0x0f != advertisement || a.Version != 2 && a.Version != 3 || a.Version == 2 && size != 4 {
		return Advert{}, errKind
	}
	a.VRID, a.Priority, a.count = body[1], body[2], int(body[3])
	if a.VRID == 0 {
		return Advert{}, errVRID
	}
	length := vrrpHeader + a.count*size
	if a.Version == 2 {
		length += password
		a.Auth, a.Interval = Auth(body[4]), time.Duration(body[5])*time.Second
	} else {
		const bits = 0x0fff // Max Advertise Interval, in units of 10 ms
		a.Interval = time.Duration(binary.BigEndian.Uint16(body[4:])&bits) * 10 * time.Millisecond
	}
	if len(body) < length {
		return Advert{}, errShort
	}
	if !intact(a.Version, body, ends) {
		return Advert{}, errChecksum
	}
	for n := range a.Addresses() {
		at, _ := netip.AddrFromSlice(body[vrrpHeader+n*size:][:size])
		a.addresses[n] = at
	}
	if a.Version == 2 && a.Auth == AuthSimple {
		a.Password = [password]byte(body[length-password:])
	}
	return a, nil
}

// intact checks the checksum. That of version 3 covers a pseudo-header (RFC 9568,
// 5.2.8), which some senders leave out with IPv4 and keepalived takes then, too.
func intact(version int, body, ends []byte) bool {
	plain := sum(0, body)
	if version == 3 && folded(sum(plain+uint32(len(body))+Protocol, ends)) == 0xffff {
		return true
	}
	return (version == 2 || len(ends) == 8) && folded(plain) == 0xffff
}

// sum adds up 16-bit words (RFC 1071).
func sum(start uint32, p []byte) uint32 {
	for ; len(p) > 1; p = p[2:] {
		start += uint32(binary.BigEndian.Uint16(p))
	}
	if len(p) == 1 {
		start += uint32(p[0]) << 8
	}
	return start
}

func folded(sum uint32) uint32 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}
