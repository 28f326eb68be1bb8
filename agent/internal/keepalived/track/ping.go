package track

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// askPing sends an ICMP echo request (RFC 792; RFC 4443, section 4) and waits for its
// reply.
func askPing(ctx context.Context, s Spec) error {
	address, err := netip.ParseAddr(s.Target)
	if err != nil {
		return err
	}
	if address.Is6() && address.IsLinkLocalUnicast() {
		address = address.WithZone(s.Interface)
	}
	e := newEcho(address.Is6())
	// A raw socket gets what the peer sends to anybody on this machine, so the reply is
	// known by what the request held.
	conn, err := new(net.Dialer).DialContext(ctx, e.network, address.String())
	if err != nil {
		return plain(err)
	}
	defer conn.Close()
	due, _ := ctx.Deadline()
	if err := conn.SetDeadline(due); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request, err := e.request()
	if err == nil {
		_, err = conn.Write(request)
	}
	buffer := make([]byte, 1500)
	for err == nil {
		var n int
		if n, _, err = conn.(*net.IPConn).ReadFromIP(buffer); err == nil && e.isReply(buffer[:n]) {
			return nil
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer within %v", s.Timeout)
	}
	return plain(err)
}

// echo is one request and what its reply looks like.
type echo struct {
	network  string // of the net package
	ask, say icmp.Type
	protocol int // IANA's number
	body     icmp.Echo
}

func newEcho(six bool) *echo {
	e := &echo{network: "ip4:icmp", ask: ipv4.ICMPTypeEcho, say: ipv4.ICMPTypeEchoReply, protocol: 1}
	if six {
		e = &echo{network: "ip6:ipv6-icmp", ask: ipv6.ICMPTypeEchoRequest, say: ipv6.ICMPTypeEchoReply, protocol: 58}
	}
	text := rand.Text()
	e.body = icmp.Echo{ID: int(text[0])<<8 | int(text[1]), Seq: 1, Data: []byte(text)}
	return e
}

// request is the packet; the kernel fills in the checksum of ICMPv6 (RFC 3542, 3.1).
func (e *echo) request() ([]byte, error) {
	return (&icmp.Message{Type: e.ask, Body: &e.body}).Marshal(nil)
}

func (e *echo) isReply(packet []byte) bool {
	m, err := icmp.ParseMessage(e.protocol, packet)
	if err != nil || m.Type != e.say {
		return false
	}
	body, ok := m.Body.(*icmp.Echo)
	return ok && body.ID == e.body.ID && bytes.Equal(body.Data, e.body.Data)
}
