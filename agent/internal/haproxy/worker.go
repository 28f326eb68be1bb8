package haproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/plan"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// worker is what the newest worker is known to run.
type worker struct {
	plan.Worker
	pid      int
	backends map[string]int // the worker's own numbers of its backends
	// ambiguous tells that a proxy's name is a number, so that proxies cannot
	// be asked about by number.
	ambiguous bool
}

// refresh learns which worker is the newest, and reads it if it is another one
// than before. With no error there is one.
func (d *Driver) refresh(ctx context.Context) (*runtime.Processes, error) {
	found, err := d.client.Processes(ctx)
	if err != nil {
		return nil, err
	}
	if len(found.Workers) == 0 {
		return nil, errors.New("has no worker")
	}
	newest := found.Workers[0]
	if d.worker == nil || d.worker.pid != newest.PID {
		d.worker = nil
		w := &worker{pid: newest.PID}
		if err := d.load(ctx, w); err != nil {
			return nil, err
		}
		d.worker = w
		d.newest.set(newest.PID)
	}
	now := d.board.process()
	if now.State != Running || now.Version != newest.Version {
		running := Daemon{State: Running, Version: newest.Version, StartTime: time.Now().Add(-found.Master.Uptime)}
		d.board.setDaemonIf(d.processLives, running)
	}
	return found, nil
}

// processLives tells whether the process has not ended yet, and does not hang.
func (d *Driver) processLives() bool {
	if d.hung.Load() {
		return false
	}
	select {
	case <-d.process.Done():
		return false
	default:
		return true
	}
}

// load reads everything about a worker from it.
func (d *Driver) load(ctx context.Context, w *worker) error {
	info, err := d.client.Info(ctx, w.pid)
	if err != nil {
		return err
	}
	asked := d.board.now()
	stats, err := d.client.Stats(ctx, w.pid)
	if err != nil {
		return err
	}
	stats = slices.DeleteFunc(stats, func(s runtime.Stat) bool { return d.isForeign(s.Backend) })
	w.Structure = info.Description
	w.backends, w.ambiguous = make(map[string]int), false
	w.Servers = make(map[config.Key]plan.Running, len(stats))
	for i := range stats {
		s := &stats[i]
		if _, err := strconv.Atoi(s.Backend); err == nil {
			w.ambiguous = true
		}
		switch {
		case s.IsBackend:
			w.backends[s.Backend] = s.BackendID
		case s.IsServer:
			w.Servers[s.Key] = running(s)
		}
	}
	d.showStats(asked, stats, true)
	return nil
}

// isForeign tells whether a backend is kept of a hand-written file, so that its
// servers are none of the driver's business.
func (d *Driver) isForeign(backend string) bool {
	return d.foreign().Has(backend) && (d.rendered == nil || !d.rendered.HasBackend(backend))
}

func running(s *runtime.Stat) plan.Running {
	return plan.Running{
		Server: config.Server{
			Key: s.Key, ID: s.ID, Address: s.Address, Weight: s.Weight, MaxConnections: s.MaxConnections,
			Maintenance: s.Maintenance, Backup: s.Backup,
		},
		Op:      s.Op,
		Checked: s.Checked,
	}
}

// showStats puts servers on the board.
func (d *Driver) showStats(asked uint64, stats []runtime.Stat, whole bool) {
	at := time.Now()
	servers := make([]Server, 0, len(stats))
	for i := range stats {
		if stats[i].IsServer {
			servers = append(servers, fromStat(&stats[i], at))
		}
	}
	d.board.set(asked, servers, whole)
}

// maxSingle is up to how many servers are read one by one.
const maxSingle = 100

// readBack reads servers that commands were sent about.
func (d *Driver) readBack(ctx context.Context, keys []config.Key, target *config.File) error {
	w := d.worker
	if len(keys) > maxSingle || w.ambiguous {
		return d.load(ctx, w)
	}
	var ids []runtime.ServerID
	for _, key := range keys {
		backend, ok := w.backends[key.Backend]
		if !ok {
			return fmt.Errorf("no backend %s", key.Backend)
		}
		if have, ok := w.Servers[key]; ok {
			ids = append(ids, runtime.ServerID{Backend: backend, Server: have.ID})
		}
		if want := target.Server(key); want != nil {
			ids = append(ids, runtime.ServerID{Backend: backend, Server: want.ID})
		}
	}
	asked := d.board.now()
	stats, err := d.client.ServerStats(ctx, w.pid, ids)
	if err != nil {
		return err
	}
	for _, key := range keys {
		delete(w.Servers, key)
	}
	for i := range stats {
		w.Servers[stats[i].Key] = running(&stats[i])
	}
	d.showStats(asked, stats, false)
	for _, key := range keys {
		if _, ok := w.Servers[key]; !ok {
			d.board.remove(key)
		}
	}
	return nil
}
