package state

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestBcryptIsReadByHAProxy logs in to the real HAProxy with a hash of ours.
func TestBcryptIsReadByHAProxy(t *testing.T) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	hash, err := Bcrypt{}.Hash("password123")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "s"), filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(`defaults
	mode http
	timeout client 5s
userlist stats
	user admin password %s
frontend f
	bind unix@%s
	http-request auth unless { http_auth(stats) }
	http-request return status 200
`, hash, socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	proxy := exec.CommandContext(ctx, binary, "-db", "-f", config)
	proxy.Stderr = os.Stderr
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = proxy.Wait() }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialWhenThere(ctx, socket) }}}
	for password, want := range map[string]int{"password123": 200, "password124": 401, "": 401} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://haproxy/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", password)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("password %q: status %d, want %d", password, res.StatusCode, want)
		}
	}
}

// dialWhenThere dials a socket as soon as somebody listens on it.
func dialWhenThere(ctx context.Context, path string) (net.Conn, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}
