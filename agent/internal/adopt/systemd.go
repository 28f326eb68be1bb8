package adopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/running"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Files that the packages' units start their daemons with.
var (
	packagedProxyFile = "/etc/haproxy/haproxy.cfg"
	packagedVRRPFile  = "/etc/keepalived/keepalived.conf"
)

// proxyUnit is HAProxy's.
const proxyUnit = "haproxy.service"

// claim makes the units Tandem's, on a machine that has no files of its own. What
// does not run now may be about to: at a boot the agent is not the last to start.
func (t *Takeover) claim(ctx context.Context) error {
	for path, unused := range map[string]func([]byte) bool{
		packagedProxyFile: func(text []byte) bool { return config.IsOurs(text) || servesNobody(text) },
		packagedVRRPFile:  func(text []byte) bool { return keepalived.IsOurs(text) || len(bytes.TrimSpace(text)) == 0 },
	} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !unused(text) {
			return fmt.Errorf("%s is what systemd starts its daemon with here, and Tandem did not write it: "+
				"start the daemon and take it over (lb-agent adopt), or move the file away", path)
		}
	}
	proxies, err := running.HAProxies()
	if err != nil {
		return err
	}
	idle := slices.ContainsFunc(proxies, func(d running.Daemon) bool {
		return d.Unit == proxyUnit && reads(servesNobody)(d) && !reads(config.IsOurs)(d)
	})
	return t.Units.Claim(ctx, idle)
}

// joinHAProxy has the HAProxy of systemd's unit run Tandem's configuration. A
// second one beside it would not do: systemd starts again what has finished.
// joined is false where there is no such HAProxy.
func (t *Takeover) joinHAProxy(ctx context.Context, c *haproxyv1.Config) (joined bool, err error) {
	if t.Units == nil {
		return false, nil
	}
	others, _, err := foreign()
	if err != nil {
		return false, err
	}
	path := t.state.HAProxy.File
	for _, d := range others {
		if d.File != path || d.Unit != proxyUnit {
			continue
		}
		socket, err := masterSocket(&d)
		if err != nil {
			return false, err
		}
		return true, t.proxy.TakeOver(ctx, c, t.foreignProxy(socket))
	}
	return false, nil
}

// foreignProxy is HAProxy as the driver takes and gives it.
func (t *Takeover) foreignProxy(socket string) haproxy.Foreign {
	path := t.state.HAProxy.File
	return haproxy.Foreign{
		Socket:  socket,
		Install: func(ours string) error { return putAside(path, ours) },
		Restore: func() error { return putBack(path, t.ownProxyFile()) },
	}
}

// masterSocket finds the path of a HAProxy's master socket in its command line
// (management guide, 3: -S <bind>[,bind_options...]).
func masterSocket(d *running.Daemon) (string, error) {
	at := slices.Index(d.Args, "-S")
	if at < 0 || at+1 >= len(d.Args) {
		return "", fmt.Errorf("haproxy (process %d) has no master socket, by which Tandem talks to it: "+
			"add -S /run/haproxy-master.sock to its command line (EXTRAOPTS in /etc/default/haproxy), then systemctl restart haproxy", d.PID)
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(d.Args[at+1], "unix@"), ",")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("haproxy (process %d) has the master socket %s: give it an absolute path (-S /run/haproxy-master.sock)", d.PID, d.Args[at+1])
	}
	return path, nil
}

// releaseUnits gives both daemons of systemd's units their own files back. One
// that has gone on since the takeover reads its file again. One that was started
// since, from Tandem's file, is stopped and started as its package has it.
func (t *Takeover) releaseUnits(ctx context.Context) error {
	proxy, err := goesOn(running.HAProxies, t.state.HAProxy.File)
	if err != nil {
		return err
	}
	if proxy == 0 {
		// The VIPs leave before HAProxy does, and come back when it serves again.
		if _, err := t.vrrp.Apply(ctx, &keepalivedv1.Config{}); err != nil {
			return fmt.Errorf("keepalived is not released: %w", err)
		}
	}
	// A keepalived that goes on is released before Tandem's HAProxy goes, and with it
	// the health of this node.
	if err := t.releaseVRRPUnit(ctx); err != nil {
		return fmt.Errorf("keepalived is not released: %w", err)
	}
	if err := t.releaseProxyUnit(ctx, proxy); err != nil {
		return fmt.Errorf("haproxy is not released: %w", err)
	}
	if err := t.Units.Disclaim(ctx); err != nil {
		return err
	}
	if err := t.Units.StartHAProxy(ctx); err != nil {
		return err
	}
	return t.Units.StartKeepalived(ctx)
}

// releaseProxyUnit releases HAProxy, which has run with process id pid since the
// takeover; 0: another one may run.
func (t *Takeover) releaseProxyUnit(ctx context.Context, pid int) error {
	path := t.state.HAProxy.File
	switch {
	case pid == 0:
		return errors.Join(t.proxy.Quit(ctx), putBack(path, t.ownProxyFile()))
	case original(path) == path:
		return unix.Kill(pid, unix.SIGUSR2) // it may not have been told
	}
	return t.proxy.GiveBack(ctx, t.foreignProxy(""))
}

func (t *Takeover) releaseVRRPUnit(ctx context.Context) error {
	path := t.state.Keepalived.File
	back := func() error { return putBack(path, t.ownVRRPFile()) }
	pid, err := goesOn(running.Keepaliveds, path)
	switch {
	case err != nil:
		return err
	case pid == 0:
		_, err := t.vrrp.Apply(ctx, &keepalivedv1.Config{})
		return errors.Join(err, back())
	case original(path) == path:
		return unix.Kill(pid, unix.SIGHUP)
	}
	return t.vrrp.GiveBack(ctx, back)
}

// goesOn finds the daemon that was started with that file; 0: there is none.
func goesOn(find func() ([]running.Daemon, error), path string) (pid int, err error) {
	all, err := find()
	for _, d := range all {
		if d.File == path {
			pid = d.PID
		}
	}
	return pid, err
}
