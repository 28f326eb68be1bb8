package scenarios

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/web"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// faultClient asks a VIP again and again from a host, and remembers how its last
// attempt ended.
type faultClient struct {
	name   string
	host   *lab.Host
	target netip.AddrPort
	// fresh forgets before each attempt where the VIP was.
	fresh bool
	// keep holds on to a connection for as long as it answers.
	keep bool

	conn   net.Conn
	reader *bufio.Reader

	mu      sync.Mutex
	begun   time.Time // the last attempt that has ended
	err     error
	outages []interval // from a failed attempt to the next one that did not
}

const (
	// faultAttempt bounds an attempt.
	faultAttempt = time.Second
	// faultPause is the time between two attempts, short enough to keep an ARP
	// entry warm.
	faultPause = 100 * time.Millisecond
)

// startFaultClients starts the three kinds of clients of each address. They end
// with the test.
func (s *site) startFaultClients(ctx context.Context, t *testing.T, vips ...netip.Addr) []*faultClient {
	t.Helper()
	var clients []*faultClient
	for _, vip := range vips {
		target := netip.AddrPortFrom(vip, 80)
		warm, fresh := s.Lab.Host("client"), s.Lab.Host("client2")
		clients = append(clients,
			&faultClient{name: "fresh client of " + vip.String(), host: fresh, target: target, fresh: true},
			&faultClient{name: "client of " + vip.String() + " with a warm ARP entry", host: warm, target: target},
			&faultClient{name: "client of " + vip.String() + " with a long connection", host: warm, target: target, keep: true},
		)
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, c := range clients {
		running.Go(func() { c.run(ctx) })
	}
	t.Cleanup(func() { stop(); running.Wait() })
	return clients
}

// run makes attempts until the context ends.
func (c *faultClient) run(ctx context.Context) {
	defer c.close()
	for wait(ctx, faultPause) {
		begun := time.Now()
		err := c.attempt(ctx, begun.Add(faultAttempt))
		c.note(begun, err)
	}
}

func (c *faultClient) note(begun time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		c.outages[len(c.outages)-1].to = begun
	case err != nil:
		c.outages = append(c.outages, interval{begun, begun, fmt.Sprintf("%s: %v", c.name, err)})
	}
	c.begun, c.err = begun, err
}

// reached tells what keeps the client from the VIP since a time.
func (c *faultClient) reached(since time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.begun.Before(since):
		return fmt.Errorf("%s has not asked since", c.name)
	case c.err != nil:
		return fmt.Errorf("%s: %w", c.name, c.err)
	}
	return nil
}

func (c *faultClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *faultClient) attempt(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if c.fresh {
		if _, err := c.host.Output(ctx, "ip", "neighbour", "flush", "to", c.target.Addr().String()); err != nil {
			return err
		}
	}
	if c.conn == nil {
		conn, err := c.host.Dial(ctx, "tcp", c.target.String())
		if err != nil {
			return err
		}
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	err := c.ask(deadline)
	if err != nil || !c.keep {
		c.close()
	}
	return err
}

// ask makes one request on the connection.
func (c *faultClient) ask(deadline time.Time) error {
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", c.target.Addr()); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	switch {
	case answer.StatusCode != http.StatusOK || answer.Header.Get(web.ServerHeader) == "":
		return fmt.Errorf("answer %s by %q, want 200 by a web server", answer.Status, answer.Header.Get(web.ServerHeader))
	case answer.Close && c.keep:
		c.close() // as was announced
	}
	return nil
}

// reachedBy tells what keeps any of the clients from its VIP since a time.
func reachedBy(clients []*faultClient, since time.Time) error {
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.reached(since))
	}
	return errors.Join(errs...)
}
