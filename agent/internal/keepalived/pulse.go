package keepalived

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// A keepalived that hangs advertises nothing, so that its peer takes the VIPs, and
// removes nothing, so that two nodes hold them. Nor does one whose VRRP process has ended:
// it starts the next one at once, but when that has lived for less than a minute only
// after a delay of up to one (lib/scheduler.c, calc_restart_delay). One that goes on is
// woken by its own advertisements or by those that it hears, which the kernel counts: it
// costs keepalived nothing to look.

const (
	// lookEvery is how often the pulse of keepalived's VRRP process is felt.
	lookEvery = beat.Every
	// answerTime is how long one without a pulse gets for the answer to a question,
	// which takes 2 ms.
	answerTime = 500 * time.Millisecond
	// pausedAfter is how late a look is when the agent did not run itself.
	pausedAfter = 625 * time.Millisecond
)

// subject is a keepalived whose peers take over when it hangs.
type subject struct {
	process *daemon.Process
	// patience is how long it may stand still: for less nobody takes a VIP.
	patience time.Duration
}

// attend has somebody attend to keepalived, or nobody where there is none, or no peer:
// an address that stays is better than none then.
// One whose instances are all in FAULT has nothing to take, and sleeps: it is asked as
// often as without this.
func (o *observer) attend() {
	var patience time.Duration
	awake := false
	for n := range o.watched {
		if w := &o.watched[n]; w.peered {
			patience = max(patience, 4*w.advert) // three and the skew (RFC 9568, 6.1)
			awake = awake || w.State != InstanceFault
		}
	}
	if patience != 0 && !awake {
		patience = max(patience, resyncEvery)
	}
	if o.process == nil || patience == 0 {
		o.subject.Store(nil)
		return
	}
	o.subject.Store(&subject{o.process, patience})
}

// verdict on a keepalived.
type verdict int

const (
	alive verdict = iota
	doubtful
	hung
)

// stillness measures for how long keepalived has stood still although it could go
// on: neither while the agent did not run itself, since who sleeps sees nothing, nor
// while keepalived waited for a processor.
type stillness struct {
	looked time.Time
	last   daemon.Pulse
	length time.Duration
	asked  bool // and there was no answer
}

// look is called each lookEvery.
func (s *stillness) look(now time.Time, is daemon.Pulse, patience time.Duration) verdict {
	since := now.Sub(s.looked)
	ended := is.PID == 0 // or there has been none yet
	if ended {
		is = s.last
		is.Runnable = false
	}
	goes := is.PID == 0 || is.PID != s.last.PID || is.Switches != s.last.Switches || is.Runnable
	if goes || s.looked.IsZero() || since > pausedAfter {
		s.length, s.asked = 0, false
	} else {
		s.length += min(since, lookEvery)
	}
	s.looked, s.last = now, is
	switch {
	case s.length < patience:
		return alive
	case ended || is.Stopped || s.asked:
		return hung
	default:
		return doubtful
	}
}

// ask notes that keepalived was asked in the time until now, and did not answer.
func (s *stillness) ask(began, now time.Time) {
	if now.Sub(began) > answerTime+pausedAfter {
		*s = stillness{}
		return
	}
	s.asked, s.looked = true, now
}

// feel is the goroutine that has a keepalived that hangs ended; the keeper starts
// another one.
func (d *Driver) feel(ctx context.Context) error {
	tick := time.NewTimer(beat.In(lookEvery))
	defer tick.Stop()
	var s stillness
	var heart daemon.Heart
	defer heart.Close()
	var of, killed *daemon.Process
	for {
		select {
		case <-tick.C:
			tick.Reset(beat.In(lookEvery))
		case <-ctx.Done():
			return ctx.Err()
		}
		subject := d.observer.subject.Load()
		if subject == nil || subject.process != of {
			s, of = stillness{}, nil
		}
		if subject == nil || subject.process == killed || subject.process.Exit() != "" {
			continue
		}
		of = subject.process
		pulse, err := heart.Pulse(of)
		if err != nil {
			d.log.Debug("cannot feel keepalived's pulse", "error", err)
			continue
		}
		switch s.look(time.Now(), pulse, subject.patience) {
		case alive:
		case doubtful:
			if began, asked := d.question(ctx, of); asked {
				s.ask(began, time.Now())
			} else {
				s.looked = time.Now() // it is as doubtful as before
			}
		case hung:
			killed = of
			if err := d.replace(ctx, subject, pulse); err != nil && ctx.Err() == nil {
				d.log.Error("cannot replace a keepalived that hangs", "error", err)
			}
		}
	}
}

// question asks keepalived for something, for answerTime: its process wakes for that. It
// was not asked where somebody else has the control all the time, who may be waiting for
// the network or the disk.
func (d *Driver) question(ctx context.Context, p *daemon.Process) (began time.Time, asked bool) {
	waiting, stop := context.WithTimeout(ctx, answerTime)
	defer stop()
	c, err := d.acquire(waiting)
	if err != nil {
		return time.Time{}, false
	}
	defer d.release(c)
	if c.process != p || c.probed == nil {
		return time.Time{}, false
	}
	asking, stop := context.WithTimeout(ctx, answerTime)
	defer stop()
	began = time.Now()
	if err := d.answer(asking, c); err != nil {
		<-asking.Done()
	}
	return began, true
}

// replace kills a keepalived that hangs. What it held is removed by whoever learns of
// its end, who starts another one. One that the kernel does not let end holds nothing
// any more, either.
func (d *Driver) replace(ctx context.Context, s *subject, pulse daemon.Pulse) error {
	why := fmt.Sprintf("it does not wake for advertisements, nor for a question within %v", answerTime)
	switch {
	case pulse.PID == 0:
		why = "its VRRP process has ended, and it waits before it starts another one"
	case pulse.Stopped:
		why = "a signal or a debugger has stopped it"
	}
	d.log.Error("keepalived hangs and is killed", "pid", s.process.PID(), "reason", why)
	err := d.do(ctx, func(o *observer) {
		o.notes = append(o.notes, fmt.Sprintf("keepalived hangs and is killed, to be started anew: %s", why))
	})
	if err := errors.Join(err, kill(s.process)); err != nil {
		return err
	}
	select {
	case <-s.process.Done():
		return nil
	case <-time.After(answerTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer d.release(c)
	_, err = remove(c.record)
	return errors.Join(err, errors.New("it does not end: the kernel does not let it go on"))
}
