package keepalived

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// resyncEvery is how often keepalived and the kernel are asked, in case that
// something was missed.
const resyncEvery = 5 * time.Second

// Run observes keepalived and keeps it running until ctx is done; keepalived
// goes on. It is called once.
func (d *Driver) Run(ctx context.Context) error {
	defer close(d.ended)
	fifo, old, err := openFIFO(d.paths.fifo)
	if err != nil {
		return fmt.Errorf("keepalived driver: %w", err)
	}
	d.observer.miss(old)
	d.fifo = fifo
	notices := make(chan notice, 64)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.observe(ctx, notices) })
	g.Go(func() error { return d.keep(ctx) })
	g.Go(func() error { return d.feel(ctx) })
	g.Go(func() error { return d.attendReach(ctx) })
	g.Go(func() error { return d.observer.wire.Run(ctx) })
	g.Go(func() error { return d.observer.tracks.Run(ctx) })
	g.Go(func() error { return d.track(ctx) })
	g.Go(func() error {
		err := readNotices(ctx, fifo, notices, func(err error) { d.log.Warn("notify FIFO", "error", err) })
		if ctx.Err() != nil {
			return ctx.Err() // closed below
		}
		return err
	})
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(ctx.Err(), fifo.Close())
	})
	err = g.Wait()
	d.endGuards()
	d.letGo()
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("keepalived driver: %w", err)
	}
	return nil
}

// letGo ends the watch over keepalived, which goes on. An Apply that is under
// way has the control and fails.
func (d *Driver) letGo() {
	select {
	case c := <-d.control:
		if c.process != nil {
			c.process.Close()
		}
	default:
	}
}

// observe is the observer's goroutine.
func (d *Driver) observe(ctx context.Context, notices <-chan notice) error {
	o := d.observer
	kernel, err := subscribe()
	if err != nil {
		return err
	}
	defer func() { kernel.end() }()
	o.look()
	d.publish(&Snapshot{}, o) // whoever listens gets the whole state first
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		done, failed := func() {}, false
		select {
		case t := <-d.mail:
			t.run(o)
			done = func() { close(t.done) }
		case n := <-notices:
			o.notice(n, time.Now())
		case u, ok := <-kernel.addresses:
			address, known := netip.AddrFromSlice(u.LinkAddress.IP)
			if failed = !ok; known {
				o.kernel(address.Unmap())
			}
		case u, ok := <-kernel.links:
			if failed = !ok; !failed {
				o.link(u)
			}
		case <-o.wire.Changed():
			o.hear(time.Now())
		case <-o.done():
			o.ended(time.Now())
		case <-due.C:
			o.endFences(time.Now())
			o.endCuts(time.Now())
			o.writeScores(time.Now())
		case <-ctx.Done():
			// Nobody would end a release afterwards.
			o.scores.released()
			o.writeScores(time.Now())
			return ctx.Err()
		}
		if failed {
			again, err := subscribe()
			if err != nil {
				return err
			}
			kernel.end()
			kernel = again
			o.look()
			o.wake()
		}
		d.publish(d.snapshot.Load(), o)
		done()
		if next := o.scores.next(time.Now()); !next.IsZero() {
			due.Reset(time.Until(next))
		}
	}
}

// publish makes the snapshot visible and then tells what changed.
func (d *Driver) publish(old *Snapshot, o *observer) {
	now := o.snapshot()
	d.snapshot.Store(now)
	at := time.Now()
	for n := range o.transitions {
		d.opts.Notify(Event{Time: at, Transition: &o.transitions[n]})
	}
	o.transitions = nil
	for _, e := range changes(old, now, at) {
		d.opts.Notify(e)
	}
	for _, text := range o.notes {
		d.opts.Notify(Event{Time: at, Note: text})
	}
	o.notes = nil
}

