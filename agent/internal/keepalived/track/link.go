package track

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/vishvananda/netlink"
)

// again is when the kernel is asked anew for an interface that it told no more of.
const again = time.Second

// follow takes the state of an interface, and each change of it.
func (w *Watcher) follow(ctx context.Context, s Spec) {
	for ctx.Err() == nil {
		updates, done := make(chan netlink.LinkUpdate, 16), make(chan struct{})
		if err := netlink.LinkSubscribe(updates, done); err == nil {
			w.followUntil(ctx, s, updates)
			close(done)
			for range updates { // until nothing of the subscription is left running
				continue
			}
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// followUntil returns when the kernel tells no more, or with ctx.
func (w *Watcher) followUntil(ctx context.Context, s Spec, updates <-chan netlink.LinkUpdate) {
	for open := true; open; {
		w.take(s, Trouble(s.Interface), time.Now())
		select {
		case _, open = <-updates:
		case <-ctx.Done():
			return
		}
	}
}

// Trouble tells what is wrong with an interface; nil: it is up and has carrier.
func Trouble(name string) error {
	on, err := netlink.LinkByName(name)
	switch {
	case err != nil:
		return errors.New("interface " + name + " is gone")
	case on.Attrs().Flags&net.FlagUp == 0:
		return errors.New("interface " + name + " is down")
	case on.Attrs().Flags&net.FlagRunning == 0:
		return errors.New("interface " + name + " has no carrier")
	default:
		return nil
	}
}
