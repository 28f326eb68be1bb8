package keepalived

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// confirmTimeout is how long keepalived gets to do what it was told. It needs
// some ten milliseconds.
const confirmTimeout = 5 * time.Second

// confirm waits until keepalived runs the intent and the kernel agrees. The
// second look comes when keepalived has also digested what the kernel told it
// about the addresses that it removed itself: it would mistake that for a loss
// if one of them belonged to it again by then, and give up the VIP.
func (d *Driver) confirm(ctx context.Context, c *control, in *intent) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for looks := 0; ; {
		mismatch, err := d.compare(ctx, c, in)
		if err == nil && mismatch == "" {
			if looks++; looks == 2 {
				return nil
			}
			continue
		}
		select {
		case <-c.process.Done():
			return errors.New(epitaph(c.process))
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("keepalived does something else: %s", mismatch)
			}
			return fmt.Errorf("not confirmed in time: %w", err)
		case <-poll.C:
		}
	}
}

// runs tells whether keepalived runs the intent already. An error is ctx's.
func (d *Driver) runs(ctx context.Context, c *control, in *intent) (bool, error) {
	mismatch, err := d.compare(ctx, c, in)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		d.log.Warn("keepalived did not tell what it runs", "error", err)
	}
	return err == nil && mismatch == "", nil
}

// compare asks keepalived and the kernel, tells the observer, removes stray
// addresses, and returns in words how they differ from the intent, if they do.
func (d *Driver) compare(ctx context.Context, c *control, in *intent) (string, error) {
	first, err := d.ask(ctx, c)
	if err != nil {
		return "", err
	}
	if mismatch := in.differs(first); mismatch != "" {
		return mismatch, nil
	}
	found, err := present(in.places())
	if err != nil {
		return "", err
	}
	var strays []*dumped
	for n := range in.instances {
		i, said := &in.instances[n], &first[n]
		switch said.state() {
		case InstanceMaster:
			for _, p := range i.places() {
				if !slices.Contains(found, p) {
					return fmt.Sprintf("%s is master without %v", i.name, p.Address), nil
				}
			}
		case InstanceBackup, InstanceFault:
			if slices.ContainsFunc(i.places(), func(p place) bool { return slices.Contains(found, p) }) {
				strays = append(strays, said)
			}
		default:
			return fmt.Sprintf("%s has not begun", i.name), nil
		}
	}
	if len(strays) == 0 {
		return "", nil
	}
	return d.removeStrays(ctx, c, in, strays)
}

// differs compares what keepalived says with the intent; both are in order of
// the names.
func (in *intent) differs(said []dumped) string {
	if len(said) != len(in.instances) {
		return fmt.Sprintf("keepalived has %d instances, not %d", len(said), len(in.instances))
	}
	for n := range in.instances {
		i := &in.instances[n]
		if said[n].Name != i.name {
			return fmt.Sprintf("keepalived has the instance %s, not %s", said[n].Name, i.name)
		}
		if difference := said[n].differs(i); difference != "" {
			return difference
		}
	}
	return ""
}

// removeStrays removes addresses of instances that are not master, such as
// those that a killed keepalived left. An address that was seen between two
// dumps without a transition was certainly not brought up by keepalived
// meanwhile.
func (d *Driver) removeStrays(ctx context.Context, c *control, in *intent, first []*dumped) (string, error) {
	second, err := d.ask(ctx, c)
	if err != nil {
		return "", err
	}
	var names []string
	var strays []place
	for _, was := range first {
		names = append(names, was.Name)
		n := slices.IndexFunc(second, func(s dumped) bool { return s.Name == was.Name })
		if n < 0 || second[n].State != was.State || second[n].LastTransition != was.LastTransition {
			continue
		}
		for i := range in.instances {
			if in.instances[i].name == was.Name {
				strays = append(strays, in.instances[i].places()...)
			}
		}
	}
	// That the node had them is told before they are gone, however short it was.
	if err := d.do(ctx, (*observer).look); err != nil {
		return "", err
	}
	removed, err := remove(strays)
	if err != nil {
		return "", err
	}
	for _, p := range removed {
		d.log.Warn("removed an address that this node must not hold", "address", p.Address, "interface", p.Interface)
	}
	return fmt.Sprintf("the kernel had addresses of %s, which is not master", strings.Join(names, ", ")), nil
}

// answer returns when keepalived answers, which it does not while it reads its
// file.
func (d *Driver) answer(ctx context.Context, c *control) error {
	_, err := c.probed.dumper.of(c.process.PID()).dump(ctx, c.process)
	return err
}

// ask gets a dump and tells the observer. It asks again while keepalived says
// something through the FIFO in the meantime, since the dump may be older.
func (d *Driver) ask(ctx context.Context, c *control) ([]dumped, error) {
	for range 10 {
		var notices uint64
		if err := d.do(ctx, func(o *observer) { notices = o.notices }); err != nil {
			return nil, err
		}
		said, err := c.probed.dumper.of(c.process.PID()).dump(ctx, c.process)
		if err != nil {
			return nil, err
		}
		// What it said before it answered explains the answer.
		if err := d.hearOut(ctx); err != nil {
			return nil, err
		}
		fresh := false
		if err := d.do(ctx, func(o *observer) { fresh = o.merge(said, notices, time.Now()) }); err != nil {
			return nil, err
		}
		if fresh {
			return said, nil
		}
	}
	return nil, errors.New("keepalived changes its mind all the time")
}
