package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// asker asks the kernel about interfaces and neighbours (rtnetlink(7)). Whoever forwards
// does so twice a second, and the library lets 64 KiB go for each answer. It is not
// for concurrent use.
type asker struct {
	fd     int
	buffer [8 << 10]byte // for an interface with all that is said of it
}

func newAsker() (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return &asker{fd: fd}, nil
}

func (a *asker) close() { _ = unix.Close(a.fd) }

// attribute is one of a message.
type attribute struct {
	kind  uint16
	value []byte
}

// ask returns the answer of the kernel, without its header, which is valid until the next
// question; nothing where it only says that it has done something.
func (a *asker) ask(kind, flags uint16, body []byte, attributes ...attribute) (answer []byte, err error) {
	m := binary.NativeEndian.AppendUint32(a.buffer[:0], 0) // its length, which is not known yet
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, flags|unix.NLM_F_REQUEST)
	m = append(m, make([]byte, 8)...) // number and sender: there is one question at a time
	m = append(m, body...)
	for _, one := range attributes {
		m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofRtAttr+len(one.value)))
		m = binary.NativeEndian.AppendUint16(m, one.kind)
		m = append(m, one.value...)
		m = append(m, make([]byte, -len(m)&3)...)
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	if err := unix.Sendto(a.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	n, _, err := unix.Recvfrom(a.fd, a.buffer[:], unix.MSG_TRUNC) // it has answered by now
	if err == nil && (n < unix.SizeofNlMsghdr+4 || n > len(a.buffer)) {
		err = unix.EMSGSIZE
	}
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	answer = a.buffer[unix.SizeofNlMsghdr:n]
	if binary.NativeEndian.Uint16(a.buffer[4:]) != unix.NLMSG_ERROR {
		return answer, nil
	}
	if code := int32(binary.NativeEndian.Uint32(answer)); code != 0 {
		return nil, unix.Errno(-code)
	}
	return nil, nil
}

// find returns an attribute of an answer whose own part has a length; nil: there is none.
func find(answer []byte, own int, kind uint16) []byte {
	for rest := answer[min(own, len(answer)):]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			return nil
		}
		if binary.NativeEndian.Uint16(rest[2:]) == kind {
			return rest[unix.SizeofRtAttr:length]
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return nil
}

// link returns the index of an interface, and its link-layer address.
func (a *asker) link(name string) (index uint32, mac net.HardwareAddr, err error) {
	const withoutCounts = 8 // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h
	answer, err := a.ask(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg),
		attribute{unix.IFLA_IFNAME, append([]byte(name), 0)},
		attribute{unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, withoutCounts)})
	if err == nil && len(answer) < unix.SizeofIfInfomsg {
		err = unix.EMSGSIZE
	}
	if err != nil {
		return 0, nil, err
	}
	mac = append(mac, find(answer, unix.SizeofIfInfomsg, unix.IFLA_ADDRESS)...)
	return binary.NativeEndian.Uint32(answer[4:]), mac, nil
}

// neighbor is what the kernel knows of an address.
type neighbor struct {
	state uint16 // NUD_NONE, 0: nothing
	mac   net.HardwareAddr
}

// about is a message's own part that is about neighbours.
func about(family int, link uint32, state uint16, flags byte) []byte {
	body := append([]byte{byte(family)}, 0, 0, 0)
	body = binary.NativeEndian.AppendUint32(body, link)
	body = binary.NativeEndian.AppendUint16(body, state)
	return append(body, flags, 0)
}

func (a *asker) neighbor(family int, link uint32, address []byte) (known neighbor, err error) {
	answer, err := a.ask(unix.RTM_GETNEIGH, 0, about(family, link, 0, 0), attribute{unix.NDA_DST, address})
	if errors.Is(err, unix.ENOENT) {
		return known, nil
	}
	if err == nil && len(answer) < unix.SizeofNdMsg {
		err = unix.EMSGSIZE
	}
	if err != nil {
		return known, err
	}
	known.state = binary.NativeEndian.Uint16(answer[8:])
	known.mac = append(known.mac, find(answer, unix.SizeofNdMsg, unix.NDA_LLADDR)...)
	return known, nil
}

// probe has the kernel ask for an address, whatever it knows of it.
func (a *asker) probe(family int, link uint32, address []byte) error {
	known, err := a.neighbor(family, link, address)
	if err != nil || known.state&unix.NUD_PERMANENT != 0 {
		return err
	}
	state, flags, attributes := uint16(0), byte(unix.NTF_USE), []attribute{{unix.NDA_DST, address}}
	if len(known.mac) == 6 && known.state&unix.NUD_FAILED == 0 {
		state, flags = unix.NUD_PROBE, 0
		attributes = append(attributes, attribute{unix.NDA_LLADDR, known.mac})
	}
	const set = unix.NLM_F_CREATE | unix.NLM_F_REPLACE | unix.NLM_F_ACK
	_, err = a.ask(unix.RTM_NEWNEIGH, set, about(family, link, state, flags), attributes...)
	return err
}
