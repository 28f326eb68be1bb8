package haproxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

const (
	// askEvery is how often the newest worker is asked whether it goes on, which takes
	// HAProxy 50 µs, and looked for the answer to the question before.
	askEvery = beat.Every
	// lookEvery is how often one looks while there is none.
	lookEvery = beat.Every / 2
	// hungAfter is how long a worker may be silent until that is told. The look half a
	// second after a question without an answer is the first one beyond it, 0.5 to 0.75 s
	// after the worker has stopped; of one that spins the second one after that, since what
	// it had used before is not known at the first. Between the looks is more than it takes
	// for one of them to be late, or for one that spins to have had a little less than all.
	hungAfter = 425 * time.Millisecond
	// replaceAfter is how long HAProxy may be silent until it is killed, to be
	// started again: a machine that swaps or a debugger goes on, with all
	// connections, and the VIP is elsewhere by then.
	replaceAfter = 10 * time.Second
	// pausedAfter is how late a look is when the agent did not run itself.
	pausedAfter = 625 * time.Millisecond
)

// silence measures for how long HAProxy has not answered although it could: neither
// while the agent did not run itself, since who sleeps hears nothing, nor while the
// worker waited for a processor.
type silence struct {
	looked time.Time
	worker daemon.Child // at the last look
	length time.Duration
}

// answered ends it.
func (s *silence) answered() { s.length, s.worker = 0, daemon.Child{} }

// look returns how long the silence lasts. It is called each askEvery, each lookEvery while
// it lasts, and worker is asked only while there is no answer.
func (s *silence) look(now time.Time, quiet bool, worker func() daemon.Child) time.Duration {
	since := now.Sub(s.looked)
	first := s.looked.IsZero()
	s.looked = now
	switch {
	case first || !quiet:
		return s.length
	case since > pausedAfter:
		// HAProxy may have been paused with the agent, and an answer may wait.
		s.length, s.worker = 0, daemon.Child{}
		return 0
	}
	more := min(since, lookEvery)
	if s.length == 0 {
		more = min(since, askEvery)
	}
	was, is := s.worker, worker()
	s.worker = is
	if is.Runnable {
		// One that spins has all of it. One that has just been started has nothing
		// to be compared with.
		more = min(more, is.CPU-was.CPU)
		if is.PID != was.PID {
			more = 0
		}
	}
	s.length += more
	return s.length
}

// attended has a process attended to.
func (d *Driver) attended(ctx context.Context, p *daemon.Process) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	d.unattended = func() {
		cancel()
		<-done
	}
	d.group.Go(func() error {
		defer close(done)
		defer cancel()
		d.attend(ctx, p)
		return nil
	})
}

// attend is the goroutine that asks the newest worker of a process, by its own
// socket and so without the master, whether it goes on, until the process or ctx
// ends. A worker that is slow is not one that hangs: each question is kept open
// for replaceAfter, and an answer to any of them ends the silence. Nor is one that the
// agent cannot ask, as one with a file of somebody else, which has another socket.
func (d *Driver) attend(ctx context.Context, p *daemon.Process) {
	defer d.hung.Store(false)
	due := beat.After(time.Now(), askEvery)
	tick := time.NewTimer(time.Until(due))
	defer tick.Stop()
	questions := runtime.Questions{Path: d.paths.stats, Patience: replaceAfter} // some 40 of a worker that hangs
	defer questions.Close()
	last := time.Now() // when it was asked
	asked := questions.Ask(last)
	var told string // why it cannot be asked
	var s silence
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		answered, err := questions.Answers(now)
		if answered {
			s.answered()
			d.speaks()
			asked = nil
		}
		silent := questions.Open() > 0
		switch err := errors.Join(asked, err); {
		case err == nil:
		case errors.Is(err, runtime.ErrSilent) || workerless(p):
			silent = true
		case err.Error() != told:
			told = err.Error()
			d.logger.Info("cannot ask haproxy's worker whether it goes on", "error", err)
		}
		length := s.look(now, silent && !answered, func() daemon.Child { return d.youngest(p) })
		if silent = silent && !answered; asksAgain(silent, now.Sub(last)) {
			last, asked = now, questions.Ask(now)
		}
		due = next(due, now, silent)
		tick.Reset(time.Until(due))
		switch {
		case length >= replaceAfter:
			d.logger.Error("haproxy does not answer and is killed", "pid", p.PID(), "silent", length)
			if err := p.KillAll(); err != nil {
				d.logger.Error("cannot kill a haproxy that does not answer", "pid", p.PID(), "error", err)
			}
			s.length = 0
		case length >= hungAfter:
			d.silent(p)
		}
	}
}

// asksAgain tells whether to ask at a look: whenever there is an answer, however soon after
// the last question, and else each askEvery.
func asksAgain(silent bool, since time.Duration) bool {
	return !silent || since > lookEvery+lookEvery/2
}

// next is when to look after a look that was due: at a beat, and in a silence half a beat
// after that one, however late it was.
func next(due, now time.Time, silent bool) time.Time {
	if !silent {
		return beat.After(now, askEvery)
	}
	if due = due.Add(lookEvery); due.Before(now) {
		due = now.Add(lookEvery)
	}
	return due
}

// youngest is the worker that was started last.
func (d *Driver) youngest(p *daemon.Process) daemon.Child {
	c, err := p.Youngest()
	if err != nil {
		d.logger.Debug("cannot tell what haproxy's worker does", "error", err)
	}
	return c
}

// workerless tells whether a process has no worker at all: then it is no fault of the
// agent's that nobody can be asked.
func workerless(p *daemon.Process) bool {
	c, err := p.Youngest()
	return err == nil && c.PID == 0
}

// silent tells, once, that HAProxy hangs.
func (d *Driver) silent(p *daemon.Process) {
	if d.hung.Swap(true) {
		return
	}
	// Everyone is told before anything is done about it.
	d.board.setDaemonIf(func() bool { return p.Exit() == "" }, Daemon{
		State: Stopped, Message: fmt.Sprintf("its worker hangs: no answer for %v; it is killed after %v", hungAfter, replaceAfter),
	})
	d.logger.Error("haproxy hangs", "pid", p.PID(), "silent", hungAfter)
}

// speaks ends silent: the next poll tells that HAProxy runs.
func (d *Driver) speaks() {
	if !d.hung.Swap(false) {
		return
	}
	d.logger.Warn("haproxy answers again")
	select {
	case d.kick <- struct{}{}:
	default:
	}
}
