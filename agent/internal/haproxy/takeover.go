package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// Foreign is a HAProxy that a service manager looks after, with a master socket
// and a file of somebody else.
type Foreign struct {
	// Socket is the path of its master socket.
	Socket string
	// Install makes the file that it was started with lead to the one at path.
	Install func(path string) error
	// Restore undoes Install.
	Restore func() error
}

// TakeOver has a foreign HAProxy run the configuration and makes it the driver's.
// The master goes on and hands its listening sockets to the new worker, so that
// no connection is refused. It needs Run. The errors are those of Apply; after
// one the foreign HAProxy goes on with its own file.
func (d *Driver) TakeOver(ctx context.Context, c *haproxyv1.Config, f Foreign) error {
	return d.turnOf(ctx, func(run context.Context) error { return d.takeOver(ctx, run, c, f) })
}

// GiveBack ends TakeOver, as long as the same master runs: it reads its own file
// again, and goes on without the driver. After an error it goes on with Tandem's.
// It needs Run.
func (d *Driver) GiveBack(ctx context.Context, f Foreign) error {
	return d.turnOf(ctx, func(run context.Context) error { return d.handBack(ctx, run, f) })
}

func (d *Driver) takeOver(ctx, run context.Context, c *haproxyv1.Config, f Foreign) error {
	file, err := d.render(c)
	if err != nil {
		return err
	}
	d.rendered = file
	if err := d.paths.keepSite(d.site()); err != nil {
		return &FailedError{What: "cannot write down what stays of a hand-written file", Err: err}
	}
	d.beside = d.foreign()
	if err := d.checkVersion(ctx); err != nil {
		return err
	}
	if _, err := d.paths.current(); err != nil {
		return &FailedError{What: "cannot write its file", Err: err}
	}
	if err := d.candidate(ctx, file); err != nil {
		return err
	}
	if err := d.checkProcess(file); err != nil {
		return err
	}
	if err := d.checkBinds(ctx, file.Binds); err != nil {
		return err
	}
	d.forgetStates()
	if err := d.join(ctx, run, file, f); err != nil {
		return errors.Join(err, d.part(f.Restore))
	}
	d.logger.Info("took haproxy over", "pid", d.process.PID())
	return nil
}

// join puts the file in effect on the foreign HAProxy.
func (d *Driver) join(ctx, run context.Context, file *config.File, f Foreign) error {
	err := d.paths.leadTo(f.Socket)
	if err == nil {
		err = d.paths.installCandidate()
	}
	if err == nil {
		err = f.Install(d.paths.file)
	}
	if err != nil {
		return &FailedError{What: "cannot be taken over", Err: err}
	}
	process, err := d.runner.Find(run, d.findSpec())
	if err != nil {
		return &FailedError{What: "cannot be taken over", Err: err}
	}
	d.watch(run, process)
	if err := d.reload(ctx); err != nil {
		return err
	}
	if loaded := d.worker.Structure; loaded != file.Structure {
		return &FailedError{What: fmt.Sprintf("loaded another file (%q, not %q) than it was given", loaded, file.Structure)}
	}
	if _, err := d.operate(ctx, file, d.plan(file)); err != nil {
		return err
	}
	d.confirmed(file)
	return nil
}

// part leaves a HAProxy with its own file.
func (d *Driver) part(restore func() error) error {
	err := restore()
	if d.process != nil {
		d.process.Close()
	}
	return errors.Join(err, d.forget())
}

func (d *Driver) handBack(ctx, run context.Context, f Foreign) error {
	if d.process == nil {
		return &FailedError{What: "does not run"}
	}
	if err := f.Restore(); err != nil {
		return err
	}
	process := d.process
	d.leave(process) // its worker has another socket then
	if err := d.reload(ctx); err != nil {
		d.left.Store(nil)
		d.attended(run, process)
		return errors.Join(fmt.Errorf("with its own file again: %w", err), f.Install(d.paths.file))
	}
	d.process.Close()
	return d.forget()
}

// leadTo makes the driver's name of the master socket lead to another one, until
// a HAProxy is started that binds it itself.
func (p *paths) leadTo(socket string) error {
	if err := os.Remove(p.master); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(socket, p.master)
}
