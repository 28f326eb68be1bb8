package keepalived

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Why a failover does not happen.
var (
	// ErrNoVIP means that there is no such VIP on this node.
	ErrNoVIP = errors.New("this node has no such VIP")
	// ErrNotInEffect means that this node is to have the VIP, and keepalived does
	// not have it from the agent.
	ErrNotInEffect = errors.New("its configuration is not in effect on this node")
	// ErrNotHeld means that another node holds the VIP, or none.
	ErrNotHeld = errors.New("this node does not hold it")
	// ErrNoTaker means that no other node took the VIP, which stays here.
	ErrNoTaker = errors.New("no other node takes it, so it stays here")
)

// Failover gives a VIP up to another node and returns when it is gone from this
// one. It keeps the priority low for the lease, or until this node has to hold
// the VIP again since nobody else can; the fail-back policy rules after that.
// When nobody takes the VIP, nothing has changed. It fails with one of the
// errors above, wrapped, or with that of ctx.
func (d *Driver) Failover(ctx context.Context, vip string, lease time.Duration) error {
	var wait time.Duration
	var refused error
	if err := d.do(ctx, func(o *observer) { wait, refused = o.failOver(vip, time.Now(), lease) }); err != nil {
		return err
	}
	if refused != nil {
		return fmt.Errorf("VIP %s: %w", vip, refused)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, ErrNoTaker)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if moved(d.Snapshot().Instances, vip) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			err := fmt.Errorf("VIP %s: %w", vip, context.Cause(ctx))
			return errors.Join(err, d.do(context.WithoutCancel(ctx), func(o *observer) { o.endFailover(vip, time.Now()) }))
		}
	}
}

// moved tells whether another node holds every part of a VIP.
func moved(instances []InstanceStatus, vip string) bool {
	for _, i := range instances {
		if i.VIP == vip && (i.Holds || i.State != InstanceBackup) {
			return false
		}
	}
	return true
}

// takeover is how long a peer may need to take over from a holder that lets it:
// three intervals and the skew, at most a fourth one (RFC 9568, section 6.1),
// and time for a busy machine.
func takeover(advert time.Duration) time.Duration { return 4*advert + time.Second }

// failOver begins the failover of a VIP and tells how long it may take.
func (o *observer) failOver(vip string, now time.Time, lease time.Duration) (wait time.Duration, err error) {
	known, held := false, false
	for n := range o.watched {
		w := &o.watched[n]
		if w.vip != vip {
			continue
		}
		known = true
		held = held || w.State == InstanceMaster
		wait = max(wait, takeover(w.advert))
	}
	switch {
	case !known && o.wants(vip):
		return 0, ErrNotInEffect
	case !known:
		return 0, ErrNoVIP
	case !held:
		return 0, ErrNotHeld
	}
	for n := range o.watched {
		if w := &o.watched[n]; w.vip == vip {
			o.scores.away[w.name].begin(now.Add(lease))
		}
	}
	return wait, o.scores.write(now)
}

// endFailover lets this node hold a VIP again.
func (o *observer) endFailover(vip string, now time.Time) {
	for n := range o.watched {
		if w := &o.watched[n]; w.vip == vip {
			o.scores.away[w.name].end()
		}
	}
	o.writeScores(now)
}

// away keeps an instance from holding its VIP for a while, after a failover by
// hand.
type away struct {
	score int       // while it lasts
	until time.Time // zero: there is no failover
	moved bool      // another node has held the VIP since
}

func (a *away) begin(until time.Time) { a.until, a.moved = until, false }

func (a *away) end() { a.until, a.moved = time.Time{}, false }

// role notes what the instance is now. One that has to hold the VIP again ends
// the failover: nobody else can.
func (a *away) role(state InstanceState) {
	switch {
	case a.until.IsZero():
	case state == InstanceBackup:
		a.moved = true
	case state == InstanceMaster && a.moved:
		a.end()
	}
}

// value of the instance's file.
func (a *away) value(now time.Time) int {
	if a != nil && now.Before(a.until) {
		return a.score
	}
	return 0
}
