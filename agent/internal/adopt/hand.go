package adopt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/running"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// handTimeout is how long a daemon may take to begin or to cease accepting.
const handTimeout = 15 * time.Second

// softStop has a HAProxy, with or without a master, accept nothing more and
// finish what it has (management guide, 4).
func softStop(pid int) error { return unix.Kill(pid, unix.SIGUSR1) }

// finish stops a HAProxy beside which another one listens already, and returns
// when it accepts no more. Connections that wait in a queue of its sockets move
// to the other one's: without that the kernel resets them.
func finish(ctx context.Context, pid int, stop func() error) error {
	back, err := migrateRequests()
	if err != nil {
		return err
	}
	err = stop()
	if err == nil {
		err = until(ctx, func() (bool, error) {
			listens, err := running.Listens(pid)
			return !listens, err
		})
	}
	return errors.Join(err, back())
}

// migrateSetting lets a socket that is closed hand its queue to another one on
// its port (Linux 5.14 and later, ip-sysctl).
const migrateSetting = "/proc/sys/net/ipv4/tcp_migrate_req"

// migrateRequests turns that on; back undoes it. An older kernel does without.
func migrateRequests() (back func() error, err error) {
	old, err := os.ReadFile(migrateSetting)
	if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(old)) == "1" {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(migrateSetting, []byte("1\n"), 0); err != nil {
		return nil, err
	}
	return func() error { return os.WriteFile(migrateSetting, old, 0) }, nil
}

// until waits for a condition.
func until(ctx context.Context, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, handTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := condition(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release gives both daemons their own files back. A HAProxy that Tandem has
// joined is started as it was found, beside Tandem's, which then finishes; other
// processes read their own files again.
func (t *Takeover) release(ctx context.Context) error {
	if t.Units != nil {
		if err := t.releaseUnits(ctx); err != nil {
			return err
		}
	} else if err := t.releaseStarted(ctx); err != nil {
		return err
	}
	t.foreign, t.imported = true, nil
	t.kept.Store(nil)
	return nil
}

// releaseStarted is release for daemons that no service manager looks after.
func (t *Takeover) releaseStarted(ctx context.Context) error {
	if err := t.startOriginal(ctx); err != nil {
		return fmt.Errorf("haproxy is not released: %w", err)
	}
	// Before Tandem's HAProxy goes, and with it the health of this node.
	if err := t.releaseKeepalived(ctx); err != nil {
		return fmt.Errorf("keepalived is not released: %w", err)
	}
	if err := t.finishOurs(ctx); err != nil {
		return fmt.Errorf("haproxy is not released: %w", err)
	}
	return nil
}

// startOriginal starts HAProxy as it was found, beside Tandem's.
func (t *Takeover) startOriginal(ctx context.Context) error {
	was := &t.state.HAProxy
	if err := putBack(was.File, t.ownProxyFile()); err != nil {
		return err
	}
	others, _, err := foreign()
	if err != nil {
		return err
	}
	if len(others) == 0 {
		if err := t.start(ctx, "haproxy", was); err != nil {
			return err
		}
	}
	err = until(ctx, func() (bool, error) {
		others, _, err := foreign()
		for _, d := range others {
			if listens, err := running.Listens(d.PID); listens || err != nil {
				return listens && d.File == was.File, err
			}
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("%s does not listen: %w", strings.Join(was.Args, " "), err)
	}
	return nil
}

// finishOurs has Tandem's HAProxy finish.
func (t *Takeover) finishOurs(ctx context.Context) error {
	mine, err := running.HAProxies()
	if err != nil {
		return err
	}
	pid := 0
	for _, d := range mine {
		if d.File == t.ownProxyFile() {
			pid = d.PID
		}
	}
	return finish(ctx, pid, func() error {
		_, err := t.proxy.LetGo(ctx)
		return err
	})
}

func (t *Takeover) releaseKeepalived(ctx context.Context) error {
	was := &t.state.Keepalived
	back := func() error { return putBack(was.File, t.ownVRRPFile()) }
	all, err := running.Keepaliveds()
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.File == was.File {
			if isBack := original(was.File) == was.File; isBack {
				return nil
			}
			return t.vrrp.GiveBack(ctx, back)
		}
	}
	// The one that was taken over has ended, and Tandem has started its own,
	// which cannot be told to read another file.
	if _, err := t.vrrp.Apply(ctx, &keepalivedv1.Config{}); err != nil {
		return err
	}
	if err := back(); err != nil {
		return err
	}
	return t.start(ctx, "keepalived", was)
}

// start starts a daemon as it was found.
func (t *Takeover) start(ctx context.Context, name string, d *running.Daemon) error {
	base := filepath.Join(t.StateDir, "released-"+name)
	process, err := daemon.Start(ctx, daemon.Spec{
		Name: name, Path: d.Program, Args: plainArgs(d.Args), PIDFile: base + ".process", LogFile: base + ".log", Logger: t.Logger,
	})
	if err != nil {
		return err
	}
	process.Close()
	return nil
}

// plainArgs are a daemon's arguments without those that a HAProxy that was
// reloaded adds for its forerunner.
func plainArgs(args []string) []string {
	var plain []string
	for n := 1; n < len(args); n++ {
		switch args[n] {
		case "-sf", "-st":
			for n+1 < len(args) && !strings.HasPrefix(args[n+1], "-") {
				n++
			}
		case "-x":
			n++
		default:
			plain = append(plain, args[n])
		}
	}
	return plain
}
