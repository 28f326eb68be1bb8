package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// newestWorker is the process id of the worker whose log counts; 0: none.
type newestWorker struct{ pid atomic.Int64 }

func (n *newestWorker) set(pid int)     { n.pid.Store(int64(pid)) }
func (n *newestWorker) is(pid int) bool { return n.pid.Load() == int64(pid) }

// listen opens the datagram socket for health events. It is a socket of its
// own: requests are logged elsewhere and cannot delay what comes here.
func (d *Driver) listen() (*net.UnixConn, error) {
	if err := os.Remove(d.paths.events); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	events, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.paths.events, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	err = os.Chmod(d.paths.events, 0o600)
	uid, gid, ownerErr := d.socketOwner()
	if err = errors.Join(err, ownerErr); err == nil {
		err = os.Chown(d.paths.events, uid, gid)
	}
	if err == nil {
		err = events.SetReadBuffer(1 << 20)
	}
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	return events, nil
}

// hear is the goroutine that listens to the log until ctx ends.
func (d *Driver) hear(ctx context.Context, events *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	datagram := make([]byte, 16<<10)
	for {
		n, err := events.Read(datagram)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("haproxy's events: %w", err)
		}
		said, ok := runtime.ParseEvent(datagram[:n])
		// An old worker tells only of what it is told to do.
		if ok && d.newest.is(said.PID) && !d.board.hear(said, time.Now()) {
			select {
			case d.kick <- struct{}{}:
			default:
			}
		}
	}
}

// poll looks at what the log does not tell, or lost.
func (d *Driver) poll(ctx context.Context) {
	if d.process == nil || d.hung.Load() {
		return
	}
	err := d.lookCalmly(ctx)
	select {
	case <-d.process.Done():
		return // its watcher tells
	default:
	}
	if err != nil && ctx.Err() == nil && !d.hung.Load() {
		d.logger.Warn("haproxy does not answer", "error", err)
		d.board.setDaemon(Daemon{State: Stopped, Message: "does not answer: " + err.Error()})
	}
	if err == nil {
		d.align(ctx)
	}
	d.cutLog()
}

const (
	// grace is how long HAProxy may be silent, and no worker accept a connection,
	// before it counts as dead: while someone else reloads it, its master answers
	// nobody for a moment.
	grace = time.Second
	// servingGrace is grace while a worker accepts connections: with some 10,000
	// servers the master reads its file for seconds.
	servingGrace = 30 * time.Second
)

// lookCalmly looks until HAProxy answers, its process ends or grace has passed.
func (d *Driver) lookCalmly(ctx context.Context) error {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	for began := time.Now(); ; {
		_, err := d.refresh(ctx)
		if err == nil {
			err = d.look(ctx)
		}
		if err == nil {
			return nil
		}
		if silent := time.Since(began); silent > servingGrace || silent > grace && !d.serves(ctx) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-d.process.Done():
			return err
		case <-tick.C:
		}
	}
}

// serves tells whether a worker accepts connections, at some time of grace: once may
// be just when one gives way to the next.
func (d *Driver) serves(ctx context.Context) bool {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	for began := time.Now(); ; {
		if d.accepts(ctx) {
			return true
		}
		if time.Since(began) > grace {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-d.process.Done():
			return false
		case <-tick.C:
		}
	}
}

// accepts asks the newest worker itself, without the master, whether it accepts
// connections.
func (d *Driver) accepts(ctx context.Context) bool {
	worker := &runtime.Client{Path: d.paths.stats, Timeout: grace}
	info, err := worker.Self(ctx)
	return err == nil && !info.Stopping
}

// sight is what a look depends on beside what HAProxy says. Another worker, and whoever
// reads servers otherwise, changes the board.
type sight struct {
	changes  uint64 // of the board
	kept     *config.Kept
	rendered *config.File
}

// look reads the newest worker's servers. One that sees what the last one has seen changes
// nothing.
func (d *Driver) look(ctx context.Context) error {
	sees := sight{d.board.changes(), d.foreign(), d.rendered}
	asked := d.board.now()
	w := d.worker
	if err := d.client.List(ctx, w.pid, &d.listing); err != nil {
		return err
	}
	if d.listing.Same && sees == d.looked {
		return nil
	}
	at := time.Now()
	servers := d.seen[:0]
	missing := false
	for i := range d.listing.States {
		s := &d.listing.States[i]
		if d.isForeign(s.Backend) {
			continue
		}
		servers = append(servers, fromState(s, at))
		have, ok := w.Servers[s.Key]
		if !ok || have.ID != s.ID {
			missing = true
			continue
		}
		have.Address, have.Weight, have.Maintenance, have.Op, have.Checked = s.Address, s.Weight, s.Maintenance(), s.Op, s.Checked()
		w.Servers[s.Key] = have
	}
	d.seen = servers
	d.board.set(asked, servers, true)
	if missing || len(servers) != len(w.Servers) {
		// Someone else has added or removed servers.
		return d.load(ctx, w)
	}
	d.looked = sees
	d.looked.changes++ // by this look
	return nil
}

// cutLog keeps the processes' output small: they append a line for each change
// of a server's health.
func (d *Driver) cutLog() {
	info, err := os.Stat(d.paths.log)
	if err != nil || info.Size() < maxLog {
		return
	}
	if err := os.Truncate(d.paths.log, 0); err != nil {
		d.logger.Warn("cannot cut haproxy's output file", "size", strconv.FormatInt(info.Size(), 10), "error", err)
	}
}
