// Package access takes HAProxy's access log from the ring that HAProxy keeps it
// in, over a stream socket of its own, and writes it to a file or to the
// machine's syslog or journald.
//
// HAProxy never waits: while nobody reads, the ring takes lines until it is full
// and counts those that come then. So nothing here drops a line in favour of
// another one, and a slow disk is waited for; what cannot be written at all is
// counted and told, and so is what the ring had no room for.
package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

// Destination is where lines go.
type Destination int

// Destinations.
const (
	Nowhere  Destination = iota // lines that old workers still send are dropped
	Syslog                      // the machine's syslog socket
	Journald                    // journald's socket for syslog lines
	File
)

// Sockets that take syslog lines.
const (
	// syslogSocket is the one of the C library's syslog(3).
	syslogSocket = "/dev/log"
	// journaldSocket is journald's, whatever /dev/log is: see
	// systemd-journald.service(8).
	journaldSocket = "/run/systemd/journal/dev-log"
)

// Options of a Log.
type Options struct {
	// Socket is the path of the socket for HAProxy.
	Socket string
	// UID and GID own the socket; -1: the agent's own.
	UID, GID int
	// File is used with the destination File.
	File logfile.Options
	// Tell is told of lost lines, at most once a minute, and with an empty text
	// when a minute went by without any. It must not block.
	Tell func(text string)
}

// Log is an access log. Run does the work.
type Log struct {
	Options
	batches chan []byte
	use     chan sink // depth one, the latest
	used    string    // of the latest Use

	// syslog and journald are the sockets to send to; tests have others.
	syslog, journald string
}

// New returns a log. No line is taken before Use tells where to.
func New(o Options) *Log {
	return &Log{
		Options: o, batches: make(chan []byte), use: make(chan sink, 1),
		syslog: syslogSocket, journald: journaldSocket,
	}
}

// Use tells where lines go from now on, and whether they are JSON. The latest
// call counts. Only one goroutine calls it.
func (l *Log) Use(to Destination, json bool) {
	used := fmt.Sprint(to, json)
	if l.used == used {
		return
	}
	l.used = used
	var s sink
	switch to {
	case File:
		s = newFileSink(l.File, json)
	case Syslog:
		s = &syslogSink{path: l.syslog}
	case Journald:
		s = &syslogSink{path: l.journald}
	case Nowhere:
		s = nowhere{}
	}
	select {
	case <-l.use:
	default:
	}
	l.use <- s
}

type nowhere struct{}

func (nowhere) write(context.Context, []byte) (uint64, error) { return 0, nil }
func (nowhere) close() error                                  { return nil }

// maxConnections is far more than workers that HAProxy lets live at a time.
const maxConnections = 64

// Run takes lines until ctx ends. What was taken is written before it returns.
func (l *Log) Run(ctx context.Context) error {
	listener, err := l.listen()
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.write(ctx)
	}()
	defer func() {
		close(l.batches)
		<-written
	}()
	var readers errgroup.Group
	readers.SetLimit(maxConnections)
	defer func() { _ = readers.Wait() }()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		connection, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				// HAProxy would put into it what waits for the next agent.
				_ = connection.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("access log: %w", err)
		}
		readers.Go(func() error {
			l.read(ctx, connection)
			return nil
		})
	}
}

// listen opens the socket for HAProxy alone.
func (l *Log) listen() (net.Listener, error) {
	if err := os.Remove(l.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", l.Socket)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(l.Socket, 0o600), os.Chown(l.Socket, l.UID, l.GID)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// batchSize is how much is read at a time, and what a batch may have in bytes.
const batchSize = 256 << 10

// read takes the lines of one worker until it closes, ctx ends or it says what
// is no frame.
func (l *Log) read(ctx context.Context, connection net.Conn) {
	defer connection.Close()
	defer context.AfterFunc(ctx, func() { connection.Close() })()
	buffer := make([]byte, 0, batchSize)
	for {
		n, err := connection.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			return
		}
		buffer = buffer[:len(buffer)+n]
		var lines []byte
		rest := buffer
		for {
			message, size, err := nextFrame(rest)
			if err != nil {
				return
			}
			if size == 0 {
				break
			}
			lines = appendLine(lines, message)
			rest = rest[size:]
		}
		buffer = buffer[:copy(buffer, rest)]
		if lines != nil {
			l.batches <- lines
		}
	}
}

// write is the goroutine that writes, until batches is closed; that is soon
// after ctx has ended.
func (l *Log) write(ctx context.Context) {
	ended := ctx.Done()
	ctx = context.WithoutCancel(ctx) // what was read is written
	lost := losses{tell: l.Tell}
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var to sink
	defer func() {
		if to != nil {
			_ = to.close()
		}
	}()
	var batches <-chan []byte // nil until it is known where to
	for {
		select {
		case s := <-l.use:
			if to != nil {
				_ = to.close()
			}
			to, batches = s, l.batches
		case <-ended:
			ended = nil
			if to == nil {
				to, batches = nowhere{}, l.batches
			}
		case lines, ok := <-batches:
			if !ok {
				return
			}
			if n := ringLosses(lines); n > 0 {
				lost.add(n, "HAProxy's ring was full while they were not read", time.Now())
			}
			if n, err := to.write(ctx, lines); err != nil {
				lost.add(n, err.Error(), time.Now())
			}
		case <-tick.C:
			lost.look(time.Now())
		}
	}
}
