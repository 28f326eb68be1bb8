package adopt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/importer"
	"github.com/tandem-lb/tandem/agent/internal/running"
)

// Wish is what an operator asks the running agent for.
type Wish struct {
	// StateDir is the agent's.
	StateDir string
	// Systemd tells that the agent has systemd run the daemons.
	Systemd bool
	// Holder allows it on the node that holds a VIP.
	Holder bool
	// Say is told, in words, what keeps it from being done.
	Say func(string)
}

// TakeOver asks the running agent to take over what runs on this node, and
// waits until it has. i is what the files say.
func (w *Wish) TakeOver(ctx context.Context, i *importer.Import) error {
	s, err := w.begin()
	if err != nil {
		return err
	}
	if s != nil && s.Phase == taken {
		return errors.New("this node has been taken over already: lb-agent release gives it back")
	}
	held, err := heldVIPs(i)
	if err != nil {
		return err
	}
	if len(held) > 0 && !w.Holder {
		return fmt.Errorf("this node holds the VIP %s: take the standby over first and look at it, then do this with --holder", strings.Join(held, ", "))
	}
	s = &state{Phase: wanted}
	if s.HAProxy, err = w.foundAs(running.HAProxies, "haproxy", i.HAProxy.Path); err != nil {
		return err
	}
	if s.Keepalived, err = w.foundAs(running.Keepaliveds, "keepalived", i.Keepalived.Path); err != nil {
		return err
	}
	if w.Systemd {
		if _, err := masterSocket(&s.HAProxy); err != nil {
			return err
		}
	}
	if err := s.write(w.StateDir); err != nil {
		return err
	}
	return w.await(ctx, s, taken)
}

// Release asks the running agent to give back what it has taken over, and waits
// until it has. A takeover that is asked for and not done yet is called off.
func (w *Wish) Release(ctx context.Context) error {
	s, err := w.begin()
	if err != nil {
		return err
	}
	if s == nil || s.Phase == released {
		return errors.New("nothing on this node has been taken over")
	}
	s.Phase, s.Problem = unwanted, ""
	if err := s.write(w.StateDir); err != nil {
		return err
	}
	return w.await(ctx, s, released)
}

// begin reads the state. Only a running agent acts on what is written there.
func (w *Wish) begin() (*state, error) {
	file, err := os.OpenFile(filepath.Join(w.StateDir, "lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("the agent has never run here: start it first (lb-agent run); it touches nothing that others have started")
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil, errors.New("the agent does not run: start it first (lb-agent run); it touches nothing that others have started")
	}
	return readState(w.StateDir)
}

// await waits until the agent has done what was asked for, and tells what keeps
// it from it.
func (w *Wish) await(ctx context.Context, wish *state, done phase) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		s, err := readState(w.StateDir)
		if err != nil || s.Phase == done {
			return err
		}
		if s.Phase != wish.Phase {
			// The agent noted the end of something else at the same moment.
			if err := wish.write(w.StateDir); err != nil {
				return err
			}
		}
		if s.Problem != said && s.Problem != "" {
			w.Say(s.Problem)
		}
		said = s.Problem
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the agent goes on trying; it is not done yet: %w", ctx.Err())
		}
	}
}

// heldVIPs are those VIPs of which this machine has an address.
func heldVIPs(i *importer.Import) ([]string, error) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var held []string
	for _, v := range i.Config.GetVips() {
		for _, text := range v.GetAddresses() {
			vip, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(own, func(a net.Addr) bool {
				p, err := netip.ParsePrefix(a.String())
				return err == nil && p.Addr() == vip.Addr()
			}) {
				held = append(held, fmt.Sprintf("%s (%s)", v.GetName(), vip.Addr()))
			}
		}
	}
	return held, nil
}

// foundAs finds the daemon that reads the file, as it is to be started again.
func (w *Wish) foundAs(find func() ([]running.Daemon, error), name, path string) (running.Daemon, error) {
	all, err := find()
	if err != nil {
		return running.Daemon{}, err
	}
	own, err := running.OwnUnit()
	if err != nil {
		return running.Daemon{}, err
	}
	for _, d := range slices.Backward(all) {
		switch {
		case d.File != path:
			continue
		case w.Systemd && d.Unit != name+".service":
			return d, fmt.Errorf("%s (process %d) is not run by %s.service, as runner: systemd in the agent's configuration has it: "+
				"start it by systemctl start %s", name, d.PID, name, name)
		case !w.Systemd && d.Unit != "" && d.Unit != own:
			return d, fmt.Errorf("%s (process %d) belongs to the systemd service %s, which would start it again: "+
				"set runner: systemd in the agent's configuration", name, d.PID, d.Unit)
		case !slices.Contains(strings.Fields(strings.Join(d.Args, " ")), path) && name == "haproxy":
			return d, fmt.Errorf("haproxy (process %d) was given its file by a path that is not absolute: start it with -f %s", d.PID, path)
		}
		return d, nil
	}
	return running.Daemon{}, fmt.Errorf("no %s runs with %s: only what runs can be taken over", name, path)
}
