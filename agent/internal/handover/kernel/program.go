package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the program knows of packets: Ethernet, then IPv4 (RFC 791) or IPv6
// (RFC 8200), then TCP (RFC 9293). Offsets are in bytes.
const (
	etherLen = 14
	ip4Len   = 20
	ip6Len   = 40
	tcpLen   = 20

	ip4Fragment = 6
	ip4TTL      = 8
	ip4Protocol = 9
	ip4Checksum = 10
	ip4Source   = 12
	ip4Target   = 16
	ip6Next     = 6
	ip6Hops     = 7
	ip6Source   = 8
	ip6Target   = 24
	tcpFlags    = 13

	ethIP4      = 0x0800
	ethIP6      = 0x86dd
	protocolTCP = 6
	tcpSYN      = 0x02
)

// Offsets in the kernel's __sk_buff and bpf_sock (include/uapi/linux/bpf.h).
const (
	skbPacketType = 4
	skbMark       = 8
	skbProtocol   = 16
	skbVLAN       = 20
	skbInterface  = 40
	sockState     = 72

	stateTimeWait = 6  // TCP_TIME_WAIT
	stateListen   = 10 // TCP_LISTEN
)

// Where the program keeps things on its stack, below the frame pointer.
const (
	stackKey   = -16                  // the packet's target, as in the map
	stackTuple = stackKey - 40        // struct bpf_sock_tuple
	stackIP    = stackTuple - ip6Len  // the header
	stackTCP   = stackIP - tcpLen - 4 // the header
	stackOld   = stackTCP - 8         // TTL and protocol before
	stackNew   = stackOld - 8         // and after
)

// Registers that survive calls.
const (
	regPacket = asm.R6
	regWay    = asm.R7
	regTCP    = asm.R8 // offset of the TCP header
	regSocket = asm.R8 // later
	regHops   = asm.R9 // the packet's TTL or hop limit
)

// What a forwarded packet's TTL becomes. No packet from elsewhere has so small a
// one: systems begin with 64 at least. It tells how often a packet was forwarded,
// so that it cannot go round: to the previous holder, back from one that serves no
// more, and no further.
const (
	hopsFirst = 2
	hopsLast  = 1
)

// Verdicts of a direct-action classifier (include/uapi/linux/pkt_cls.h).
const verdictNext = -1 // TC_ACT_UNSPEC: ask the next filter

// program is what happens to each packet that comes in on an interface:
//
//   - One that is no TCP packet to an address of the map is nobody's business here.
//   - One that begins a connection is marked where the proxy is well, and is never
//     sent elsewhere. This node takes what is marked, also in the moment in which it
//     holds the address no more and a client does not know that yet.
//   - One of a connection that this node has, or of any when it forwards none for
//     the address now, is marked, too. One of a connection that is over here is so
//     only when the previous holder has none: clients use their ports again.
//   - Any other one belongs to a connection of the previous holder and is sent to
//     it as it is.
//
// On an interface with a virtual router's link-layer address, which every node has, one
// that begins a connection is left to who has the address, and so is any other one that
// is neither of a connection of this node nor to be forwarded: a switch that does not
// know where the virtual router is sends it to all of them.
func program(ways *ebpf.Map, virtual bool) asm.Instructions {
	var p assembler
	p.add(
		asm.Mov.Reg(regPacket, asm.R1),
		asm.LoadMem(asm.R1, regPacket, skbPacketType, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "next"), // PACKET_HOST
		asm.LoadMem(asm.R1, regPacket, skbVLAN, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "next"), // of an interface on top of this one
		asm.Mov.Imm(regTCP, etherLen),
	)
	p.clear(stackIP, stackKey)
	p.ifIP6(asm.R1, "ip6")
	p.add(asm.JNE.Imm(asm.R1, ethIP4, "next"))
	p.ip4()
	p.add(asm.Ja.Label("find"))
	p.label("ip6")
	p.ip6()
	p.label("find")
	p.find(ways, virtual)
	p.ownConnection()
	p.label("forward")
	if virtual {
		p.untilOver("next")
	}
	p.forward()
	p.verdicts()
	return p.instructions
}

// assembler puts a program together.
type assembler struct {
	instructions asm.Instructions
	symbol       string // of the next instruction
}

func (p *assembler) add(all ...asm.Instruction) {
	if p.symbol != "" {
		all[0], p.symbol = all[0].WithSymbol(p.symbol), ""
	}
	p.instructions = append(p.instructions, all...)
}

// label names the next instruction.
func (p *assembler) label(name string) { p.symbol = name }

// stack has a register point to what is on the stack.
func (p *assembler) stack(register asm.Register, offset int32) {
	p.add(asm.Mov.Reg(register, asm.RFP), asm.Add.Imm(register, offset))
}

