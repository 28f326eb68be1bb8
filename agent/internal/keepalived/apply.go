package keepalived

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Check has keepalived check a configuration and changes nothing. The errors
// are those of Apply.
func (d *Driver) Check(ctx context.Context, config *keepalivedv1.Config) error {
	in, err := resolve(config, d.opts.Networks)
	if err != nil || len(in.instances) == 0 {
		return err
	}
	binary, err := probe(ctx, d.opts.Binary, d.paths.dumpDir)
	if err != nil {
		return err
	}
	if err := in.checkInterfaces(); err != nil {
		return &FailedError{err}
	}
	data := render(in, d.layout)
	if old, err := ownFile(d.paths.config); err == nil && bytes.Equal(data, old) {
		return nil // it has been asked, and a full disk takes no candidate
	}
	return d.checkCandidate(ctx, binary.path, data)
}

// Apply makes keepalived run the configuration, and returns when keepalived
// and the kernel confirm it. An unchanged one costs no reload. Without
// instances keepalived is stopped and every address released. When it fails,
// the last good configuration stays in effect; the error is a RefusedError, a
// FailedError or a MissingError, or the context's.
func (d *Driver) Apply(ctx context.Context, config *keepalivedv1.Config) (Result, error) {
	c, err := d.acquire(ctx)
	if err != nil {
		return Result{}, err
	}
	defer d.release(c)
	result, err := d.apply(ctx, c, config)
	if err != nil && !c.running() {
		return result, errors.Join(err, d.do(ctx, func(o *observer) { o.fail(err) }))
	}
	return result, err
}

func (d *Driver) apply(ctx context.Context, c *control, config *keepalivedv1.Config) (Result, error) {
	in, err := resolve(config, d.opts.Networks)
	if err != nil {
		return Result{}, err
	}
	if len(in.instances) == 0 {
		return d.idle(ctx, c, in)
	}
	if c.probed, err = probe(ctx, d.opts.Binary, d.paths.dumpDir); err != nil {
		return Result{}, err
	}
	if err := in.checkInterfaces(); err != nil {
		return Result{}, &FailedError{err}
	}
	data := render(in, d.layout)
	old, err := ownFile(d.paths.config)
	if err != nil {
		return Result{}, &FailedError{err}
	}
	if c.running() && bytes.Equal(data, old) {
		if err := d.expect(ctx, in); err != nil {
			return Result{}, err
		}
		// keepalived may still run the file before this one, if the agent
		// ended between the swap and the signal. It does not tell all that it runs.
		unread, err := marked(d.paths.swapped)
		if err != nil {
			return Result{}, &FailedError{err}
		}
		if ok, err := d.runs(ctx, c, in); err != nil {
			return Result{}, err
		} else if ok && !unread {
			return Result{}, d.commit(ctx, c, in)
		}
	}
	if err := d.checkCandidate(ctx, c.probed.path, data); err != nil {
		return Result{}, err
	}
	if err := in.awaitLinkLocal(ctx); err != nil {
		return Result{}, &FailedError{err}
	}
	if err := d.checkOwners(ctx, c, in); err != nil {
		return Result{}, &FailedError{err}
	}
	if err := d.change(ctx, c, in, data); err != nil {
		return Result{Reloaded: true}, d.back(ctx, c, old, err)
	}
	return Result{Reloaded: true}, d.commit(ctx, c, in)
}

// change goes to the checked configuration, by way of another one where
// addresses move.
func (d *Driver) change(ctx context.Context, c *control, in *intent, data []byte) error {
	if c.running() && c.intent != nil {
		if between, moved := in.between(c.intent); moved {
			data := render(between, d.layout)
			if err := d.checkCandidate(ctx, c.probed.path, data); err != nil {
				return err
			}
			if err := d.swap(ctx, c, between, data); err != nil {
				return err
			}
		}
	}
	return d.swap(ctx, c, in, data)
}

// checkCandidate has keepalived read the bytes from a temporary file.
func (d *Driver) checkCandidate(ctx context.Context, binary string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(d.paths.config), "candidate.*.conf")
	if err != nil {
		return &FailedError{err}
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return &FailedError{err}
	}
	return checkFile(ctx, binary, f.Name())
}

