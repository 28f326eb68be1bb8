package firewall

import (
	"bytes"
	"encoding/binary"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// truth is whether something is so; maybe: it cannot be told.
type truth int

const (
	no truth = iota
	maybe
	yes
)

// octets are bytes of which not all are known.
type octets struct {
	value []byte
	known []bool
}

func unknown(n int) octets { return octets{make([]byte, n), make([]bool, n)} }

func (o octets) put(at int, value ...byte) {
	for n, b := range value {
		o.value[at+n], o.known[at+n] = b, true
	}
}

// packet is what rules see of an advertisement, and what they have loaded.
type packet struct {
	Advert
	header octets // of the network layer
	registers
}

// protocol of VRRP (RFC 9568, section 5.1.1.4), and the hop limit that it has
// (5.1.1.3).
const (
	protocol = 112
	hops     = 255
)

func packetOf(a Advert) *packet {
	p := &packet{Advert: a}
	if a.Destination.Is6() { // RFC 8200, section 3
		p.header = unknown(40)
		p.header.put(6, protocol)
		if a.Destination.IsMulticast() {
			p.header.put(7, hops) // else keepalived sends 64
		}
		if a.Source.IsValid() {
			p.header.put(8, a.Source.AsSlice()...)
		}
		p.header.put(24, a.Destination.AsSlice()...)
		return p
	}
	p.header = unknown(20) // RFC 791, section 3.1
	p.header.put(0, 0x45)
	p.header.put(8, hops, protocol)
	if a.Source.IsValid() {
		p.header.put(12, a.Source.AsSlice()...)
	}
	p.header.put(16, a.Destination.AsSlice()...)
	return p
}

// registers are those of nftables: four of 16 bytes, or 16 of 4 bytes in the same
// place.
type registers struct {
	value [64]byte
	known [64]bool
}

// offset of a register; -1: there is no such one.
func offset(register uint32) int {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 16
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register-unix.NFT_REG32_00) * 4
	default:
		return -1
	}
}

func (r *registers) load(register uint32, o octets) {
	at := offset(register)
	if at < 0 {
		return
	}
	// The kernel fills the rest of the last word with zeros.
	for n := range (len(o.value) + 3) / 4 * 4 {
		if at+n == len(r.value) {
			return
		}
		if n < len(o.value) {
			r.value[at+n], r.known[at+n] = o.value[n], o.known[n]
		} else {
			r.value[at+n], r.known[at+n] = 0, true
		}
	}
}

func (r *registers) forget(register uint32, length int) { r.load(register, unknown(length)) }

// take returns what a register holds, if all of it is known.
func (r *registers) take(register uint32, length int) (value []byte, known bool) {
	at := offset(register)
	if at < 0 || length <= 0 || at+length > len(r.value) {
		return nil, false
	}
	for n := range length {
		if !r.known[at+n] {
			return nil, false
		}
	}
	return r.value[at : at+length], true
}

// match tells whether an expression lets the packet through to the next one.
func (p *packet) match(e expr.Any) truth {
	switch e := e.(type) {
	case *expr.Meta:
		if !e.SourceRegister {
			p.load(e.Register, p.meta(e.Key))
		}
	case *expr.Payload:
		if e.OperationType == expr.PayloadLoad {
			p.load(e.DestRegister, p.payload(e))
		}
	case *expr.Ct:
		if !e.SourceRegister {
			p.load(e.Register, tracked(e.Key))
		}
	case *expr.Immediate:
		o := unknown(len(e.Data))
		o.put(0, e.Data...)
		p.load(e.Register, o)
	case *expr.Bitwise:
		p.bitwise(e)
	case *expr.Cmp:
		value, known := p.take(e.Register, len(e.Data))
		return compare(e.Op, value, known, e.Data)
	case *expr.Range:
		value, known := p.take(e.Register, len(e.FromData))
		if !known {
			return maybe
		}
		inside := bytes.Compare(value, e.FromData) >= 0 && bytes.Compare(value, e.ToData) <= 0
		return truthOf(inside == (e.Op == expr.CmpOpEq))
	case *expr.Match:
		return matchExtension(e)
	case *expr.Fib:
		p.forget(e.Register, 16)
	case *expr.Exthdr:
		p.forget(e.DestRegister, 16)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset, *expr.Numgen, *expr.Hash:
		return maybe
	}
	return yes // it only does something
}

