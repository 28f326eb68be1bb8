package link

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Changes hears of every change of an interface, of its addresses by IPv4 and of the
// routes of IPv4, so that nobody has to ask for these again and again (rtnetlink(7)). It
// is not for concurrent use.
type Changes struct{ fd int }

// HearChanges begins to listen.
func HearChanges() (*Changes, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("changes of interfaces: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("changes of interfaces: %w", err), unix.Close(fd))
	}
	return &Changes{fd}, nil
}

// FD is for poll(2).
func (c *Changes) FD() int32 { return int32(c.fd) }

// Drain takes what waits, whatever it is, and does not block. An error is that of a
// listener that hears no more.
func (c *Changes) Drain() error {
	var begin [unix.SizeofNlMsghdr]byte // the kernel drops the rest of a message
	for {
		switch _, _, err := unix.Recvfrom(c.fd, begin[:], 0); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		// More has changed than the buffer holds.
		case err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("changes of interfaces: %w", err)
		}
	}
}

// Close closes it.
func (c *Changes) Close() error { return unix.Close(c.fd) }
