package keepalived

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// A node whose interface carries nothing one way any more is as useless to clients as
// one without a cable, and its kernel sees a carrier all the same: as a holder it keeps
// a VIP that nobody reaches there, or holds it beside its peer, and as a standby it
// takes over from a holder that it does not hear. So it keeps itself off, as keepalived
// would without a carrier, by a fence of its own: a lease that this agent renews while
// its interface is like that. A node that has only lost its peer, or the controller, is
// not cut off. See decision 0030.

const (
	// cutLease is how long a node keeps itself off without renewal, and cutEvery how
	// often it renews that.
	cutLease = 3 * time.Second
	cutEvery = time.Second
	// aloneSlack and aloneMost bound how long a node keeps itself off that hears hosts, and
	// none of the others hold the VIP: see aloneLimit.
	aloneSlack = time.Second
	aloneMost  = 10 * time.Second
)

// ErrKeptOff means that a node keeps itself off a VIP.
var ErrKeptOff = errors.New("this node keeps itself off it")

// cutOff keeps an instance off its VIP.
type cutOff struct {
	until time.Time
	why   string
	// firm: it lasts until the interface carries both ways. Else it ends as well when
	// the one that is heard to hold the VIP is heard no longer.
	firm bool
	// alone is since when hosts, and no other node, have been heard; zero: not so.
	alone time.Time
}

// aloneLimit is how long a node keeps itself off that hears hosts, and none of the others
// hold the VIP: as long as another one takes to take over (three intervals and the skew,
// RFC 9568, 6.1), and a second. Then one whom nobody hears is better than nobody.
func (i *instance) aloneLimit() time.Duration { return min(4*i.advert+aloneSlack, aloneMost) }

// over tells whether nobody else has wanted the VIP for long enough.
func (c *cutOff) over(limit time.Duration, now time.Time) bool {
	return !c.alone.IsZero() && now.Sub(c.alone) >= limit
}

// rouse wakes the goroutine that does for the observer what takes long.
func (o *observer) rouse() {
	select {
	case o.roused <- struct{}{}:
	default:
	}
}

// useless tells whether an instance is to be kept off, since another node is better in
// any case.
func (o *observer) useless(w *watched, now time.Time) (firm, useless bool) {
	c, rival := o.scores.cuts[w.name], w.Wire.hearsNode()
	switch {
	case w.peered && w.yielding():
		return false, true
	case !w.peered || w.spent:
		return false, false
	case w.Wire.Reach == wire.ReachDeaf:
		return true, true
	case w.Wire.Reach != wire.ReachMute:
		return false, false
	case c == nil:
		// Where the advertisements go elsewhere its peer hears them still, and stands by.
		return w.apart(), w.State == InstanceMaster && (rival || w.apart())
	default:
		// A stray packet does not make a deaf one useful.
		return c.firm, rival || c.firm && !c.over(w.aloneLimit(), now)
	}
}

// rate notes for how long a node has been kept off for nobody, and whether it may be
// again: once its interface has carried both ways, or another node that hears it would
// have stepped back.
func (o *observer) rate(w *watched, now time.Time) {
	rival := w.Wire.hearsNode()
	if !rival {
		w.rival = time.Time{}
	} else if w.rival.IsZero() {
		w.rival = now
	}
	mute := w.Wire.Reach == wire.ReachMute
	if !mute && w.Wire.Reach != wire.ReachDeaf || rival && now.Sub(w.rival) >= 8*w.advert {
		w.spent = false
	}
	if c := o.scores.cuts[w.name]; c != nil {
		switch {
		case rival:
			c.alone = time.Time{}
		case mute && c.alone.IsZero():
			c.alone = now
		}
	}
}

// judgeReach ends what is over, and has begun what is needed.
func (o *observer) judgeReach(now time.Time) {
	for n := range o.watched {
		w := &o.watched[n]
		o.rate(w, now)
		c := o.scores.cuts[w.name]
		firm, useless := o.useless(w, now)
		switch {
		case useless && c == nil:
			o.rouse()
		case useless:
			c.firm = firm
		case c != nil:
			w.spent = w.Wire.Reach == wire.ReachMute && c.firm && c.over(w.aloneLimit(), now)
			o.rejoin(w, "it is no longer so that "+c.why, now)
		}
	}
}

// rejoin ends what keeps an instance off.
func (o *observer) rejoin(w *watched, why string, now time.Time) {
	delete(o.scores.cuts, w.name)
	o.listenBeside(w)
	o.log.Info("no longer kept off a VIP", "vip", w.vip, "instance", w.name, "reason", why)
	o.notes = append(o.notes, fmt.Sprintf("VIP %s: no longer kept off: %s", w.vip, why))
	o.writeScores(now)
}

