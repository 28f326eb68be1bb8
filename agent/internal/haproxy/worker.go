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

// worker is what a living worker is known to run.
type worker struct {
	plan.Worker
	backends map[string]int // the worker's own numbers of its backends
	// ambiguous tells that a proxy's name is a number, so that proxies cannot
	// be asked about by number.
	ambiguous bool
}

// refresh learns which workers live, and reads those that are new. With no
// error there is a newest one, the first.
func (d *Driver) refresh(ctx context.Context) error {
	found, err := d.client.Processes(ctx)
	if err != nil {
		return err
	}
	if len(found.Workers) == 0 {
		return errors.New("has no worker")
	}
	var workers []*worker
	for i, p := range slices.Concat(found.Workers[:1], found.OldWorkers) {
		old := i > 0
		w := d.worker(p.PID)
		if w == nil {
			w = &worker{Worker: plan.Worker{PID: p.PID, Old: old}}
			err := d.load(ctx, w)
			if old && errors.Is(err, runtime.ErrNoWorker) {
				continue // it has ended since
			}
			if err != nil {
				return err
			}
		}
		w.Old = old
		workers = append(workers, w)
	}
	d.workers = workers
	d.newest.set(workers[0].PID)
	master := found.Master
	now := d.board.process()
	if now.State != Running {
		d.board.setDaemon(Daemon{State: Running, Version: found.Workers[0].Version, StartTime: time.Now().Add(-master.Uptime)})
	} else if now.Version != found.Workers[0].Version {
		now.Version = found.Workers[0].Version
		d.board.setDaemon(now)
	}
	return nil
}

// worker returns the worker with that process id, nil when it is not known.
func (d *Driver) worker(pid int) *worker {
	for _, w := range d.workers {
		if w.PID == pid {
			return w
		}
	}
	return nil
}

// load reads everything about a worker from it.
func (d *Driver) load(ctx context.Context, w *worker) error {
	info, err := d.client.Info(ctx, w.PID)
	if err != nil {
		return err
	}
	asked := d.board.now()
	stats, err := d.client.Stats(ctx, w.PID)
	if err != nil {
		return err
	}
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
	if !w.Old {
		d.showStats(asked, stats, true)
	}
	return nil
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

// readBack reads servers of a worker that commands were sent about.
func (d *Driver) readBack(ctx context.Context, w *worker, keys []config.Key, target *config.File) error {
	if len(keys) > maxSingle || w.ambiguous {
		return d.load(ctx, w)
	}
	var ids []runtime.ServerID
	for _, key := range keys {
		backend, ok := w.backends[key.Backend]
		if !ok {
			return fmt.Errorf("worker %d has no backend %s", w.PID, key.Backend)
		}
		if have, ok := w.Servers[key]; ok {
			ids = append(ids, runtime.ServerID{Backend: backend, Server: have.ID})
		}
		if want := target.Server(key); want != nil {
			ids = append(ids, runtime.ServerID{Backend: backend, Server: want.ID})
		}
	}
	asked := d.board.now()
	stats, err := d.client.ServerStats(ctx, w.PID, ids)
	if err != nil {
		return err
	}
	for _, key := range keys {
		delete(w.Servers, key)
	}
	for i := range stats {
		w.Servers[stats[i].Key] = running(&stats[i])
	}
	if w.Old {
		return nil
	}
	d.showStats(asked, stats, false)
	for _, key := range keys {
		if _, ok := w.Servers[key]; !ok {
			d.board.remove(key)
		}
	}
	return nil
}
