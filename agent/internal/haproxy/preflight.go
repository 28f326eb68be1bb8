package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

// bindTimeout ends a HAProxy that could bind after all.
const bindTimeout = 5 * time.Second

// checkBinds tries to bind what HAProxy will bind, as HAProxy does it and
// without listening, so that no client notices. What HAProxy has bound already
// passes, because both share the port as the same user. The error is a
// *FailedError.
func (d *Driver) checkBinds(ctx context.Context, binds []config.Bind) error {
	const enough = 3
	var taken []config.Bind
	var cause error
	for _, b := range binds {
		addresses := []netip.Addr{b.Address}
		if !b.Address.IsValid() {
			addresses = []netip.Addr{netip.IPv4Unspecified()}
			if !d.env.NoIPv6 {
				addresses = append(addresses, netip.IPv6Unspecified())
			}
		}
		for _, address := range addresses {
			for port := int(b.First); port <= int(b.Last) && len(taken) < enough; port++ {
				if err := tryBind(address, port, b.Floating); err != nil {
					one := b
					one.Address, one.First, one.Last = address, uint16(port), uint16(port)
					taken = append(taken, one)
					cause = errors.Join(cause, fmt.Errorf("%s for frontend %s: %w", netip.AddrPortFrom(address, uint16(port)), b.Frontend, err))
				}
			}
		}
	}
	if cause == nil {
		return nil
	}
	return &FailedError{What: "cannot bind", Words: d.bindWords(ctx, taken), Err: cause}
}

// bindWords lets HAProxy say what is wrong with binds that cannot work: it ends
// at once and serves nobody.
func (d *Driver) bindWords(ctx context.Context, binds []config.Bind) string {
	path := d.paths.candidate + ".binds"
	if err := writeFile(path, config.RenderBinds(binds)); err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	output, err := d.binary.run(ctx, "-db", "-f", path)
	if err == nil || ctx.Err() != nil {
		return "" // someone else let go of the address meanwhile
	}
	return strings.ReplaceAll(alerts(string(output), 0), path+":", "")
}

// tryBind binds an address and lets it go.
func tryBind(address netip.Addr, port int, floating bool) (err error) {
	var family int
	var where unix.Sockaddr
	if address.Is4() {
		family, where = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: address.As4()}
	} else {
		family, where = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: address.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	options := [][2]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_REUSEPORT}}
	if family == unix.AF_INET6 {
		options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY})
	}
	if floating {
		options = append(options, [2]int{unix.SOL_IP, unix.IP_FREEBIND})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, where)
}
