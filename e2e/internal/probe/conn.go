package probe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/web"
)

// Phase is how far a failed attempt came.
type Phase string

// The phases of an attempt.
const (
	Connect Phase = "connect" // the connection was not made
	Send    Phase = "send"    // the request could not be written
	Answer  Phase = "answer"  // no answer began
	Body    Phase = "body"    // an answer broke off
	Content Phase = "content" // an answer came that is not the right one
)

// phaseError says how far an attempt came.
type phaseError struct {
	phase Phase
	err   error
}

func (e *phaseError) Error() string { return string(e.phase) + ": " + e.err.Error() }
func (e *phaseError) Unwrap() error { return e.err }

func failed(phase Phase, err error) error { return &phaseError{phase, err} }

// connection is one TCP connection that speaks HTTP/1.1.
type connection struct {
	net.Conn
	target string
	reader *bufio.Reader
}

// dial connects within the deadline.
func dial(ctx context.Context, target string, deadline time.Time) (*connection, error) {
	dialer := net.Dialer{Deadline: deadline, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, failed(Connect, err)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close()
		return nil, failed(Connect, err)
	}
	return &connection{Conn: conn, target: target, reader: bufio.NewReader(conn)}, nil
}

// request is one HTTP request.
type request struct {
	method, path string
	body         []byte
	close        bool // ask the server to close after the answer
}

// text returns the request as it goes over the wire.
func (r request) text(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.path, host)
	if r.close {
		b.WriteString("Connection: close\r\n")
	}
	if r.method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n")
	b.Write(r.body)
	return b.Bytes()
}

// reply is one complete answer with status 200.
type reply struct {
	server  string
	body    []byte
	closing bool // the server said that it closes the connection
}

// exchange sends one request and reads the whole answer before the deadline.
func (c *connection) exchange(req request, deadline time.Time) (reply, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return reply{}, failed(Send, err)
	}
	if _, err := c.Write(req.text(c.target)); err != nil {
		return reply{}, failed(Send, err)
	}
	resp, err := http.ReadResponse(c.reader, &http.Request{Method: req.method})
	if err != nil {
		return reply{}, failed(Answer, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, failed(Body, err)
	}
	if resp.StatusCode != http.StatusOK {
		return reply{}, failed(Content, fmt.Errorf("status %s", resp.Status))
	}
	return reply{server: resp.Header.Get(web.ServerHeader), body: body, closing: resp.Close}, nil
}

// verify checks that an answer is the one to the request.
func (r reply) verify(req request) error {
	switch {
	case r.server == "":
		return failed(Content, fmt.Errorf("header %s missing: not answered by a lab's web server", web.ServerHeader))
	case req.method == http.MethodPost && !bytes.Equal(r.body, req.body):
		return failed(Content, fmt.Errorf("echo of %d bytes differs from the %d sent", len(r.body), len(req.body)))
	case req.method == http.MethodGet && !strings.Contains(string(r.body), "\nServer: "+r.server+"\n"):
		return failed(Content, fmt.Errorf("body has no line \"Server: %s\"", r.server))
	}
	return nil
}