// keep looks after keepalived, regularly and when woken.
func (d *Driver) keep(ctx context.Context) error {
	tick := time.NewTimer(beat.In(resyncEvery))
	defer tick.Stop()
	said := "" // what was wrong, the last time
	for told := false; ; {
		c, err := d.acquire(ctx)
		if err != nil {
			return err
		}
		err = errors.Join(c.filter(), d.tend(ctx, c, told))
		d.release(c)
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			d.log.Warn("looking after keepalived", "error", err)
		}
		told = false
		select {
		case <-tick.C:
			tick.Reset(beat.In(resyncEvery))
		case <-d.kick:
		case <-d.opts.Runner.Changed():
			told = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tend restarts keepalived when it has ended, and else asks it. told: the runner
// has news of it.
func (d *Driver) tend(ctx context.Context, c *control, told bool) error {
	if c.intent != nil {
		if err := mark(d.paths.drained, c.intent.drain); err != nil {
			d.log.Debug("whether the node is drained is not on disk", "error", err) // told before
		}
		// Somebody may have flushed all tables.
		if err := d.guard(ctx, c.intent); err != nil {
			return err
		}
	}
	if c.intent != nil {
		// One that was made anew has other settings.
		if err := d.paths.prepareParents(c.intent.parents()); err != nil {
			d.log.Debug("clients may learn the interface's own address", "error", err) // there is none, perhaps
		}
	}
	if !c.running() {
		err := d.find(ctx, c)
		if errors.Is(err, daemon.ErrNotRunning) {
			err = d.explain(ctx, err, told)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case !c.running():
		// Nobody gives these up any more, and another node may take them.
		left, err := remove(c.record)
		err = errors.Join(err, removeDevices(c.record, nil))
		for _, p := range left {
			d.log.Warn("removed an address that keepalived left behind", "address", p.Address, "interface", p.Interface)
		}
		if err != nil || c.intent == nil || len(c.intent.instances) == 0 {
			return err
		}
		return d.restart(ctx, c)
	case c.intent == nil:
		return nil // Apply comes soon and knows what is wanted
	default:
		return d.resync(ctx, c)
	}
}

// explain has the runner's word for why keepalived does not run, when it is news.
func (d *Driver) explain(ctx context.Context, why error, told bool) error {
	if !told {
		return nil
	}
	return d.do(ctx, func(o *observer) {
		if o.state == StateStopped {
			o.message = why.Error()
		}
	})
}

// restart starts keepalived anew: at once when it had lived for a while, else
// with growing delays.
func (d *Driver) restart(ctx context.Context, c *control) error {
	now := time.Now()
	if now.Sub(c.started) > steadyAfter {
		c.retry.Reset()
		c.next = now
	}
	if wait := c.next.Sub(now); wait > 0 {
		time.AfterFunc(wait, d.wake)
		return nil
	}
	c.started, c.next = now, now.Add(c.retry.NextBackOff())
	if err := d.rewrite(c); err != nil {
		return err
	}
	if err := d.do(ctx, func(o *observer) { o.writeScores(now) }); err != nil {
		return err
	}
	if err := d.startAnew(ctx, c); err != nil {
		time.AfterFunc(time.Until(c.next), d.wake)
		return errors.Join(err, d.do(ctx, func(o *observer) { o.fail(err) }))
	}
	return nil
}

// startAnew starts the binary that is there now: it may have been removed or
// replaced.
func (d *Driver) startAnew(ctx context.Context, c *control) error {
	found, err := probe(ctx, d.opts.Binary, d.paths.dumpDir)
	if err != nil {
		return err
	}
	c.probed = found
	if err := d.do(ctx, func(o *observer) { o.version = found.version }); err != nil {
		return err
	}
	return d.start(ctx, c)
}

// rewrite makes the file what is in effect, where it is not.
func (d *Driver) rewrite(c *control) error {
	data := render(c.intent, d.layout)
	if on, err := ownFile(d.paths.config); err != nil || bytes.Equal(on, data) {
		return err
	}
	return atomicfile.WriteFile(d.paths.config, data, 0o600)
}

// maxSilent is how many dumps in a row may stay without an answer.
const maxSilent = 3

// resync asks keepalived and the kernel. A keepalived that does not answer is
// ended: its peer takes the VIP and this one would not let go of it.
func (d *Driver) resync(ctx context.Context, c *control) error {
	if err := c.process.TrimLog(); err != nil {
		d.log.Warn("cannot trim keepalived's log", "error", err)
	}
	if err := d.rebind(ctx, c); err != nil {
		return err
	}
	mismatch, err := d.compare(ctx, c, c.intent)
	if err == nil {
		c.silent = 0
		if mismatch == "" {
			return d.revive(ctx, c)
		}
		return d.correct(ctx, c, mismatch)
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	c.silent++
	d.wake()
	if c.silent < maxSilent {
		return err
	}
	d.log.Error("keepalived does not answer and is killed", "pid", c.process.PID())
	return kill(c.process)
}

// revive has keepalived take up instances whose source of advertisements has come.
func (d *Driver) revive(ctx context.Context, c *control) error {
	came, err := c.sourceCame(d.Snapshot().Instances)
	if err != nil || !came {
		return err
	}
	d.log.Info("keepalived is told again, since an address that it advertises from has come")
	return d.reload(ctx, c, d.answer)
}

// correct has keepalived read its file when it runs something else, such as
// after a signal by hand. What the kernel does not have yet comes by itself.
func (d *Driver) correct(ctx context.Context, c *control, mismatch string) error {
	said, err := d.ask(ctx, c)
	if err != nil || c.intent.differs(said) == "" {
		return err
	}
	d.log.Warn("keepalived runs something else and is told again", "difference", mismatch)
	if err := d.rewrite(c); err != nil {
		return err
	}
	return d.reload(ctx, c, d.answer)
}
