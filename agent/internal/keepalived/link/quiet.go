package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What a network says again and again need not wake anybody each time. The kernel lays
// packets that are alike aside: into a second socket, for which nobody waits. Both are a
// fanout group (packet(7), PACKET_FANOUT), so that a packet that is of no interest costs
// no more than with one.

// Kind is what packets have in common that are alike: all but what a sender's kernel
// counts, the identification of IPv4 and with it the checksum of the header.
type Kind string

const (
	// longestKind bounds the packets that Hush takes, in bytes.
	longestKind = 128
	// maxKinds bounds how many: each costs a packet that may be one of them some
	// instructions.
	maxKinds = 16

	idAt, checksumAt = 4, 10 // in the header of IPv4
)

// AppendKind appends the kind of a packet from somebody to b; ok: it has one.
func AppendKind(b, packet []byte, from MAC) (kind []byte, ok bool) {
	if len(packet) > longestKind {
		return b, false
	}
	b = append(b, from[:]...)
	start := len(b)
	b = append(b, packet...)
	if isIPv4(packet) {
		clear(b[start+idAt : start+idAt+2])
		clear(b[start+checksumAt : start+checksumAt+2])
	}
	return b, true
}

func isIPv4(p []byte) bool { return len(p) > checksumAt+2 && p[0]>>4 == 4 }

// sorter is a program for a fanout group: it picks the second socket for packets of those
// kinds, and the first one for all others.
func sorter(kinds []Kind) Filter {
	const macAt = -0x200000 + 6 // in the frame (socket filters' SKF_LL_OFF)
	var program Filter
	for _, kind := range kinds {
		from, p := []byte(kind[:6]), []byte(kind[6:])
		block := Filter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN}}
		var tests []int // instructions that leave the block when what is loaded differs
		test := func(value uint32) {
			tests = append(tests, len(block))
			block = append(block, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value})
		}
		compare := func(at int32, b []byte) {
			size, value := uint16(unix.BPF_B), uint32(b[0])
			switch len(b) {
			case 4:
				size, value = unix.BPF_W, binary.BigEndian.Uint32(b)
			case 2:
				size, value = unix.BPF_H, uint32(binary.BigEndian.Uint16(b))
			}
			block = append(block, unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: uint32(at)})
			test(value)
		}
		test(uint32(len(p)))
		for at := 0; at < len(p); {
			length := 4
			switch {
			case isIPv4(p) && (at == idAt || at == checksumAt):
				at += 2
				continue
			case isIPv4(p) && (at == idAt+2 || at == checksumAt-2):
				length = 2
			case at+length > len(p):
				length = 1
			}
			compare(int32(at), p[at:at+length])
			at += length
		}
		compare(macAt, from[:4])
		compare(macAt+4, from[4:])
		block = append(block, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1})
		for _, n := range tests {
			block[n].Jf = uint8(len(block) - n - 1)
		}
		program = append(program, block...)
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// ErrAllWake means that the kernel lays nothing aside: all packets wake, as before. It
// takes Linux 4.12, and a descriptor more.
var ErrAllWake = errors.New("the kernel lays no packets aside")

// Hush has packets of those kinds, of which it takes some, wake nobody who waits for the
// socket: Receive hands them over with what else has come, in order. Those of all other
// kinds, of which some may have been hushed before, wake. It fails with ErrAllWake where
// nothing has been hushed yet, and cannot be.
func (s *Socket) Hush(kinds []Kind) error {
	if s.quiet < 0 && len(kinds) == 0 {
		return nil
	}
	if s.quiet < 0 {
		if err := s.split(); err != nil {
			return fmt.Errorf("packet socket: fanout: %w: %w", ErrAllWake, err)
		}
	}
	program := sorter(kinds[:min(len(kinds), maxKinds)])
	if err := attach(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, program); err != nil {
		return fmt.Errorf("packet socket: fanout: %w", err)
	}
	return nil
}

// split makes the second socket.
func (s *Socket) split() error {
	const kind = unix.PACKET_FANOUT_CBPF
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, (kind|unix.PACKET_FANOUT_FLAG_UNIQUEID)<<16); err != nil {
		return err
	}
	group, err := unix.GetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return err
	}
	quiet, err := open()
	if err != nil {
		return err
	}
	err = s.bind(quiet)
	if err == nil {
		err = unix.SetsockoptInt(quiet, unix.SOL_PACKET, unix.PACKET_FANOUT, kind<<16|group&0xffff)
	}
	if err != nil {
		return errors.Join(err, unix.Close(quiet))
	}
	s.quiet = quiet
	return nil
}

// Aside tells that packets may wait that wake nobody.
func (s *Socket) Aside() bool { return s.quiet >= 0 }

// ReceiveAside is Receive for packets that wake nobody, when no others wait. One that wakes
// and comes meanwhile is left for the next Receive, though packets that came after it may
// have been handed over by then.
func (s *Socket) ReceiveAside(limit int, take func(packet []byte, from MAC, at time.Time)) (count int, err error) {
	return s.receive(s.quiet, limit, take)
}

// aside is a packet that waits for its turn.
type aside struct {
	from       MAC
	at         time.Time
	begin, end int // in Socket.bytes
}

// both is Receive where some packets wake nobody.
func (s *Socket) both(limit int, take func(packet []byte, from MAC, at time.Time)) (count int, err error) {
	s.bytes, s.aside = s.bytes[:0], s.aside[:0]
	// What wakes comes first: nothing that was received before it is missed then.
	for _, fd := range []int{s.fd, s.quiet} {
		n, err := s.receive(fd, limit, func(packet []byte, from MAC, at time.Time) {
			begin := len(s.bytes)
			s.bytes = append(s.bytes, packet...)
			s.aside = append(s.aside, aside{from, at, begin, len(s.bytes)})
		})
		if err != nil {
			return count, err
		}
		count += n
	}
	slices.SortStableFunc(s.aside, func(a, b aside) int { return a.at.Compare(b.at) })
	for _, a := range s.aside {
		take(s.bytes[a.begin:a.end], a.from, a.at)
	}
	return count, nil
}