func truthOf(is bool) truth {
	if is {
		return yes
	}
	return no
}

func compare(op expr.CmpOp, value []byte, known bool, with []byte) truth {
	if !known {
		return maybe
	}
	order := bytes.Compare(value, with)
	switch op {
	case expr.CmpOpEq:
		return truthOf(order == 0)
	case expr.CmpOpNeq:
		return truthOf(order != 0)
	case expr.CmpOpLt:
		return truthOf(order < 0)
	case expr.CmpOpLte:
		return truthOf(order <= 0)
	case expr.CmpOpGt:
		return truthOf(order > 0)
	case expr.CmpOpGte:
		return truthOf(order >= 0)
	default:
		return maybe
	}
}

// meta is what is known of a packet beside its bytes.
func (p *packet) meta(key expr.MetaKey) octets {
	v6 := p.Destination.Is6()
	switch key {
	case expr.MetaKeyL4PROTO:
		return known(protocol)
	case expr.MetaKeyNFPROTO:
		if v6 {
			return known(unix.NFPROTO_IPV6)
		}
		return known(unix.NFPROTO_IPV4)
	case expr.MetaKeyPROTOCOL:
		if v6 {
			return known(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)...)
		}
		return known(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)...)
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		name := make([]byte, unix.IFNAMSIZ)
		if p.has(key == expr.MetaKeyOIFNAME) {
			copy(name, p.Interface)
		}
		return known(name...)
	case expr.MetaKeyIIF, expr.MetaKeyOIF:
		switch {
		case !p.has(key == expr.MetaKeyOIF):
			return known(0, 0, 0, 0)
		case p.Index != 0:
			return known(binaryutil.NativeEndian.PutUint32(uint32(p.Index))...)
		}
		return unknown(4)
	case expr.MetaKeyPKTTYPE:
		if p.Destination.IsMulticast() && !p.Outgoing {
			return known(unix.PACKET_MULTICAST)
		}
		return unknown(1)
	default:
		return unknown(16)
	}
}

// has tells whether a packet has an interface that it leaves, or has come, by.
func (p *packet) has(outgoing bool) bool { return p.Outgoing == outgoing }

func known(value ...byte) octets {
	o := unknown(len(value))
	o.put(0, value...)
	return o
}

func (p *packet) payload(e *expr.Payload) octets {
	o := unknown(int(e.Len))
	if e.Base != expr.PayloadBaseNetworkHeader || int(e.Offset+e.Len) > len(p.header.value) {
		return o
	}
	copy(o.value, p.header.value[e.Offset:])
	copy(o.known, p.header.known[e.Offset:])
	return o
}

// tracked is what connection tracking says of advertisements: they are not answered,
// and so for ever the first packet of a connection.
func tracked(key expr.CtKey) octets {
	if key == expr.CtKeySTATE {
		return known(binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW)...)
	}
	return unknown(16)
}

func (p *packet) bitwise(e *expr.Bitwise) {
	at := offset(e.SourceRegister)
	o := unknown(int(e.Len))
	for n := range o.value {
		if at < 0 || at+n >= len(p.value) || n >= len(e.Mask) || n >= len(e.Xor) {
			break
		}
		o.value[n] = p.value[at+n]&e.Mask[n] ^ e.Xor[n]
		o.known[n] = p.known[at+n] || e.Mask[n] == 0
	}
	p.load(e.DestRegister, o)
}

// matchExtension is a match of iptables-nft. Of an unknown one nothing is known.
func matchExtension(e *expr.Match) truth {
	if e.Name == "comment" {
		return yes
	}
	info, ok := e.Info.(*xt.ConntrackMtinfo3)
	if !ok || info.MatchFlags != uint16(xt.ConntrackState) {
		return maybe
	}
	const first = 1 << 3 // XT_CONNTRACK_STATE_BIT(IP_CT_NEW), IP_CT_NEW being 2
	return truthOf((info.StateMask&first != 0) == (info.InvertFlags&uint16(xt.ConntrackState) == 0))
}
