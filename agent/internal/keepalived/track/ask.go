package track

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
)

// ask asks once, until ctx is done. The error says what is wrong.
func ask(ctx context.Context, s Spec) error {
	switch s.Kind {
	case Gateway:
		return askGateway(ctx, s)
	case Ping:
		return askPing(ctx, s)
	case URL:
		return askURL(ctx, s)
	default:
		return fmt.Errorf("track of kind %d is unknown", s.Kind)
	}
}

// askURL gets the URL, on a connection of its own and without a proxy: what is to be
// known is whether this node reaches it now. A redirection is an answer.
func askURL(ctx context.Context, s Spec) error {
	client := http.Client{
		// The agent has some 30 MB, and Go would take 10 MB of headers.
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Target, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "lb-agent")
	response, err := client.Do(request)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", s.Timeout)
	case err != nil:
		return plain(err)
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode < s.Lowest || response.StatusCode > s.Highest {
		return fmt.Errorf("it answers with status %d, not %s", response.StatusCode, statuses(s))
	}
	return nil
}

func statuses(s Spec) string {
	if s.Lowest == s.Highest {
		return fmt.Sprint(s.Lowest)
	}
	return fmt.Sprintf("%d to %d", s.Lowest, s.Highest)
}

// plain leaves out what changes from question to question, such as the port that it
// came from: a reason that stays the same is no news.
func plain(err error) error {
	var operation *net.OpError
	if errors.As(err, &operation) {
		return operation.Err
	}
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// askGateway asks a gateway for its link-layer address, as a host does that is about
// to send a packet by way of it; but the question claims no address, and so changes no
// cache.
func askGateway(ctx context.Context, s Spec) error {
	on, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", s.Interface, err)
	}
	const needed = net.FlagUp | net.FlagRunning
	switch {
	case on.Flags&needed != needed:
		return fmt.Errorf("interface %s is down", s.Interface)
	case on.Flags&net.FlagBroadcast == 0 || len(on.HardwareAddr) != len(link.MAC{}):
		return fmt.Errorf("interface %s is no Ethernet, so nobody can be asked by ARP or the like there: track the far end by ping", s.Interface)
	}
	gateway, err := netip.ParseAddr(s.Target)
	if s.Target == "" {
		gateway, err = defaultGateway(on, s.Six)
	}
	if err != nil {
		return err
	}
	own, err := link.Own()
	if err != nil {
		return err
	}
	q := question{on: on, address: gateway, own: own}
	if err := q.open(); err != nil {
		return err
	}
	defer q.close()
	err = q.ask(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s does not answer on %s", gateway, s.Interface)
	}
	return err
}

// defaultGateway is where an interface's default route leads.
func defaultGateway(on *net.Interface, six bool) (netip.Addr, error) {
	family, word := netlink.FAMILY_V4, "IPv4"
	if six {
		family, word = netlink.FAMILY_V6, "IPv6"
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: on.Index, Dst: nil}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("routes of %s: %w", on.Name, err)
	}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Gw); ok {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no default route for %s: name the gateway's address", on.Name, word)
}

// question for one neighbour's link-layer address.
type question struct {
	on      *net.Interface
	address netip.Addr
	own     map[link.MAC]bool
	socket  *link.Socket
}

func (q *question) open() (err error) {
	if q.address.Is4() {
		q.socket, err = link.Open(q.on.Index, unix.ETH_P_ARP, link.About([]netip.Addr{q.address}))
	} else {
		q.socket, err = link.Open(q.on.Index, unix.ETH_P_IPV6, link.Only(link.Protocol6, unix.IPPROTO_ICMPV6), link.AllNodes)
	}
	return err
}

func (q *question) close() { _ = q.socket.Close() }

// ask sends the question and waits for its answer.
func (q *question) ask(ctx context.Context) error {
	packet, to := link.ARPProbe(q.on.HardwareAddr, q.address), link.Everyone
	if !q.address.Is4() {
		_, to = link.SolicitedNode(q.address)
		packet = link.Solicitation(q.address)
	}
	if err := q.socket.Send(packet, to); err != nil && !link.Lost(err) {
		return fmt.Errorf("ask for %s on %s: %w", q.address, q.on.Name, err)
	}
	const step = 50 * time.Millisecond // for ctx
	for answered := false; !answered; {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: q.socket.FD(), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(step.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("packet socket: %w", err)
		}
		const atOnce = 100
		if _, err := q.socket.Receive(atOnce, func(p []byte, from link.MAC, _ time.Time) { answered = answered || q.answers(p, from) }); err != nil {
			return err
		}
	}
	return nil
}

// answers tells whether a packet comes from who has the address.
func (q *question) answers(p []byte, from link.MAC) bool {
	parse := link.ParseARP
	if !q.address.Is4() {
		parse = link.ParseAdvertisement
	}
	claimed, ok := parse(p)
	return ok && claimed == q.address && !q.own[from]
}