// clear fills a part of the stack, of whole double words, with zeros. Without
// CAP_PERFMON nothing may be read that was not written, and the kernel does not know
// which lengths go with IPv4.
func (p *assembler) clear(from, to int16) {
	p.add(asm.Mov.Imm(asm.R1, 0))
	for n := from; n < to; n += 8 {
		p.add(asm.StoreMem(asm.RFP, n, asm.R1, asm.DWord))
	}
}

// load copies a part of the packet onto the stack; a packet that has no such part is
// nobody's business.
func (p *assembler) load(offset asm.Register, to, length int32) {
	p.add(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Reg(asm.R2, offset))
	p.stack(asm.R3, to)
	p.add(asm.Mov.Imm(asm.R4, length), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "next"))
}

// move copies from one place on the stack to another.
func (p *assembler) move(from, to int16, size asm.Size) {
	p.add(asm.LoadMem(asm.R1, asm.RFP, from, size), asm.StoreMem(asm.RFP, to, asm.R1, size))
}

// ifIP6 jumps if the packet is one of IPv6; the register has its EtherType.
func (p *assembler) ifIP6(register asm.Register, label string) {
	p.add(
		asm.LoadMem(register, regPacket, skbProtocol, asm.Word),
		asm.HostTo(asm.BE, register, asm.Half),
		asm.JEq.Imm(register, ethIP6, label),
	)
}

// ip4 reads a header of IPv4. In the map an address is ::ffff:a.b.c.d.
func (p *assembler) ip4() {
	p.load(regTCP, stackIP, ip4Len)
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, stackIP+ip4Protocol, asm.Byte),
		asm.JNE.Imm(asm.R1, protocolTCP, "next"),
		asm.LoadMem(asm.R1, asm.RFP, stackIP+ip4Fragment, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x3fff), // more fragments follow, or it is not the first
		asm.JNE.Imm(asm.R1, 0, "next"),
		asm.LoadMem(regHops, asm.RFP, stackIP+ip4TTL, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, stackIP, asm.Byte),
		asm.And.Imm(asm.R1, 0x0f),
		asm.LSh.Imm(asm.R1, 2),
		asm.Add.Reg(regTCP, asm.R1),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackKey, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey+8, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, 0xffff),
		asm.StoreMem(asm.RFP, stackKey+10, asm.R1, asm.Half),
	)
	p.move(stackIP+ip4Target, stackKey+12, asm.Word)
	p.move(stackIP+ip4Source, stackTuple, asm.Word)
	p.move(stackIP+ip4Target, stackTuple+4, asm.Word)
}

// ip6 reads a header of IPv6. Clients send no extension headers with TCP.
func (p *assembler) ip6() {
	p.load(regTCP, stackIP, ip6Len)
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, stackIP+ip6Next, asm.Byte),
		asm.JNE.Imm(asm.R1, protocolTCP, "next"),
		asm.LoadMem(regHops, asm.RFP, stackIP+ip6Hops, asm.Byte),
		asm.Add.Imm(regTCP, ip6Len),
	)
	for n := int16(0); n < 16; n += 4 {
		p.move(stackIP+ip6Target+n, stackKey+n, asm.Word)
		p.move(stackIP+ip6Source+n, stackTuple+n, asm.Word)
		p.move(stackIP+ip6Target+n, stackTuple+16+n, asm.Word)
	}
}

// find looks the address up, and goes on with packets that may be forwarded.
func (p *assembler) find(ways *ebpf.Map, virtual bool) {
	p.add(asm.LoadMapPtr(asm.R1, ways.FD()))
	p.stack(asm.R2, stackKey)
	p.add(
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
		asm.Mov.Reg(regWay, asm.R0),
	)
	p.load(regTCP, stackTCP, tcpLen)
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, stackTCP+tcpFlags, asm.Byte),
		asm.And.Imm(asm.R1, tcpSYN),
	)
	if virtual {
		p.add(asm.JNE.Imm(asm.R1, 0, "next"))
	} else {
		p.add(
			asm.JEq.Imm(asm.R1, 0, "established"),
			asm.LoadMem(asm.R1, regWay, wayNew, asm.Half),
			asm.JEq.Imm(asm.R1, 0, "next"),
			asm.Ja.Label("take"),
		)
		p.label("established")
		p.untilOver("take")
		p.add(asm.JLE.Imm(regHops, hopsLast, "take"))
	}
	p.add(
		asm.LoadMem(asm.R1, regWay, wayAll, asm.Half),
		asm.JNE.Imm(asm.R1, 0, "forward"),
	)
}

// untilOver jumps when nothing is forwarded for the address now.
func (p *assembler) untilOver(label string) {
	p.add(
		asm.LoadMem(asm.R1, regWay, wayUntil, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, label),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, regWay, wayUntil, asm.DWord),
		asm.JGE.Reg(asm.R0, asm.R1, label),
	)
}

