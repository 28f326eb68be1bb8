package keepalived

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/advertfilter"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Foreign is a keepalived that somebody else has started, with a file of his
// own.
type Foreign struct {
	// PID of the process that was started.
	PID int
	// Install makes the process's own file lead to the one at path.
	Install func(path string) error
	// Restore undoes Install.
	Restore func() error
}

// TakeOver has a foreign keepalived run the configuration and makes it the
// driver's. The process is told to read its file again and goes on, so that a
// VIP that it holds stays where it is: its instances must keep their names.
// The errors are those of Apply; after one the foreign keepalived has its own
// file again.
func (d *Driver) TakeOver(ctx context.Context, config *keepalivedv1.Config, f Foreign) (Result, error) {
	c, err := d.acquire(ctx)
	if err != nil {
		return Result{}, err
	}
	defer d.release(c)
	in, err := resolve(config, d.opts.Networks)
	if err != nil {
		return Result{}, err
	}
	if c.probed, err = probe(ctx, d.opts.Binary, d.paths.dumpDir); err != nil {
		return Result{}, err
	}
	if err := in.checkInterfaces(); err != nil {
		return Result{}, &FailedError{err}
	}
	data := render(in, d.layout)
	if _, err := ownFile(d.paths.config); err != nil {
		return Result{}, &FailedError{err}
	}
	if err := d.checkCandidate(ctx, c.probed.path, data); err != nil {
		return Result{}, err
	}
	if c.process != nil {
		c.process.Close()
	}
	if c.process, err = daemon.Take(d.spec(""), f.PID); err != nil {
		c.process = nil
		return Result{}, &FailedError{err}
	}
	c.started, c.silent = time.Now(), 0
	if err := d.staysPut(ctx, c, in); err != nil {
		err = errors.Join(err, c.process.Forget())
		c.process.Close()
		c.process = nil
		return Result{}, &FailedError{err}
	}
	if err := d.swapForeign(ctx, c, in, data, f); err != nil {
		return Result{Reloaded: true}, &FailedError{errors.Join(err, d.handBack(ctx, c, f.Restore))}
	}
	d.log.Info("took keepalived over", "pid", f.PID)
	return Result{Reloaded: true}, d.commit(ctx, c, in)
}

// staysPut refuses a takeover by which a VIP would move: the holder, which runs
// its hand-written file still, may advertise less than that says while a check
// of its own fails.
func (d *Driver) staysPut(ctx context.Context, c *control, in *intent) error {
	said, err := c.probed.dumper.of(c.process.PID()).dump(ctx, c.process)
	if err != nil {
		return err
	}
	score := d.Snapshot().Score
	for n := range in.instances {
		i := &in.instances[n]
		at := slices.IndexFunc(said, func(s dumped) bool { return s.Name == i.name })
		if at < 0 {
			return fmt.Errorf("VIP %s: keepalived does not run an instance of that name: load its file first", i.vip)
		}
		heard := said[at].MasterPriority
		switch state := said[at].state(); {
		case state == InstanceInit, state == InstanceBackup && heard == 0:
			return fmt.Errorf("VIP %s: keepalived has not found out yet who holds it", i.vip)
		case state == InstanceBackup && i.priority+score > heard:
			return fmt.Errorf("VIP %s would move here: its holder advertises priority %d, and this node would have %d: "+
				"repair what lowers the holder's, or give this node a lower one", i.vip, heard, i.priority+score)
		}
	}
	return nil
}

// swapForeign is swap by way of the foreign process's own file.
func (d *Driver) swapForeign(ctx context.Context, c *control, in *intent, data []byte, f Foreign) error {
	if err := c.addRecord(d.paths.addresses, in.places()); err != nil {
		return err
	}
	if err := d.paths.prepareParents(in.parents()); err != nil {
		return err
	}
	if err := d.do(ctx, func(o *observer) { o.attach(c.process) }); err != nil {
		return err
	}
	if err := d.expect(ctx, in); err != nil {
		return err
	}
	if err := atomicfile.WriteFile(d.paths.config, data, 0o600); err != nil {
		return err
	}
	if err := f.Install(d.paths.config); err != nil {
		return err
	}
	return d.reload(ctx, c, func(ctx context.Context, c *control) error { return d.confirm(ctx, c, in) })
}

// GiveBack ends TakeOver: restore gives the process its own file back, it reads
// that, and goes on without the driver. A VIP stays where it is.
func (d *Driver) GiveBack(ctx context.Context, restore func() error) error {
	c, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer d.release(c)
	if !c.running() {
		return &FailedError{errors.New("keepalived does not run")}
	}
	if c.probed == nil {
		if c.probed, err = probe(ctx, d.opts.Binary, d.paths.dumpDir); err != nil {
			return err
		}
	}
	return d.handBack(ctx, c, restore)
}

// handBack gives up the process, which goes on with its own file. It is done to
// the end also when the caller has gone.
func (d *Driver) handBack(ctx context.Context, c *control, restore func() error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTimeout)
	defer cancel()
	if err := restore(); err != nil {
		return fmt.Errorf("its own file is not back: %w", err)
	}
	// What it holds is no more the driver's to remove.
	err := c.writeRecord(d.paths.addresses, nil)
	err = errors.Join(err, advertfilter.Remove(), d.reload(ctx, c, d.answer), d.paths.restoreParents(nil))
	err = errors.Join(err, d.do(ctx, func(o *observer) {
		o.detach(StateIdle, "", time.Now())
		o.watched = nil
		o.handovers = map[string]Handover{}
		o.look()
	}))
	err = errors.Join(err, c.process.Forget())
	c.process.Close()
	c.process, c.intent = nil, nil
	if removed := os.Remove(d.paths.config); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}
