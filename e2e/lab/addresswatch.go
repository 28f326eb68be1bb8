package lab

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AddressChange is a moment at which a host got or lost an address.
type AddressChange struct {
	At      time.Time
	Host    string
	Address netip.Addr
	Held    bool // from then on
}

func (c AddressChange) String() string {
	verb := "lost"
	if c.Held {
		verb = "got"
	}
	return fmt.Sprintf("%s %s %s %s", c.At.Format("15:04:05.000"), c.Host, verb, c.Address)
}

// AddressWatch records who holds some addresses, by the word of the hosts'
// kernels (rtnetlink(7)) and of nobody else.
type AddressWatch struct {
	watched []netip.Addr
	sockets []*addressSocket

	mu      sync.Mutex
	changes []AddressChange
	err     error // why a socket is read no more
}

// WatchAddresses begins to watch the addresses on these hosts. The context
// bounds the start alone. The caller must call Close, before the lab's.
func WatchAddresses(ctx context.Context, hosts []*Host, addresses ...netip.Addr) (*AddressWatch, error) {
	w := &AddressWatch{watched: addresses}
	for _, h := range hosts {
		s, err := openAddressSocket(h)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch the addresses of %s: %w", h.Name, err), w.Close())
		}
		w.sockets = append(w.sockets, s)
		go func() { defer close(s.ended); w.read(s) }() // until Close
	}
	return w, w.catchUp(ctx)
}

// Changes returns all changes until now in the order of their times; those that
// were there at the start count as got then.
func (w *AddressWatch) Changes(ctx context.Context) ([]AddressChange, error) {
	if err := w.catchUp(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := slices.Clone(w.changes)
	slices.SortStableFunc(changes, func(a, b AddressChange) int { return a.At.Compare(b.At) })
	return changes, nil
}

// Close ends the watch.
func (w *AddressWatch) Close() error {
	var errs []error
	for _, s := range w.sockets {
		errs = append(errs, s.file.Close())
		<-s.ended
	}
	w.sockets = nil
	return errors.Join(errs...)
}

// catchUp returns when all is read that happened before: the kernel answers a
// question on the same socket, behind what it has told there already.
func (w *AddressWatch) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, s := range w.sockets {
		asked, err := s.ask()
		if err != nil {
			return err
		}
		if err := Until(ctx, "the addresses of "+s.host, func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.err == nil && s.answered < asked {
				return errors.New("the kernel has not answered")
			}
			return w.err
		}); err != nil {
			return err
		}
	}
	return nil
}

// addressSocket is a netlink socket in a host's network.
type addressSocket struct {
	host  string
	file  *os.File
	asked uint32
	ended chan struct{}

	// Of the watch's lock.
	answered uint32
	held     map[netip.Addr]bool
}

func openAddressSocket(h *Host) (*addressSocket, error) {
	ns, err := os.Open(filepath.Join("/run/netns", h.Netns()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked, like that of Dial.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	s := &addressSocket{host: h.Name, file: os.NewFile(uintptr(r.fd), "netlink"), ended: make(chan struct{}), held: map[netip.Addr]bool{}}
	groups := uint32(1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
	if err := unix.Bind(r.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// ask has the kernel tell all addresses, and returns the question's number.
func (s *addressSocket) ask() (uint32, error) {
	s.asked++
	request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(request[8:], s.asked)
	_, err := s.file.Write(request)
	return s.asked, err
}

// read records what the kernel tells until the socket is closed.
func (w *AddressWatch) read(s *addressSocket) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := s.file.Read(buffer)
		now := time.Now()
		var messages []syscall.NetlinkMessage
		if err == nil {
			messages, err = syscall.ParseNetlinkMessage(buffer[:n])
		}
		if err != nil {
			w.mu.Lock()
			w.err = cmp.Or(w.err, fmt.Errorf("addresses of %s: %w", s.host, err))
			w.mu.Unlock()
			return
		}
		for _, m := range messages {
			w.take(s, m, now)
		}
	}
}

// take takes one message of the kernel.
func (w *AddressWatch) take(s *addressSocket, m syscall.NetlinkMessage, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Header.Type {
	case unix.NLMSG_DONE:
		s.answered = m.Header.Seq
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		address, ok := addressOf(m)
		held := m.Header.Type == unix.RTM_NEWADDR
		if !ok || !slices.Contains(w.watched, address) || s.held[address] == held {
			return
		}
		s.held[address] = held
		w.changes = append(w.changes, AddressChange{At: now, Host: s.host, Address: address, Held: held})
	}
}

// addressOf returns the address that a message is about.
func addressOf(m syscall.NetlinkMessage) (netip.Addr, bool) {
	attributes, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return netip.Addr{}, false
	}
	var address netip.Addr
	for _, a := range attributes {
		// IFA_LOCAL is what IPv4 addresses have; IFA_ADDRESS is the same or a peer's.
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !address.IsValid() {
			address, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return address, address.IsValid()
}
