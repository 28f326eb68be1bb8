package keepalived

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/slack"
)

// A fence keeps a VIP away from this node for as long as somebody renews it, who
// sees that another node holds the VIP, too. It is the one score with which a VIP may
// live nowhere, so it outlives nobody: it ends with its lease, with keepalived, with
// the agent, and at once when the holder was heard and is heard no longer. The end
// of an agent that is killed or hangs is the guard's to see, a process of its own.

const (
	// fenceScore is FAULT whatever the priority is.
	fenceScore = -254
	// MaxFence is the longest lease of a fence.
	MaxFence = 10 * time.Second
	// guardSlack is how much later than the agent the guard ends a lease.
	guardSlack = 300 * time.Millisecond
	// guardPatience is how long a guard may take to answer, and to end.
	guardPatience = time.Second
)

// fence of one instance.
type fence struct {
	began, until time.Time
	heard        bool // another node is heard to advertise
}

// Fence keeps a VIP away from this node for the lease, MaxFence at most, counted
// anew with each call; 0 ends the fence. It fails with ErrNoVIP, where no guard can be
// had, and with ErrKeptOff where a fence is over and this node keeps itself off the VIP
// all the same.
func (d *Driver) Fence(ctx context.Context, vip string, lease time.Duration) error {
	if lease < 0 || lease > MaxFence {
		return fmt.Errorf("a fence's lease is %v: must be 0s to %v", lease, MaxFence)
	}
	var files []string
	if err := d.do(ctx, func(o *observer) { files = o.fenceFiles(vip) }); err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("VIP %s: %w", vip, ErrNoVIP)
	}
	if lease > 0 {
		if err := d.guardScore(ctx, vip, files, lease+guardSlack, d.opts.FenceGuard); err != nil {
			return fmt.Errorf("VIP %s: no guard for a fence: %w", vip, err)
		}
	}
	var err error
	keptOff := ""
	ended := d.do(ctx, func(o *observer) {
		err = o.fence(vip, lease, time.Now())
		keptOff = o.keptOff(vip)
	})
	if err := errors.Join(ended, err); err != nil || lease > 0 || keptOff == "" {
		return err
	}
	return fmt.Errorf("VIP %s: %w, since %s", vip, ErrKeptOff, keptOff)
}

// fenceFiles are the track files of a VIP's instances.
func (o *observer) fenceFiles(vip string) (files []string) {
	for n := range o.watched {
		if w := &o.watched[n]; w.vip == vip {
			files = append(files, filepath.Join(o.scores.dir, fenceFile(w.name)))
		}
	}
	return files
}

// fence begins, renews or ends a fence.
func (o *observer) fence(vip string, lease time.Duration, now time.Time) error {
	for n := range o.watched {
		w := &o.watched[n]
		if w.vip != vip {
			continue
		}
		f := o.scores.fences[w.name]
		switch {
		case lease == 0:
			o.unfence(w, "nobody needs it any more")
		case f == nil:
			o.log.Warn("fenced off a VIP that another node holds", "vip", vip, "instance", w.name)
			o.notes = append(o.notes, fmt.Sprintf("VIP %s: fenced: another node holds it and does not hear this one, or is not heard", vip))
			f = &fence{began: now}
			o.scores.fences[w.name] = f
			fallthrough
		default:
			f.until = now.Add(lease)
			f.heard = f.heard || w.Wire.hearsNode()
			// The guard may have ended it in the last moment.
			delete(o.scores.written, fenceFile(w.name))
		}
	}
	return o.scores.write(now)
}

// unfence ends a fence, if there is one.
func (o *observer) unfence(w *watched, why string) {
	if o.scores.fences[w.name] == nil {
		return
	}
	delete(o.scores.fences, w.name)
	o.log.Info("the fence is over", "vip", w.vip, "instance", w.name, "reason", why)
	o.notes = append(o.notes, fmt.Sprintf("VIP %s: fence over: %s", w.vip, why))
}

// endFences ends those whose lease is over, and those whose survivor has fallen
// silent: this node may have to take over. One that was heard before the fence began, and
// not since, has not fallen silent: it is remembered for some intervals.
func (o *observer) endFences(now time.Time) {
	for n := range o.watched {
		w := &o.watched[n]
		f := o.scores.fences[w.name]
		switch {
		case f == nil:
			continue
		case !now.Before(f.until):
			o.unfence(w, "nobody has renewed it")
		case f.heard && !w.Wire.hearsNode() && o.wire.Heard(w.name).Spoke.After(f.began):
			o.unfence(w, "its holder is heard no longer")
		default:
			f.heard = w.Wire.hearsNode()
			continue
		}
		o.writeScores(now)
	}
}

// hearsNode tells whether anybody but strangers advertises.
func (w *Wire) hearsNode() bool {
	return slices.ContainsFunc(w.Advertisers, func(a Advertiser) bool {
		return !slices.ContainsFunc(w.Findings, func(f Finding) bool { return f.Kind == FindingForeign && f.Who == a.Address.String() })
	})
}

