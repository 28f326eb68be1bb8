package haproxy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// turnOf has Run's goroutine do something, and waits for it.
func (d *Driver) turnOf(ctx context.Context, do func(run context.Context) error) (err error) {
	done := make(chan struct{})
	job := func(run context.Context) {
		defer close(done)
		err = do(run)
	}
	select {
	case d.jobs <- job:
	case <-d.ended:
		return errors.New("haproxy: the driver has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return err
}

// LetGo ends the driver's HAProxy gently, since another one serves in its
// place: it accepts nothing more and finishes what it has. Nothing of it is
// started again. It needs Run, and returns the process id of the master; 0 when
// none ran.
func (d *Driver) LetGo(ctx context.Context) (pid int, err error) {
	err = d.turnOf(ctx, func(context.Context) (err error) {
		pid, err = d.letGo()
		return err
	})
	return pid, err
}

func (d *Driver) letGo() (pid int, err error) {
	process := d.process
	d.leave(process)
	err = d.forget()
	if process == nil {
		return 0, err
	}
	// SIGUSR1 is HAProxy's soft stop (management guide, 4).
	return process.PID(), errors.Join(err, process.Signal(syscall.SIGUSR1), process.Forget())
}

// Quit stops the unit in which the driver's HAProxy runs. Nothing of it is
// started again. It needs Run and a runner that can.
func (d *Driver) Quit(ctx context.Context) error {
	return d.turnOf(ctx, func(context.Context) error {
		process := d.process
		if process == nil {
			return d.forget()
		}
		d.process = nil
		d.leave(process)
		err := d.runner.Stop(ctx, process)
		process.Close()
		return errors.Join(err, d.forget())
	})
}

// leave leaves a process alone from now on.
func (d *Driver) leave(p *daemon.Process) {
	d.unattended()
	d.left.Store(p)
}

// forget makes the driver one that has never applied anything.
func (d *Driver) forget() (err error) {
	d.restart.off()
	d.retry.set(false)
	if d.process != nil {
		d.leave(d.process)
	}
	for _, path := range []string{d.paths.file, d.paths.good} {
		if removed := os.Remove(path); !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	d.worker, d.target, d.rendered, d.good, d.boot, d.process = nil, nil, nil, nil, nil, nil
	d.listing = runtime.Listing{}
	d.newest.set(0)
	d.board.setDaemon(Daemon{State: Idle})
	return err
}
