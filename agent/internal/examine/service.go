package examine

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// binds looks whether there is a socket for each bind. A connection to a VIP would
// be answered by its holder, so the kernel's table is asked.
func (e *examination) binds() {
	sockets, err := listening()
	e.fail("the sockets that listen", err)
	if err != nil {
		return
	}
	for _, f := range e.proxy.GetFrontends() {
		for _, b := range f.GetBinds() {
			facts := &agentv1.BindFacts{Frontend: f.GetName(), Address: b.GetAddress(), Port: b.GetPort(), Listens: true}
			for port := b.GetPort(); facts.GetListens() && port <= max(b.GetPort(), b.GetPortEnd()); port++ {
				facts.Port, facts.Listens = port, sockets.serve(b.GetAddress(), uint16(port))
			}
			e.found.Binds = append(e.found.Binds, facts)
		}
	}
}

// sockets are TCP addresses that accept connections.
type sockets map[netip.AddrPort]bool

// serve tells whether connections to an address are accepted; empty: to any.
func (s sockets) serve(address string, port uint16) bool {
	if s[netip.AddrPortFrom(netip.IPv4Unspecified(), port)] || s[netip.AddrPortFrom(netip.IPv6Unspecified(), port)] {
		return true
	}
	a, err := netip.ParseAddr(address)
	return err == nil && s[netip.AddrPortFrom(a, port)]
}

// tables are where the kernel tells of TCP sockets.
var tables = []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}

func listening() (sockets, error) {
	found := make(sockets)
	for _, name := range tables {
		table, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(table)) {
			// sl local remote st …; 0A is LISTEN.
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
				if at, ok := parseSocket(f[1]); ok {
					found[at] = true
				}
			}
		}
	}
	return found, nil
}

// parseSocket parses an address as the kernel prints it: words of 32 bits in the
// machine's order, which is the lowest byte first wherever this runs, and the port.
func parseSocket(text string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), ok
}

const (
	// maxServers are asked by the agent itself, and atOnce of them at a time.
	maxServers = 256
	atOnce     = 32
	// connecting is how long one may take.
	connecting = time.Second
)

// servers asks those that HAProxy here does not.
func (e *examination) servers(ctx context.Context) {
	checked := e.checked()
	var all []*haproxyv1.Server
	for _, b := range e.proxy.GetBackends() {
		for _, s := range b.GetServers() {
			if !s.GetMaintenance() && !checked[s.GetBackend()+"/"+s.GetName()] {
				all = append(all, s)
			}
		}
	}
	all = all[:min(len(all), maxServers)]
	facts := make([]*agentv1.ServerFacts, len(all))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for n, s := range all {
		group.Go(func() error {
			facts[n] = &agentv1.ServerFacts{Pool: s.GetBackend(), Backend: s.GetName(), Error: connect(ctx, s)}
			return nil
		})
	}
	_ = group.Wait() // none fails
	e.found.Servers = facts
}

// checked are the servers that the HAProxy that runs tells the health of, as
// "backend/server".
func (e *examination) checked() map[string]bool {
	state := e.State()
	known := make(map[string]bool)
	if state.GetHaproxy().GetState() != agentv1.DaemonState_DAEMON_STATE_RUNNING {
		return known
	}
	for _, b := range state.GetBackends() {
		known[b.GetPool()+"/"+b.GetBackend()] = b.GetState() != agentv1.ServerState_SERVER_STATE_NO_CHECK &&
			b.GetState() != agentv1.ServerState_SERVER_STATE_UNSPECIFIED
	}
	return known
}

// connect tries a connection and says why there was none.
func connect(ctx context.Context, s *haproxyv1.Server) string {
	dialer := net.Dialer{Timeout: connecting}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(s.GetPort()))))
	if err != nil {
		return err.Error()
	}
	_ = conn.Close() // nothing was said
	return ""
}
