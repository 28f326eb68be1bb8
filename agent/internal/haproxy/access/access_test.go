package access

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

func TestNextFrame(t *testing.T) {
	for _, test := range []struct {
		buffer, message string
		size            int
		wrong           bool
	}{
		{buffer: "3 abc4 defg", message: "abc", size: 5},
		{buffer: "0 x", size: 2},
		{buffer: ""},
		{buffer: "12"},
		{buffer: "3 ab"},
		{buffer: " 3 abc", wrong: true},
		{buffer: "-1 a", wrong: true},
		{buffer: "<134>Nov", wrong: true},
		{buffer: "999999999999999999999999 ", wrong: true},
	} {
		message, size, err := nextFrame([]byte(test.buffer))
		if string(message) != test.message || size != test.size || (err != nil) != test.wrong {
			t.Errorf("%q: %q, %d, %v", test.buffer, message, size, err)
		}
	}
}

// However a stream of frames is cut, the lines are the messages, and no byte
// makes two lines of one.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("5 hello6 a\nb\n\n\n"), uint8(3))
	f.Add([]byte("3 abc2"), uint8(0))
	f.Fuzz(func(t *testing.T, stream []byte, message uint8) {
		for rest := stream; ; {
			message, size, err := nextFrame(rest)
			if err != nil || size == 0 {
				break
			}
			if size > len(rest) || len(message) >= size {
				t.Fatalf("frame of %d bytes of %d in %q", len(message), size, rest)
			}
			rest = rest[size:]
		}
		line := appendLine(nil, stream)
		if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("%q becomes %q", stream, line)
		}
		frame := append(strconv.AppendInt(nil, int64(len(stream)), 10), ' ')
		frame = append(append(frame, stream...), message)
		if got, size, err := nextFrame(frame); len(stream) <= maxFrame && (err != nil || size != len(frame)-1 || !bytes.Equal(got, stream)) {
			t.Fatalf("%q is read as %q, %d, %v", frame, got, size, err)
		}
	})
}

func TestLinesOfAFile(t *testing.T) {
	const (
		request = "<134>Nov 26 14:27:40 haproxy[12]: 10.0.0.1:4 [26/Nov] \"GET / HTTP/1.1\"\n"
		object  = "<134>Nov 26 14:27:40 haproxy[12]: {\"a\":\"]: {\"}\n"
		notice  = "<133>Nov 26 14:27:40 haproxy[12]: Proxy web stopped.\n"
	)
	if got := appendWithHost(nil, []byte(request), "lb1"); string(got) != "Nov 26 14:27:40 lb1 haproxy[12]: 10.0.0.1:4 [26/Nov] \"GET / HTTP/1.1\"\n" {
		t.Errorf("%q", got)
	}
	if got := appendJSON(nil, []byte(object)); string(got) != "{\"a\":\"]: {\"}\n" {
		t.Errorf("%q", got)
	}
	if got := appendJSON(nil, []byte(notice)); len(got) != 0 {
		t.Errorf("what is no request becomes %q", got)
	}
}

func TestRingLosses(t *testing.T) {
	const lines = "<134>Nov 26 14:27:40 haproxy[12]: 1 event dropped\n" +
		"<134>Nov 26 14:27:40 haproxy[12]: \"GET /7 events dropped\n" +
		"<133>Nov 26 14:27:40 haproxy[12]: 3195 events dropped\n"
	if got := ringLosses([]byte(lines)); got != 3196 {
		t.Errorf("%d", got)
	}
}

// The first loss is told at once, later ones once a minute with their number,
// and a minute without any as the end.
func TestLossesAreToldOnceAMinute(t *testing.T) {
	var told []string
	l := losses{tell: func(text string) { told = append(told, text) }}
	now := time.Unix(1e9, 0)
	for range 1000 {
		l.add(1, "disk full", now)
		now = now.Add(90 * time.Millisecond)
	}
	l.look(now)
	l.look(now.Add(tellEvery))
	l.look(now.Add(2 * tellEvery))
	want := "access log: 1 lines lost: disk full|access log: 667 lines lost: disk full|access log: 332 lines lost: disk full|"
	if got := strings.Join(told, "|"); got != want {
		t.Errorf("told %q", got)
	}
}

// running starts a log.
func running(t *testing.T, l *Log) (connection net.Conn, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	for connection == nil {
		if ctx.Err() != nil {
			t.Fatal(<-ended)
		}
		connection, _ = net.Dial("unix", l.Socket)
	}
	t.Cleanup(func() { connection.Close() })
	return connection, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func newLog(t *testing.T) (l *Log, told chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "access") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	told = make(chan string, 100)
	return New(Options{
		Socket: filepath.Join(dir, "access.sock"), UID: -1, GID: -1,
		File: logfile.Options{Path: filepath.Join(dir, "access.log"), MaxSize: 1 << 20, Keep: 2},
		Tell: func(text string) { told <- text },
	}), told
}

func send(t *testing.T, c net.Conn, message string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "%d %s", len(message), message); err != nil {
		t.Fatal(err)
	}
}

// What was sent before it is known where to is kept, syslog gets lines as they
// are, and a daemon that comes back is found.
func TestSyslog(t *testing.T) {
	l, told := newLog(t)
	l.syslog = l.Socket + ".syslog"
	connection, stop := running(t, l)
	defer stop()
	const line = "<134>Nov 26 14:27:40 haproxy[12]: x"
	send(t, connection, line+" 1")
	hear := func(want string, during func()) {
		t.Helper()
		daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.syslog, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(l.syslog)
		defer daemon.Close()
		during()
		buffer := make([]byte, 1000)
		if n, err := daemon.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Errorf("%q, %v", buffer[:n], err)
		}
	}
	hear(line+" 1", func() { l.Use(Syslog, false) })
	send(t, connection, line+" lost")
	if text := <-told; !strings.Contains(text, "1 lines lost") || !strings.Contains(text, l.syslog) {
		t.Errorf("told %q", text)
	}
	hear(line+" 2", func() { send(t, connection, line+" 2") })
}

// A worker that sends what is no frame is cut off; others go on.
func TestNoFrame(t *testing.T) {
	l, _ := newLog(t)
	l.Use(File, true)
	hostile, stop := running(t, l)
	defer stop()
	if _, err := hostile.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := hostile.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes", n)
	}
	if c, err := net.Dial("unix", l.Socket); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// Run ends though nobody said where lines go.
func TestRunEndsUnused(t *testing.T) {
	l, _ := newLog(t)
	connection, stop := running(t, l)
	send(t, connection, "<134>Nov 26 14:27:40 haproxy[12]: x")
	stop()
}