// expect tells the observer what comes, has the track files written, and lets the
// peers' advertisements in. The track files do not wait for a disk that cannot be
// written.
func (d *Driver) expect(ctx context.Context, in *intent) error {
	if err := d.guard(ctx, in); err != nil {
		return err
	}
	if err := mark(d.paths.drained, in.drain); err != nil {
		d.log.Error("whether the node is drained is not on disk, and would be forgotten by a restart of keepalived", "drained", in.drain, "error", err)
	}
	var err error
	if ended := d.do(ctx, func(o *observer) { err = o.expect(in, time.Now()) }); ended != nil {
		return ended
	}
	if err != nil {
		return &FailedError{err}
	}
	return nil
}

// swap puts the checked configuration in place and has keepalived run it.
func (d *Driver) swap(ctx context.Context, c *control, in *intent, data []byte) error {
	if err := c.addRecord(d.paths.addresses, in.places()); err != nil {
		return err
	}
	if err := d.paths.prepareParents(in.parents()); err != nil {
		return err
	}
	if err := d.expect(ctx, in); err != nil {
		return err
	}
	if err := mark(d.paths.swapped, true); err != nil {
		return err
	}
	if err := atomicfile.WriteFile(d.paths.config, data, 0o600); err != nil {
		return err
	}
	crash.VRRPFileSwapped.Pass()
	confirmed := func(ctx context.Context, c *control) error {
		crash.VRRPSignalled.Pass()
		return d.confirm(ctx, c, in)
	}
	var err error
	if c.running() {
		err = d.reload(ctx, c, confirmed)
	} else if err = d.start(ctx, c); err == nil {
		err = confirmed(ctx, c)
	}
	if err != nil {
		return err
	}
	crash.VRRPConfirmed.Pass()
	return mark(d.paths.swapped, false)
}

// commit makes the intent the one in effect and removes what it no longer has.
func (d *Driver) commit(ctx context.Context, c *control, in *intent) error {
	c.intent = in
	if err := c.replaceRecord(d.paths.addresses, in.places()); err != nil {
		return &FailedError{err}
	}
	if err := d.paths.restoreParents(in.parents()); err != nil {
		return &FailedError{err}
	}
	var err error
	if ended := d.do(ctx, func(o *observer) { err = o.scores.tidy(); o.version = c.probed.version }); ended != nil {
		return ended
	}
	if err != nil {
		return &FailedError{err}
	}
	return nil
}

// backTimeout is for going back, which goes on when the caller has gone.
const backTimeout = 10 * time.Second

// back returns to the configuration before a failed swap.
func (d *Driver) back(ctx context.Context, c *control, old []byte, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTimeout)
	defer cancel()
	var err error
	switch {
	case old != nil && errors.Is(cause, daemon.ErrNotRunning):
		// It is not the agent's to start.
		err = atomicfile.WriteFile(d.paths.config, old, 0o600)
	case old == nil:
		// Nothing ever worked: nothing is better than half of it.
		if _, err = d.idle(ctx, c, &intent{}); err == nil {
			c.intent = nil
		}
	case c.intent == nil:
		// The last good one is known as bytes only, from an earlier agent.
		if err = atomicfile.WriteFile(d.paths.config, old, 0o600); err == nil && c.running() {
			err = d.reload(ctx, c, d.answer)
		} else if err == nil {
			err = d.start(ctx, c)
		}
	default:
		if err = d.swap(ctx, c, c.intent, old); err == nil {
			err = errors.Join(c.replaceRecord(d.paths.addresses, c.intent.places()), d.paths.restoreParents(c.intent.parents()))
		}
	}
	if err != nil {
		cause = fmt.Errorf("%w; and going back failed: %w", cause, err)
	}
	return &FailedError{cause}
}

// idle stops keepalived and leaves no address behind.
func (d *Driver) idle(ctx context.Context, c *control, in *intent) (Result, error) {
	result := Result{Reloaded: c.running()}
	if err := d.stop(ctx, c); err != nil {
		return result, err
	}
	if err := d.expect(ctx, in); err != nil {
		return result, err
	}
	if err := errors.Join(c.replaceRecord(d.paths.addresses, nil), d.paths.restoreParents(nil)); err != nil {
		return result, &FailedError{err}
	}
	if _, err := ownFile(d.paths.config); err != nil {
		return result, &FailedError{err}
	}
	if err := os.Remove(d.paths.config); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return result, &FailedError{err}
	}
	c.intent = in
	return result, nil
}