// guard is a process that ends a VIP's fence, or what its tracks add, when nobody else
// does.
type guard struct {
	process *os.Process
	files   []string
	lingers bool // for as long as its lease: nobody waits for that
	lease   io.WriteCloser
	answers interface{ SetReadDeadline(time.Time) error } // what taken reads
	taken   *bufio.Reader                                 // a line for each lease
	until   time.Time                                     // end of the longest lease
	ended   chan struct{}
	failed  error // why; set before ended is closed
}

// guardScore sees to it that a guard of the files has the lease before their score
// stands. Without a command line there is none.
func (d *Driver) guardScore(ctx context.Context, key string, files []string, lease time.Duration, command []string) error {
	select {
	case guards := <-d.guards:
		defer func() { d.guards <- guards }()
		if g := guards[key]; g != nil && !g.gone() {
			failed := g.take(ctx, lease)
			if failed == nil && slices.Equal(g.files, files) {
				return nil
			}
			delete(guards, key)
			if failed = errors.Join(failed, g.end()); failed != nil {
				d.log.Warn("the guard of a score takes no lease: another one is started", "files", files, "error", failed)
			}
		}
		g, err := d.startGuard(command, files)
		if err != nil {
			return err
		}
		if err := g.take(ctx, lease); err != nil {
			return errors.Join(err, g.end())
		}
		g.lingers = key == trackKey
		guards[key] = g
		return nil
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startGuard starts a guard. It lives in a session of its own: what ends the
// agent's does not end it.
func (d *Driver) startGuard(command, files []string) (*guard, error) {
	if len(command) == 0 {
		return nil, errors.New("there is no program for it")
	}
	cmd := exec.Command(command[0], append(slices.Clone(command[1:]), files...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, answer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	cmd.Stdout = answer
	err = slack.Punctual(cmd.Start)
	_ = answer.Close()
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	g := &guard{process: cmd.Process, files: files, lease: in, answers: out, taken: bufio.NewReader(out), ended: make(chan struct{})}
	go func() { // ends with the process, whose input the driver closes
		defer close(g.ended)
		g.failed = errors.Join(cmd.Wait(), out.Close())
	}()
	return g, nil
}

// take gives the guard a lease and waits until it has taken it, guardPatience at
// most. A longer one that it has stays: the same files may be somebody else's, too.
func (g *guard) take(ctx context.Context, lease time.Duration) error {
	now := time.Now()
	lease = max(lease, g.until.Sub(now))
	due := now.Add(guardPatience)
	if end, ok := ctx.Deadline(); ok && end.Before(due) {
		due = end
	}
	if err := g.answers.SetReadDeadline(due); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(g.lease, lease.Milliseconds()); err != nil {
		return err
	}
	_, err := g.taken.ReadString('\n')
	if err == nil {
		g.until = now.Add(lease)
	}
	return err
}

// gone tells whether the guard has ended: its lease was over.
func (g *guard) gone() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// end ends the guard, and with it the fence, within guardPatience. It returns what
// was wrong with the guard.
func (g *guard) end() error {
	_ = g.lease.Close()
	if g.lingers {
		return nil
	}
	select {
	case <-g.ended:
		return g.failed
	case <-time.After(guardPatience):
	}
	return errors.Join(errors.New("it hangs and is killed"), g.process.Kill(), liftScore(g.files))
}

// endGuards is called when the agent ends: so do its fences. What tracks add is the
// next agent's, or ends with its lease.
func (d *Driver) endGuards() {
	guards := <-d.guards
	for key, g := range guards {
		delete(guards, key)
		if err := g.end(); err != nil {
			d.log.Warn("the guard of a fence did not end by itself", "vip", key, "error", err)
		}
	}
	d.guards <- guards
}

// GuardFence ends a fence when the agent does not. Each line of in is a lease in
// milliseconds, which it takes by a line of its own; when the last one is over, or in
// or ctx ends, it takes the fence out of the track files and returns.
func GuardFence(ctx context.Context, in io.Reader, out io.Writer, files []string) error {
	outlast(ctx, in, out, false)
	return liftScore(files)
}

// outlast takes leases until the last one is over or ctx or in ends; to the last lease's
// end in spite of the end of in, if it is to linger. It tells whether whoever gives the
// leases is there still.
func outlast(ctx context.Context, in io.Reader, out io.Writer, linger bool) (open bool) {
	leases := make(chan time.Duration)
	go func() { // ends with the process
		defer close(leases)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			ms, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
			if err != nil || ms <= 0 || ms > int((2*MaxFence).Milliseconds()) {
				return
			}
			leases <- time.Duration(ms) * time.Millisecond
		}
	}()
	over := time.NewTimer(MaxFence)
	defer over.Stop()
	for {
		select {
		case lease, more := <-leases:
			if more {
				over.Reset(lease)
				_, err := fmt.Fprintln(out, "taken")
				more = err == nil
			}
			if !more && !linger {
				return false
			}
			if !more {
				leases = nil
			}
		case <-over.C:
			return leases != nil
		case <-ctx.Done():
			return leases != nil
		}
	}
}

// liftScore takes a score out of its track files.
func liftScore(files []string) error {
	var failed []error
	for _, file := range files {
		// A file that is gone is one that says nothing.
		if _, err := os.Stat(file); err == nil {
			failed = append(failed, atomicfile.WriteVolatile(file, []byte("0\n"), 0o644))
		}
	}
	return errors.Join(failed...)
}