// ownConnection takes packets of connections that this node's own sockets know.
func (p *assembler) ownConnection() {
	p.ifIP6(asm.R1, "ports6")
	p.move(stackTCP, stackTuple+8, asm.Word) // both ports
	p.add(asm.Mov.Imm(asm.R3, 12), asm.Ja.Label("lookup"))
	p.label("ports6")
	p.move(stackTCP, stackTuple+32, asm.Word)
	p.add(asm.Mov.Imm(asm.R3, 36))
	p.label("lookup")
	p.add(asm.Mov.Reg(asm.R1, regPacket))
	p.stack(asm.R2, stackTuple)
	p.add(
		asm.Mov.Imm(asm.R4, -1), // BPF_F_CURRENT_NETNS
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkcLookupTcp.Call(),
		asm.JEq.Imm(asm.R0, 0, "forward"),
		asm.Mov.Reg(regSocket, asm.R0),
		asm.LoadMem(asm.R1, regSocket, sockState, asm.Word),
		asm.JEq.Imm(asm.R1, stateListen, "listener"),
		asm.JNE.Imm(asm.R1, stateTimeWait, "own"),
		asm.JLE.Imm(regHops, hopsFirst, "own"), // the other node has no connection
		asm.Ja.Label("other"),
	)
	p.label("listener")
	// Under a flood of SYNs it knows a client by its cookie only.
	p.add(asm.Mov.Imm(asm.R3, ip6Len))
	p.ifIP6(asm.R4, "cookie")
	p.add(asm.Mov.Imm(asm.R3, ip4Len))
	p.label("cookie")
	p.add(asm.Mov.Reg(asm.R1, regSocket))
	p.stack(asm.R2, stackIP)
	p.stack(asm.R4, stackTCP)
	p.add(
		asm.Mov.Imm(asm.R5, tcpLen),
		asm.FnTcpCheckSyncookie.Call(),
		asm.JEq.Imm(asm.R0, 0, "own"),
	)
	p.label("other")
	p.add(asm.Mov.Reg(asm.R1, regSocket), asm.FnSkRelease.Call())
}

// forward sends the packet to the previous holder.
func (p *assembler) forward() {
	p.add(
		asm.Mov.Imm(asm.R1, hopsLast),
		asm.JLE.Imm(regHops, hopsFirst, "hops"),
		asm.Mov.Imm(asm.R1, hopsFirst),
	)
	p.label("hops")
	p.add(asm.StoreMem(asm.RFP, stackNew, asm.R1, asm.Byte))
	p.ifIP6(asm.R1, "hops6")
	p.move(stackIP+ip4TTL, stackOld, asm.Half)
	p.move(stackIP+ip4Protocol, stackNew+1, asm.Byte)
	p.add(
		asm.Mov.Reg(asm.R1, regPacket),
		asm.Mov.Imm(asm.R2, etherLen+ip4Checksum),
		asm.LoadMem(asm.R3, asm.RFP, stackOld, asm.Half),
		asm.LoadMem(asm.R4, asm.RFP, stackNew, asm.Half),
		asm.Mov.Imm(asm.R5, 2),
		asm.FnL3CsumReplace.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.Mov.Imm(asm.R2, etherLen+ip4TTL),
		asm.Ja.Label("write"),
	)
	p.label("hops6")
	p.add(asm.Mov.Imm(asm.R2, etherLen+ip6Hops))
	p.label("write")
	p.stack(asm.R3, stackNew)
	p.write(1)
	p.add(
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, regWay),
		asm.Add.Imm(asm.R3, wayEther),
	)
	p.write(wayLen - wayEther)
	p.add(
		asm.LoadMem(asm.R1, regPacket, skbInterface, asm.Word),
		asm.Mov.Imm(asm.R2, 0), // out, not in
		asm.FnRedirect.Call(),
		asm.Return(),
	)
}

// write puts bytes, to which R3 points, into the packet at R2.
func (p *assembler) write(length int32) {
	p.add(
		asm.Mov.Reg(asm.R1, regPacket),
		asm.Mov.Imm(asm.R4, length),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
	)
}

// verdicts end the program.
func (p *assembler) verdicts() {
	p.label("own")
	p.add(asm.Mov.Reg(asm.R1, regSocket), asm.FnSkRelease.Call())
	p.label("take")
	p.add(asm.Mov.Imm(asm.R1, Mark), asm.StoreMem(regPacket, skbMark, asm.R1, asm.Word))
	p.label("next")
	p.add(asm.Mov.Imm(asm.R0, verdictNext), asm.Return())
}

// compile has the kernel check the program and keep it.
func compile(ways *ebpf.Map, virtual bool) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "tandem_handover",
		Type:         ebpf.SchedCLS,
		Instructions: program(ways, virtual),
		License:      "GPL", // functions of the kernel ask for one it knows
	})
	if err != nil {
		return nil, fmt.Errorf("forwarding program: %w", err)
	}
	return p, nil
}
