package runtime

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSilent tells that a worker takes questions, or has taken more than it can hold, and
// answers none.
var ErrSilent = errors.New("haproxy does not answer")

// Questions ask a worker whether it goes on, for next to nothing: any answer will do.
// They are put all the time, and so nobody waits for an answer: it is taken later. They
// are not for concurrent use.
type Questions struct {
	// Path of the worker's own socket.
	Path string
	// Patience is how long an answer may take.
	Patience time.Duration

	open []question
	to   unix.SockaddrUnix // Path, kept for the next one
}

type question struct {
	fd    int
	asked time.Time
}

// Open tells how many questions have no answer yet.
func (q *Questions) Open() int { return len(q.open) }

// Ask puts another question. It fails with ErrSilent when the worker takes no more; any
// other error says nothing of the worker, which could not be asked. It does not block.
func (q *Questions) Ask(now time.Time) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	q.to.Name = q.Path
	err = unix.Connect(fd, &q.to)
	if errors.Is(err, unix.EAGAIN) { // its queue is full, see connect(2)
		err = fmt.Errorf("%w: %w", ErrSilent, err)
	}
	if err == nil {
		// Into a buffer that is empty. A broken pipe is no signal to this program.
		err = unix.Sendto(fd, []byte("show cli level\n"), unix.MSG_NOSIGNAL, nil)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", q.Path, err), unix.Close(fd))
	}
	q.open = append(q.open, question{fd, now})
	return nil
}

// Answers takes the answers that have come, and tells whether there was one. An error is
// that of a question that gets none: ErrSilent when its patience is over; any other one
// says nothing of the worker. It does not block.
func (q *Questions) Answers(now time.Time) (answered bool, err error) {
	var failed []error
	open := q.open[:0]
	for _, one := range q.open {
		var text [64]byte
		n, err := unix.Read(one.fd, text[:])
		waits := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		switch {
		case waits && now.Sub(one.asked) < q.Patience:
			open = append(open, one)
			continue
		case waits:
			err = fmt.Errorf("%w within %v", ErrSilent, q.Patience)
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		}
		answered = answered || err == nil
		if err := errors.Join(err, unix.Close(one.fd)); err != nil {
			failed = append(failed, err)
		}
	}
	q.open = open
	return answered, errors.Join(failed...)
}

// Close takes all questions back.
func (q *Questions) Close() {
	for _, one := range q.open {
		_ = unix.Close(one.fd)
	}
	q.open = nil
}
