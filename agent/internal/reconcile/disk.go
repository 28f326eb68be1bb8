package reconcile

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/target"
)

// disk is what the store holds. A change of servers, of the node's drain or of its
// peers is in the journal before anything acts on it; everything else is a candidate
// first and good once it is in effect. A disk that cannot be written holds back a
// new structure, and never the rest: that acts, and is told to be unsaved until it
// is not.
type disk struct {
	target *target.Target   // what Good would return; nil: not known
	due    <-chan time.Time // when to save what is in effect; nil: it is
	delay  *backoff.ExponentialBackOff
}

// maxSaveRetry bounds how long what is in effect stays unsaved after the disk
// can be written again.
const maxSaveRetry = 5 * time.Second

func newDisk(good *target.Target) disk {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = minRetry, maxSaveRetry
	return disk{target: good, delay: delay}
}

// kept is how a target was made durable before it is in effect.
type kept int

const (
	asGood      kept = iota // Good returns it
	asCandidate             // it is the candidate
	notKept                 // the disk cannot be written
)

// keep makes a target durable before anything acts on it. The error refuses it.
func (r *Reconciler) keep(t *target.Target) (kept, error) {
	if r.disk.target == t {
		return asGood, nil
	}
	how := asCandidate
	var err error
	if change := r.changeTo(t); change != nil {
		how, err = asGood, r.appendChange(change, t)
	} else {
		err = r.Store.Candidate(t.Config())
	}
	if err == nil {
		passKept(how)
		return how, nil
	}
	if applied := r.Applied(); applied == nil || applied.To(t).Structure {
		return notKept, fmt.Errorf("this node cannot keep a new configuration on disk: %w: free space there, or make it writable", err)
	}
	r.Logger.Warn("cannot write down a change of servers before it is made", "error", err)
	return notKept, nil
}

func passKept(how kept) {
	if how == asGood {
		crash.Journalled.Pass()
	} else {
		crash.CandidateWritten.Pass()
	}
}

// changeTo returns what the journal has to take for a target, nil when it takes
// no such change.
func (r *Reconciler) changeTo(t *target.Target) *target.Change {
	if r.disk.target == nil {
		return nil
	}
	change := r.disk.target.To(t)
	if change.Structure {
		return nil
	}
	return &change
}

func (r *Reconciler) appendChange(change *target.Change, t *target.Target) error {
	if err := r.Store.Append(change.Update); err != nil {
		return err
	}
	r.disk.target = t
	return nil
}

// confirm makes a target good that is in effect now.
func (r *Reconciler) confirm(t *target.Target, how kept) error {
	switch {
	case how == asCandidate:
		return r.promote(t)
	case how == notKept:
		return r.save(t)
	case r.Store.Long():
		// The journal has everything: without the room for a whole
		// configuration it goes on.
		if err := r.saveWhole(t); err != nil {
			r.Logger.Warn("the journal goes on, since what it is for cannot be written whole", "error", err)
		}
	}
	return nil
}

// takeBack has the disk say again what is in effect, after a target failed that
// the journal has already.
func (r *Reconciler) takeBack() {
	if applied := r.Applied(); applied != nil {
		r.settle(r.save(applied))
	}
}

// save makes what is in effect durable as good.
func (r *Reconciler) save(t *target.Target) error {
	if r.disk.target == t {
		return nil
	}
	if change := r.changeTo(t); change != nil && r.appendChange(change, t) == nil {
		return nil
	}
	return r.saveWhole(t)
}

func (r *Reconciler) saveWhole(t *target.Target) error {
	if err := r.Store.Candidate(t.Config()); err != nil {
		return err
	}
	return r.promote(t)
}

func (r *Reconciler) promote(t *target.Target) error {
	if err := r.Store.Promote(); err != nil {
		r.disk.target = nil
		return err
	}
	crash.Promoted.Pass()
	r.disk.target = t
	return nil
}

// settle tells whether what is in effect is durable. What is not is tried again.
func (r *Reconciler) settle(err error) {
	was := r.disk.due != nil
	r.disk.due = nil
	if err == nil {
		r.disk.delay.Reset()
		r.Unsaved("")
		if was {
			r.Logger.Info("what is in effect is on disk again")
		}
		return
	}
	version := r.Applied().Version().GetRuntime()
	if !was {
		r.Logger.Error("what is in effect is not on disk", "revision", version, "error", err)
	}
	r.Unsaved(fmt.Sprintf("revision %d is in effect and would not survive a reboot of this node: %v: free space there, or make it writable", version, err))
	r.disk.due = time.After(r.disk.delay.NextBackOff())
}