// endCuts ends those that were not renewed.
func (o *observer) endCuts(now time.Time) {
	for n := range o.watched {
		w := &o.watched[n]
		if c := o.scores.cuts[w.name]; c != nil && !now.Before(c.until) {
			o.rejoin(w, "nobody has renewed it", now)
		}
	}
}

// keptOff tells why this node keeps itself off a VIP; empty: it does not.
func (o *observer) keptOff(vip string) string {
	for n := range o.watched {
		if w := &o.watched[n]; w.vip == vip && o.scores.cuts[w.name] != nil {
			return o.scores.cuts[w.name].why
		}
	}
	return ""
}

// uselessFiles are the track files of the VIPs that this node is to be kept off, or may be
// soon.
func (o *observer) uselessFiles(now time.Time) map[string][]string {
	o.judgeReach(now)
	files := make(map[string][]string)
	for n := range o.watched {
		if w := &o.watched[n]; files[w.vip] == nil {
			if _, useless := o.useless(w, now); useless || w.peered && w.mayYield() {
				files[w.vip] = o.fenceFiles(w.vip) // as those of the controller's fence
			}
		}
	}
	return files
}

// keepOff keeps the useless instances of a VIP off for a lease.
func (o *observer) keepOff(vip string, now time.Time) error {
	for n := range o.watched {
		w := &o.watched[n]
		firm, useless := o.useless(w, now)
		if w.vip != vip || !useless {
			continue
		}
		c := o.scores.cuts[w.name]
		if c == nil {
			why := o.whyKeptOff(w)
			o.log.Warn("keeping off a VIP", "vip", w.vip, "instance", w.name, "reason", why)
			o.notes = append(o.notes, fmt.Sprintf("VIP %s: kept off, since %s: another node is to hold it", w.vip, why))
			c = &cutOff{firm: firm, why: why}
			o.scores.cuts[w.name] = c
			o.listenBeside(w)
		}
		c.until = now.Add(cutLease)
		// The guard may have ended it in the last moment.
		delete(o.scores.written, fenceFile(w.name))
	}
	return o.scores.write(now)
}

// whyKeptOff is why an instance is kept off.
func (o *observer) whyKeptOff(w *watched) string {
	switch {
	case w.yielding():
		return fmt.Sprintf("%s has it on %s as well and is not heard on %s", o.besideName(w, w.beside.Node), w.iface, w.over)
	case w.Wire.Reach == wire.ReachDeaf:
		return w.iface + " carries nothing in"
	default:
		return w.iface + " carries nothing out"
	}
}

// attendReach is the goroutine that keeps this node off the VIPs that it is useless
// for, once a guard has the lease, and that announces those again for which another
// node has called itself the holder.
func (d *Driver) attendReach(ctx context.Context) error {
	again := time.NewTimer(0)
	defer again.Stop()
	var failing []string // VIPs that could not be announced
	for {
		select {
		case <-d.observer.roused:
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var files map[string][]string
		var unrivaled []string
		if err := d.do(ctx, func(o *observer) {
			files = o.uselessFiles(time.Now())
			unrivaled, o.unrivaled = slices.Concat(failing, o.unrivaled), nil
		}); err != nil {
			return err
		}
		for vip, files := range files {
			if err := d.keepOff(ctx, vip, files); err != nil && ctx.Err() == nil {
				d.log.Error("cannot keep off a VIP for which this node is useless", "vip", vip, "error", err)
			}
		}
		again.Reset(beat.In(cutEvery))
		failing = d.announceAll(ctx, unrivaled, failing)
	}
}

// announceAll announces VIPs that another node has held, too, and returns those for which
// that has failed, which are tried again. What has failed before is known.
func (d *Driver) announceAll(ctx context.Context, vips, before []string) (failing []string) {
	for _, vip := range slices.Compact(slices.Sorted(slices.Values(vips))) {
		err := d.Announce(ctx, vip)
		if err == nil || errors.Is(err, ErrNotHeld) || errors.Is(err, ErrNoVIP) || ctx.Err() != nil {
			continue
		}
		failing = append(failing, vip)
		if !slices.Contains(before, vip) {
			d.log.Warn("cannot announce a VIP that another node has held, too: trying again", "vip", vip, "error", err)
		}
	}
	return failing
}

func (d *Driver) keepOff(ctx context.Context, vip string, files []string) error {
	if err := d.guardScore(ctx, vip, files, cutLease+guardSlack, d.opts.FenceGuard); err != nil {
		return fmt.Errorf("no guard: %w", err)
	}
	var err error
	ended := d.do(ctx, func(o *observer) { err = o.keepOff(vip, time.Now()) })
	return errors.Join(ended, err)
}
