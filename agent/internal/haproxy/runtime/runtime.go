// Package runtime talks to a running HAProxy over its master socket, which
// reaches every worker, also those that only finish after a reload.
//
// Commands come from a closed set and hold only tokens and numbers. Their
// replies through the master carry no severity, and some end without the empty
// line that separates others; so replies are words for people, and whether a
// command worked is read back. What HAProxy prints is parsed by functions that
// take an io.Reader and know nothing of sockets.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ErrNoWorker means that no living worker has the process id.
var ErrNoWorker = errors.New("no such worker")

// Client asks one HAProxy. Its methods may be called from any goroutine; each
// call is a connection of its own.
type Client struct {
	// Path of the master socket; for Self, of a worker's own.
	Path string
	// Timeout bounds one call.
	Timeout time.Duration
}

// maxReply bounds a reply; 10,000 servers take 5 MB.
const maxReply = 256 << 20

// ask sends lines and reads until HAProxy closes.
func (c *Client) ask(ctx context.Context, lines string) (string, error) {
	var reply strings.Builder
	err := c.exchange(ctx, lines, func(from io.Reader) error {
		_, err := io.Copy(&reply, from)
		return err
	})
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(reply.String(), noTarget) {
		return "", ErrNoWorker
	}
	return reply.String(), nil
}

// noTarget is how the master begins to say that it has no such worker.
const noTarget = "Can't find the target PID"

// exchange sends lines and has the reply taken, which ends when HAProxy closes.
func (c *Client) exchange(ctx context.Context, lines string, take func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := c.connect(ctx, lines, take); err != nil {
		return fmt.Errorf("haproxy's master socket: %w", err)
	}
	return nil
}

func (c *Client) connect(ctx context.Context, lines string, take func(io.Reader) error) (err error) {
	connection, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
	if err != nil {
		return err
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { connection.Close() })
	defer func() {
		if !stop() {
			err = context.Cause(ctx)
		}
	}()
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(connection, lines)
		if err == nil {
			// The master keeps a connection open until its client has no more
			// to say.
			err = connection.(*net.UnixConn).CloseWrite()
		}
		written <- err
	}()
	if err := take(io.LimitReader(connection, maxReply)); err != nil {
		return err
	}
	return <-written
}

// show asks a worker to show something. No answer at all means that the worker
// ended while it was asked, before the master noticed.
func (c *Client) show(ctx context.Context, lines string) (string, error) {
	reply, err := c.ask(ctx, lines)
	if err == nil && strings.TrimSpace(reply) == "" {
		err = ErrNoWorker
	}
	return reply, err
}

// worker prefixes a command for a worker.
func worker(pid int, command string) string { return fmt.Sprintf("@!%d %s\n", pid, command) }

// Processes lists the master and its workers.
func (c *Client) Processes(ctx context.Context) (*Processes, error) {
	reply, err := c.ask(ctx, "show proc\n")
	if err != nil {
		return nil, err
	}
	return ParseProcesses(strings.NewReader(reply))
}

// Reload begins a reload. Since 2.8 HAProxy says how it ended, and with it the
// reply begins with "Success="; before, it says nothing.
func (c *Client) Reload(ctx context.Context) (string, error) {
	return c.ask(ctx, "reload\n")
}

// Info tells about a worker itself.
func (c *Client) Info(ctx context.Context, pid int) (Info, error) {
	reply, err := c.show(ctx, worker(pid, "show info"))
	if err != nil {
		return Info{}, err
	}
	return ParseInfo(strings.NewReader(reply))
}

// Self is Info of the worker that has the socket.
func (c *Client) Self(ctx context.Context) (Info, error) {
	reply, err := c.show(ctx, "show info\n")
	if err != nil {
		return Info{}, err
	}
	return ParseInfo(strings.NewReader(reply))
}

// States lists the states of a worker's servers.
func (c *Client) States(ctx context.Context, pid int) ([]State, error) {
	var list Listing
	err := c.List(ctx, pid, &list)
	return list.States, err
}

// List is States of one who asks all the time.
func (c *Client) List(ctx context.Context, pid int, list *Listing) error {
	return c.exchange(ctx, worker(pid, "show servers state"), list.Read)
}

// Stats lists all proxies and servers of a worker. It costs HAProxy 7 µs each.
func (c *Client) Stats(ctx context.Context, pid int) ([]Stat, error) {
	const everything = 1 | 2 | 4 // frontends, backends, servers
	return c.stats(ctx, worker(pid, fmt.Sprintf("show stat -1 %d -1", everything)))
}

// ServerStats lists single servers of a worker, of which those that do not
// exist are left out.
func (c *Client) ServerStats(ctx context.Context, pid int, servers []ServerID) ([]Stat, error) {
	var lines strings.Builder
	for _, s := range servers {
		lines.WriteString(worker(pid, fmt.Sprintf("show stat %d %d %d", s.Backend, TypeServer, s.Server)))
	}
	return c.stats(ctx, lines.String())
}

func (c *Client) stats(ctx context.Context, lines string) ([]Stat, error) {
	reply, err := c.show(ctx, lines)
	if err != nil {
		return nil, err
	}
	return ParseStats(strings.NewReader(reply))
}

// ServerID names a server by numbers.
type ServerID struct {
	Backend int // the worker's own number of the backend
	Server  uint32
}

// perCall is how many commands go over one connection.
const perCall = 500

// Do runs commands on a worker, in order, and returns what HAProxy said to
// them. That is only words: read back what they did.
func (c *Client) Do(ctx context.Context, pid int, commands []Command) (string, error) {
	for _, command := range commands {
		if err := command.check(); err != nil {
			return "", err
		}
	}
	var words strings.Builder
	for len(commands) > 0 {
		var lines strings.Builder
		n := min(perCall, len(commands))
		for _, command := range commands[:n] {
			lines.WriteString(worker(pid, command.text))
		}
		reply, err := c.ask(ctx, lines.String())
		if err != nil {
			return words.String(), err
		}
		words.WriteString(reply)
		commands = commands[n:]
	}
	return words.String(), nil
}
