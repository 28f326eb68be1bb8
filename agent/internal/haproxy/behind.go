package haproxy

import (
	"bytes"
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// behind tells when the file is to be written. A change of servers acts first
// and reaches the file a moment later, so that many of them cost one write;
// whoever starts HAProxy before makes the file anew (see BeforeStart).
type behind struct {
	timer   <-chan time.Time // nil: the file is as it shall be
	delay   *backoff.ExponentialBackOff
	last    time.Time // when the file was last written
	failing bool      // the last attempt failed
}

const (
	// fileDelay is the least time between two writes, and so how long the file
	// may be behind on a disk that works.
	fileDelay = 500 * time.Millisecond
	// maxFileRetry bounds how long it is after the disk works again.
	maxFileRetry = 5 * time.Second
)

func newBehind() behind {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = fileDelay, maxFileRetry
	return behind{delay: delay}
}

func (b *behind) due() <-chan time.Time { return b.timer }

// soon has the file written, unless that is to be soon anyway: at once, that is
// after the answer to who has asked for the change, or a while after the last
// time.
func (b *behind) soon() {
	if b.timer == nil {
		b.timer = time.After(fileDelay - time.Since(b.last))
	}
}

// writeFile makes the file say what is in effect, and the last good one the
// same. What fails is told, and tried again.
func (d *Driver) writeFile() {
	d.behind.timer = nil
	if d.good == nil {
		return
	}
	err := d.installGood()
	d.behind.last = time.Now()
	if err != nil {
		if !d.behind.failing {
			d.logger.Error("haproxy's file is behind what is in effect", "error", err)
		}
		d.behind.failing = true
		d.board.fileIs(err)
		d.behind.timer = time.After(d.behind.delay.NextBackOff())
		return
	}
	d.behind.delay.Reset()
	if d.behind.failing {
		d.behind.failing = false
		d.board.fileIs(nil)
	}
}

func (d *Driver) installGood() error {
	current, err := d.paths.current()
	if err != nil {
		return err
	}
	if !bytes.Equal(current, d.good) {
		if err := d.paths.install(d.good); err != nil {
			return err
		}
		crash.FileFollowed.Pass()
	}
	if err := d.paths.keepGood(); err != nil {
		return err
	}
	crash.GoodFileKept.Pass()
	return nil
}

// beforeStart makes the file right for a HAProxy that does not run and returns
// it; nil: there is none.
func (d *Driver) beforeStart(ctx context.Context) ([]byte, error) {
	if d.boot != nil {
		told, err := d.paths.prepare(ctx, d.boot, d.site())
		if told != nil {
			d.logger.Error("haproxy starts with an older file", "error", told)
		}
		if err != nil {
			return nil, err
		}
	}
	return d.paths.current()
}

// align brings a worker that someone else started to what is in effect: it may
// have read a file that was a moment behind.
func (d *Driver) align(ctx context.Context) {
	if d.target == nil || d.worker == nil || d.worker.pid == d.settled {
		return
	}
	d.settled = d.worker.pid
	d.behind.soon()
	p := d.plan(d.target)
	if p.Reload != "" {
		d.logger.Error("haproxy was started with another file than the one in effect", "reason", p.Reload)
		return
	}
	if _, err := d.operate(ctx, d.target, p); err != nil {
		d.logger.Error("haproxy was started anew, and its servers are not right", "error", err)
	}
}

// RunsOther tells whether HAProxy runs, and something else than the configuration:
// Apply would change it. It changes nothing of HAProxy itself. Requests are logged
// where the configuration says from then on, if its structure runs. It needs Run.
func (d *Driver) RunsOther(ctx context.Context, c *haproxyv1.Config) (other bool, err error) {
	file, err := d.render(c)
	if err != nil {
		return false, err
	}
	err = d.turnOf(ctx, func(context.Context) error {
		if d.process == nil {
			return nil
		}
		d.asked(file)
		if _, err := d.refresh(ctx); err != nil {
			return &FailedError{What: "does not answer", Err: err}
		}
		if err := d.look(ctx); err != nil {
			return &FailedError{What: "does not answer", Err: err}
		}
		p := d.plan(file)
		other = p.Reload != "" || len(p.Steps) > 0
		if d.worker.Structure == file.Structure {
			d.logRequests(file)
		}
		return nil
	})
	return other, err
}
