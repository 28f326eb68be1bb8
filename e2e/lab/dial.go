package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from the host to a literal address and port, for a client of
// this process. The connection stays in the host's network.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	// A name would be looked up by goroutines that are not in the host.
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: want a literal address and port: %w", h.Name, err)
	}
	if h.Plain() {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends with the attempt, which ctx bounds
		// Never unlocked: the thread ends with the goroutine, so that nothing
		// else ever runs in the host.
		runtime.LockOSThread()
		conn, err := dialIn(ctx, h.machine.netns, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialIn moves the calling thread into a network namespace and connects. With
// one literal address the dialer makes its socket on that same thread.
func dialIn(ctx context.Context, netns, network, address string) (net.Conn, error) {
	ns, err := os.Open(filepath.Join("/run/netns", netns))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", netns, err)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
