package probe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tandem-lb/tandem/e2e/internal/web"
)

// postBody is what POST requests carry: more than one packet's worth, so that
// a request can break in the middle.
var postBody = bytes.Repeat([]byte("0123456789abcdef"), 256)

// downloadBytes is the size of a download.
const downloadBytes = 256 << 10

func slowPath(hold time.Duration) string { return fmt.Sprintf("/slow?ms=%d", hold.Milliseconds()) }

// once makes one request on a connection of its own.
func once(ctx context.Context, cfg Config) result {
	r := result{kind: New, start: time.Now()}
	req := request{method: http.MethodGet, path: "/", close: true}
	r.server, r.err = single(ctx, cfg, req, r.start.Add(cfg.Timeout), func(rep reply) error { return rep.verify(req) })
	r.end = time.Now()
	return r
}

// single makes one request on a connection of its own and checks the answer.
func single(ctx context.Context, cfg Config, req request, deadline time.Time, verify func(reply) error) (string, error) {
	conn, err := dial(ctx, cfg.Target, deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	rep, err := conn.exchange(req, deadline)
	if err != nil {
		return "", err
	}
	if err := verify(rep); err != nil {
		return "", err
	}
	// The server closes first and so keeps the TIME_WAIT; many runs would use
	// up the client's ports. The answer is complete: nothing depends on it.
	_, _ = io.Copy(io.Discard, conn)
	return rep.server, nil
}

// keepAlive alternates GET and POST on one connection.
type keepAlive struct {
	cfg       Config
	get, post Kind
	path      string
	hold      time.Duration // how long the server takes on purpose

	conn *connection
	odd  bool
}

func (k *keepAlive) attempt(ctx context.Context) result {
	req := request{method: http.MethodGet, path: k.path}
	r := result{kind: k.get, start: time.Now()}
	if k.odd {
		req.method, req.body = http.MethodPost, postBody
		r.kind = k.post
	}
	k.odd = !k.odd
	r.server, r.err = k.exchange(ctx, req, r.start.Add(k.cfg.Timeout+k.hold))
	r.end = time.Now()
	if r.err != nil {
		k.close()
	}
	return r
}

func (k *keepAlive) exchange(ctx context.Context, req request, deadline time.Time) (string, error) {
	if k.conn == nil {
		conn, err := dial(ctx, k.cfg.Target, deadline)
		if err != nil {
			return "", err
		}
		k.conn = conn
	}
	rep, err := k.conn.exchange(req, deadline)
	if err != nil {
		return "", err
	}
	if rep.closing {
		k.close()
	}
	return rep.server, rep.verify(req)
}

func (k *keepAlive) close() {
	if k.conn != nil {
		_ = k.conn.Close()
		k.conn = nil
	}
}

// downloader downloads, each time on a connection of its own.
type downloader struct{ cfg Config }

func (d *downloader) attempt(ctx context.Context) result {
	r := result{kind: Download, start: time.Now()}
	path := fmt.Sprintf("/download?bytes=%d&ms=%d", downloadBytes, d.cfg.Hold.Milliseconds())
	req := request{method: http.MethodGet, path: path, close: true}
	deadline := r.start.Add(d.cfg.Timeout + d.cfg.Hold)
	r.server, r.err = single(ctx, d.cfg, req, deadline, func(rep reply) error {
		if len(rep.body) != downloadBytes {
			return failed(Content, fmt.Errorf("got %d bytes, want %d", len(rep.body), downloadBytes))
		}
		return nil
	})
	r.end = time.Now()
	return r
}

func (d *downloader) close() {}

// socket sends messages over one WebSocket and waits for each echo.
type socket struct {
	cfg    Config
	conn   *websocket.Conn
	server string
	sent   int
}

func (s *socket) attempt(ctx context.Context) result {
	r := result{kind: WebSocket, start: time.Now()}
	r.err = s.exchange(ctx, r.start.Add(s.cfg.Timeout))
	r.server, r.end = s.server, time.Now()
	if r.err != nil {
		s.close()
	}
	return r
}

func (s *socket) exchange(ctx context.Context, deadline time.Time) error {
	if s.conn == nil {
		if err := s.dial(ctx, deadline); err != nil {
			return err
		}
	}
	s.sent++
	message := fmt.Sprintf("message %d", s.sent)
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return failed(Send, err)
	}
	if err := s.conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		return failed(Send, err)
	}
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return failed(Answer, err)
	}
	_, echo, err := s.conn.ReadMessage()
	if err != nil {
		return failed(Answer, err)
	}
	if string(echo) != message {
		return failed(Content, fmt.Errorf("echo %q, want %q", echo, message))
	}
	return nil
}

func (s *socket) dial(ctx context.Context, deadline time.Time) error {
	conn, err := dial(ctx, s.cfg.Target, deadline)
	if err != nil {
		return err
	}
	// The handshake runs on the connection made here: one attempt.
	handshake := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return conn.Conn, nil }}
	ws, resp, err := handshake.DialContext(ctx, (&url.URL{Scheme: "ws", Host: s.cfg.Target, Path: "/"}).String(), nil)
	if err != nil {
		_ = conn.Close()
		return failed(Answer, err)
	}
	_ = resp.Body.Close()
	s.conn, s.server = ws, resp.Header.Get(web.ServerHeader)
	return nil
}

func (s *socket) close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}
