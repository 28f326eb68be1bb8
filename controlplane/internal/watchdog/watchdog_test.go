package watchdog

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// systemd plays the service manager's side of sd_notify.
func systemd(t *testing.T, limit string) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", limit)
	return socket
}

// hear reads one notice; empty when none comes.
func hear(t *testing.T, socket *net.UnixConn, patience time.Duration) string {
	t.Helper()
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := socket.Read(buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}

func TestReadyAliveAndStopping(t *testing.T) {
	socket := systemd(t, "30000")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, func(context.Context) error { return nil }, hclog.NewNullLogger())
	}()
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := hear(t, socket, 10*time.Second); got != want {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	cancel()
	got := hear(t, socket, 10*time.Second)
	for got == "WATCHDOG=1" {
		got = hear(t, socket, 10*time.Second)
	}
	if err := <-ended; err != nil || got != "STOPPING=1" {
		t.Errorf("told %q at the end (%v), want STOPPING=1", got, err)
	}
}

func TestNotVouchedForWhenNotAlive(t *testing.T) {
	socket := systemd(t, "30000")
	calls := 0
	alive := func(context.Context) error {
		if calls++; calls == 1 {
			return nil
		}
		return errors.New("stuck")
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), alive, hclog.NewNullLogger()) }()
	if got := hear(t, socket, 10*time.Second); got != "READY=1" {
		t.Fatalf("told %q, want READY=1", got)
	}
	if got := hear(t, socket, 200*time.Millisecond); got != "" {
		t.Errorf("told %q while it is stuck", got)
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, func(context.Context) error { return nil }, hclog.NewNullLogger()); err != nil {
		t.Error(err)
	}
}
