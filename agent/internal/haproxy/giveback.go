package haproxy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// LetGo ends the driver's HAProxy gently, since another one serves in its
// place: it accepts nothing more and finishes what it has. Nothing of it is
// started again. It needs Run, and returns the process id of the master; 0 when
// none ran.
func (d *Driver) LetGo(ctx context.Context) (pid int, err error) {
	done := make(chan struct{})
	job := func(context.Context) {
		defer close(done)
		pid, err = d.letGo()
	}
	select {
	case d.jobs <- job:
	case <-d.ended:
		return 0, errors.New("haproxy: the driver has ended")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	<-done
	return pid, err
}

func (d *Driver) letGo() (pid int, err error) {
	d.restart.off()
	d.retry.set(false)
	for _, path := range []string{d.paths.file, d.paths.good} {
		if removed := os.Remove(path); !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	d.worker, d.target, d.rendered, d.good, d.boot, d.last = nil, nil, nil, nil, nil, nil
	d.newest.set(0)
	if d.process == nil {
		return 0, err
	}
	// SIGUSR1 is HAProxy's soft stop (management guide, 4).
	pid = d.process.PID()
	err = errors.Join(err, d.process.Signal(syscall.SIGUSR1), d.process.Forget())
	d.process = nil
	d.board.setDaemon(Daemon{State: Idle})
	return pid, err
}
