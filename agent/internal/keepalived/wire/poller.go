package wire

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for descriptors by the runtime's own poller, which takes no thread. One that
// is blocked in poll(2) keeps the runtime's monitor awake for 10 ms of each wait: that took
// more than all else that an agent at rest does.
type poller struct {
	file   *os.File // of epoll(7), which can be waited for itself
	wait   syscall.RawConn
	events [16]unix.EpollEvent // of ready
	fds    []int32             // that ready has returned last
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or the runtime does not take it
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(fd))
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll")}
	if p.wait, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), p.file.Close())
	}
	return p, nil
}

// add has a descriptor waited for until it is closed.
func (p *poller) add(fd int32) error { return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) }

// addOnce has one waited for until it is ready, and again has that done once more.
func (p *poller) addOnce(fd int32) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLONESHOT)
}

func (p *poller) again(fd int32) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN|unix.EPOLLONESHOT)
}

func (p *poller) control(how int, fd int32, events uint32) error {
	var failed error
	err := p.wait.Control(func(epoll uintptr) {
		failed = unix.EpollCtl(int(epoll), how, int(fd), &unix.EpollEvent{Events: events, Fd: fd})
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// ready returns the descriptors from which something is to be read, or that have failed;
// none when the time is over. They were looked at after the time at: whoever comes late
// himself, since he had no turn, looks once more. They are valid until the next call.
func (p *poller) ready(until time.Time) (fds []int32, at time.Time, err error) {
	if err := p.file.SetReadDeadline(until); err != nil {
		return nil, at, fmt.Errorf("epoll: %w", err)
	}
	n := 0
	var failed error
	look := func(epoll uintptr) {
		at = time.Now()
		n, failed = unix.EpollWait(int(epoll), p.events[:], 0)
	}
	err = p.wait.Read(func(epoll uintptr) bool {
		look(epoll)
		return n > 0 || failed != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.wait.Control(look) // the runtime does not, whatever has come meanwhile
	}
	if err = errors.Join(err, failed); err != nil {
		return nil, at, fmt.Errorf("epoll: %w", err)
	}
	p.fds = p.fds[:0]
	for _, e := range p.events[:n] {
		p.fds = append(p.fds, e.Fd)
	}
	return p.fds, at, nil
}

func (p *poller) close() { _ = p.file.Close() }
