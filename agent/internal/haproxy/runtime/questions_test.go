package runtime

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asks puts questions to somebody who serves a socket as given, until one is answered or
// has failed, and returns that. The time goes by as it is asked.
func asks(t *testing.T, patience time.Duration, serve func(net.Conn)) (answered bool, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // ends with the listener
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection)
		}
	}()
	q := Questions{Path: path, Patience: patience}
	defer q.Close()
	if err := q.Ask(time.Now()); err != nil || q.Open() != 1 {
		t.Fatalf("%d questions are open: %v", q.Open(), err)
	}
	for due := time.Now().Add(10 * time.Second); !answered && err == nil && time.Now().Before(due); {
		answered, err = q.Answers(time.Now())
	}
	if q.Open() != 0 {
		t.Errorf("%d questions are open after %v, %v", q.Open(), answered, err)
	}
	return answered, err
}

// An answer is one, whatever it says; no answer is told when the patience is over, and
// somebody who hangs up has said nothing.
func TestQuestions(t *testing.T) {
	read := func(c net.Conn) { _, _ = c.Read(make([]byte, 64)) }
	answered, err := asks(t, time.Minute, func(c net.Conn) {
		defer c.Close()
		read(c)
		_, _ = c.Write([]byte("admin\n\n"))
	})
	if !answered || err != nil {
		t.Errorf("one that answers: %v, %v", answered, err)
	}
	answered, err = asks(t, time.Millisecond, read)
	if answered || !errors.Is(err, ErrSilent) {
		t.Errorf("one that is silent: %v, %v", answered, err)
	}
	answered, err = asks(t, time.Minute, func(c net.Conn) { read(c); c.Close() })
	if answered || err == nil || errors.Is(err, ErrSilent) {
		t.Errorf("one that hangs up: %v, %v", answered, err)
	}
	nobody := Questions{Path: filepath.Join(t.TempDir(), "missing")}
	if err := nobody.Ask(time.Now()); err == nil || errors.Is(err, ErrSilent) || nobody.Open() != 0 {
		t.Errorf("nobody: %v, %d open", err, nobody.Open())
	}
}

// A worker that takes no more questions has more than it can hold.
func TestAFullQueueIsSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := errors.Join(unix.Bind(listener, &unix.SockaddrUnix{Name: path}), unix.Listen(listener, 3)); err != nil {
		t.Fatal(err)
	}
	q := Questions{Path: path, Patience: time.Minute}
	defer q.Close()
	for range 10 {
		if err = q.Ask(time.Now()); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrSilent) || q.Open() < 3 {
		t.Errorf("after %d questions: %v", q.Open(), err)
	}
}
