package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/tandem-lb/tandem/e2e/internal/web"
)

func TestHandler(t *testing.T) {
	server := httptest.NewServer(web.Handler("web2"))
	defer server.Close()
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"page", "GET", "/", "", 200, "Hello from the lab\nServer: web2\n"},
		{"health", "GET", "/health", "", 200, "ok\n"},
		{"slow", "GET", "/slow?ms=10", "", 200, "Hello from the lab\nServer: web2\n"},
		{"slow too long", "GET", "/slow?ms=3600000", "", 400, "ms: want 0 to 60000\n"},
		{"echo", "POST", "/", "some text", 200, "some text"},
		{"slow echo", "POST", "/slow?ms=5", "more", 200, "more"},
		{"echo too long", "POST", "/", strings.Repeat("x", 2<<20), 400, "http: request body too large\n"},
		{"download", "GET", "/download?bytes=25&ms=30", "", 200, strings.Repeat("\x00", 25)},
		{"download without size", "GET", "/download", "", 400, "bytes: want 0 to 1073741824\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), test.method, server.URL+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status || string(body) != test.want {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, body, test.status, test.want)
			}
			if got := resp.Header.Get(web.ServerHeader); got != "web2" {
				t.Errorf("%s: got %q, want web2", web.ServerHeader, got)
			}
		})
	}
}

func TestWebSocketEcho(t *testing.T) {
	server := httptest.NewServer(web.Handler("web3"))
	defer server.Close()
	conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer resp.Body.Close()
	if got := resp.Header.Get(web.ServerHeader); got != "web3" {
		t.Errorf("%s: got %q, want web3", web.ServerHeader, got)
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, echo, err := conn.ReadMessage()
	if err != nil || string(echo) != "hello" {
		t.Errorf("echo: got %q, %v", echo, err)
	}
}
