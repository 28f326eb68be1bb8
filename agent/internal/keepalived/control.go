package keepalived

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// control is what decides over the process. It is handed around in a channel:
// either Apply or the keeper has it, and whoever has it may take long.
type control struct {
	process *daemon.Process     // nil: none
	probed  *probed             // the binary that was last used
	intent  *intent             // in effect; nil: not known to this agent
	record  []place             // what keepalived may have brought up
	missing map[netip.Addr]bool // sources of advertisements that were not there; nil: not known

	started time.Time // of the last start
	next    time.Time // no start before
	retry   *backoff.ExponentialBackOff
	silent  int // dumps without an answer, in a row
}

// Delays between restarts of a keepalived that does not live for steadyAfter.
const (
	minRestart  = 500 * time.Millisecond
	maxRestart  = 30 * time.Second
	steadyAfter = 10 * time.Second
)

// newControl finds out what an earlier agent left.
func (d *Driver) newControl(ctx context.Context) (*control, error) {
	c := &control{retry: backoff.NewExponentialBackOff()}
	c.retry.InitialInterval, c.retry.MaxInterval = minRestart, maxRestart
	var err error
	if c.record, err = readRecord(d.paths.addresses); err != nil {
		d.log.Error("cannot tell what an earlier keepalived left behind", "error", err)
	} else if err = filterDevices(c.record); err != nil {
		d.log.Error("the filter of devices is an earlier agent's", "error", err)
	}
	c.process, err = d.opts.Runner.Find(ctx, d.spec(""))
	if err != nil && !errors.Is(err, daemon.ErrNotRunning) {
		return nil, err
	}
	return c, nil
}

// acquire takes the control; every taker releases it.
func (d *Driver) acquire(ctx context.Context) (*control, error) {
	select {
	case c := <-d.control:
		return c, nil
	case <-d.ended:
		return nil, errEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *Driver) release(c *control) { d.control <- c }

// running tells whether keepalived runs.
func (c *control) running() bool {
	if c.process == nil {
		return false
	}
	select {
	case <-c.process.Done():
		return false
	default:
		return true
	}
}

// start starts keepalived with the configuration on disk.
func (d *Driver) start(ctx context.Context, c *control) error {
	p, err := d.opts.Runner.Start(ctx, d.spec(c.probed.path))
	if err != nil {
		return err
	}
	d.log.Info("started keepalived", "pid", p.PID(), "version", c.probed.version)
	return d.watch(ctx, c, p)
}

// find takes over a keepalived that runs and is not known yet.
func (d *Driver) find(ctx context.Context, c *control) error {
	p, err := d.opts.Runner.Find(ctx, d.spec(""))
	if err != nil {
		return err
	}
	d.log.Info("found keepalived running", "pid", p.PID())
	if c.intent != nil {
		// It may be another binary than before.
		if c.probed, err = probe(ctx, d.opts.Binary, d.paths.dumpDir); err != nil {
			return err
		}
	}
	return d.watch(ctx, c, p)
}

// watch makes the process the driver's.
func (d *Driver) watch(ctx context.Context, c *control, p *daemon.Process) error {
	c.process, c.started, c.silent = p, time.Now(), 0
	var err error
	ended := d.do(ctx, func(o *observer) {
		o.attach(p)
		// A hook may have written others.
		err = o.scores.renew(time.Now())
	})
	return errors.Join(err, ended)
}

// stopTimeout is how long keepalived gets to release its addresses. It takes
// about a second.
const stopTimeout = 10 * time.Second

// stop ends keepalived, which releases its addresses.
func (d *Driver) stop(ctx context.Context, c *control) error {
	// The observer does not take this end for an accident.
	if err := d.do(ctx, func(o *observer) { o.detach(StateIdle, "", time.Now()) }); err != nil {
		return err
	}
	if !c.running() {
		c.process = nil
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := d.opts.Runner.Stop(ctx, c.process)
	c.process = nil
	if err != nil {
		return &FailedError{err}
	}
	d.log.Info("stopped keepalived, as there is no VIP")
	return nil
}

// addRecord notes, before keepalived is told of them, addresses that it may
// bring up.
func (c *control) addRecord(path string, places []place) error {
	record := slices.Clone(c.record)
	for _, p := range places {
		if !slices.Contains(record, p) {
			record = append(record, p)
		}
	}
	return c.writeRecord(path, record)
}

// replaceRecord removes from the kernel what keepalived no longer has, and
// then from the record.
func (c *control) replaceRecord(path string, places []place) error {
	var gone []place
	for _, p := range c.record {
		if !slices.Contains(places, p) {
			gone = append(gone, p)
		}
	}
	// The same address may only have got another prefix length.
	gone = slices.DeleteFunc(gone, func(p place) bool {
		return slices.ContainsFunc(places, func(kept place) bool {
			return kept.Interface == p.Interface && kept.Address.Addr() == p.Address.Addr()
		})
	})
	if _, err := remove(gone); err != nil {
		return err
	}
	if err := removeDevices(gone, places); err != nil {
		return err
	}
	return c.writeRecord(path, places)
}

func (c *control) writeRecord(path string, record []place) error {
	if slices.Equal(record, c.record) {
		return nil
	}
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	had := len(devicesOf(c.record)) > 0
	c.record = record
	if had || len(devicesOf(record)) > 0 {
		return filterDevices(record)
	}
	return nil
}

// filter keeps from the devices of the record what they must not act upon: somebody may
// have flushed all tables.
func (c *control) filter() error {
	if len(devicesOf(c.record)) == 0 {
		return nil
	}
	if err := filterDevices(c.record); err != nil {
		return fmt.Errorf("clients may be led astray: %w", err)
	}
	return nil
}
