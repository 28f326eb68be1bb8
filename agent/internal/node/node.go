// Package node puts the agent together: two drivers, the reconciler that gives
// them targets, the report of what they observe and the uplink that carries
// both.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/agent/internal/adopt"
	"github.com/tandem-lb/tandem/agent/internal/alive"
	"github.com/tandem-lb/tandem/agent/internal/cache"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/drift"
	"github.com/tandem-lb/tandem/agent/internal/examine"
	"github.com/tandem-lb/tandem/agent/internal/guard"
	"github.com/tandem-lb/tandem/agent/internal/handover"
	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/local"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/settings"
	"github.com/tandem-lb/tandem/agent/internal/statelog"
	"github.com/tandem-lb/tandem/agent/internal/target"
	"github.com/tandem-lb/tandem/agent/internal/unit"
	"github.com/tandem-lb/tandem/agent/internal/uplink"
	"github.com/tandem-lb/tandem/agent/internal/watchdog"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Run runs the agent until ctx ends or a part of it cannot go on. HAProxy and
// keepalived stay as they are when it returns.
func Run(ctx context.Context, s *settings.Settings, version string, logger hclog.Logger) error {
	release, err := alive.Hold(ctx, s.StateDir)
	if err != nil {
		return err
	}
	defer release()
	bootID, err := newBootID()
	if err != nil {
		return err
	}
	n := &node{logger: logger}
	n.report = report.Open(bootID, filepath.Join(s.StateDir, "events.pb"))
	n.states = statelog.New(s.Logs.File("keepalived-state.log"), func(text string) { n.report.Problem("state log", text) })
	store, err := cache.New(s.StateDir)
	if err != nil {
		return err
	}
	good, behind := n.good(store)
	changes := n.changes(s.StateDir)
	if err := n.drivers(ctx, s, good, changes); err != nil {
		return err
	}
	reconciler := n.reconciler(reconcile.Options{Store: store, Good: good, Behind: behind, Overlay: changes})
	n.handover = handover.New(handover.Options{
		RunDir: s.RunDir, Look: n.carried, Logger: logger.Named("handover"),
		Problem: func(text string) { n.report.Problem("handover", text) },
	})
	n.takeover.Drive(n.proxy, n.vrrp, reconciler.TryAgain)
	var up *uplink.Uplink
	here := local.New(local.Options{
		Path: local.Socket(s.RunDir), Node: s.Node, Version: version,
		Changes: changes, Reconciler: reconciler, VRRP: n.vrrp, Report: n.report,
		Session: func() uplink.Status { return up.Status() },
	})
	up = uplink.New(uplink.Options{
		Node: s.Node, NameByDefault: s.NameByDefault,
		Controllers: s.Controllers,
		TokenFile:   s.JoinTokenFile,
		IdentityDir: filepath.Join(s.StateDir, "identity"),
		Version:     version,
		Interfaces:  s.Networks,
		Report:      n.report,
		Reconciler:  reconciler,
		Drift:       here,
		Failover:    here.FailoverFor,
		Fence:       n.vrrp.Fence,
		Announce:    n.vrrp.Announce,
		Diagnose: func(ctx context.Context) *agentv1.Diagnosis {
			return examine.Node(ctx, examine.Options{
				Networks: s.Networks, Applied: reconciler.Applied, State: n.report.State, Counts: n.vrrp.Counts,
			})
		},
		Problem:  n.report.Problem,
		Withdraw: n.vrrp.Withdraw,
		Logger:   logger.Named("uplink"),
	})
	n.parts = append(n.parts, n.keepEvents, n.states.Run, n.proxy.Run, n.vrrp.Run, n.handover.Run, n.takeover.Run,
		reconciler.Run, changes.Run, here.Run, up.Run, n.watchdog)
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range n.parts {
		group.Go(func() error { return part(ctx) })
	}
	return group.Wait()
}

// node is what the parts share.
type node struct {
	report   *report.Report
	states   *statelog.Log
	proxy    *haproxy.Driver
	vrrp     *keepalived.Driver
	takeover *adopt.Takeover
	handover *handover.Keeper
	trial    trial // of HAProxy; only fromHAProxy uses it
	logger   hclog.Logger
	parts    []func(context.Context) error // of Run
}

// keepEvents keeps the events that wait on disk. That some are lost at the end of
// the agent, with a disk that cannot be written, was told, and is no failure of it.
func (n *node) keepEvents(ctx context.Context) error {
	if err := n.report.Run(ctx); err != nil {
		n.logger.Warn("events that wait for the controller are lost", "error", err)
	}
	return nil
}

// watchdog tells systemd that both drivers go on.
func (n *node) watchdog(ctx context.Context) error {
	return watchdog.Run(ctx, func(ctx context.Context) error {
		return errors.Join(n.proxy.Alive(), n.vrrp.Alive(ctx))
	}, n.logger)
}

// unit is a daemon's unit, which is a part of Run.
func (n *node) unit(s *settings.Settings, name string) *unit.Unit {
	u := unit.New(name+".service", filepath.Join(s.RunDir, name, "stopped"), n.logger.Named(name))
	n.parts = append(n.parts, u.Run)
	return u
}

// runners are who starts the daemons; both are their units, if they have some.
func (n *node) runners(s *settings.Settings) (proxies haproxy.Runner, routers keepalived.Runner, both adopt.Units, err error) {
	if s.Runner == settings.RunnerSystemd {
		haproxy, keepalived := n.unit(s, "haproxy"), n.unit(s, "keepalived")
		both, err = newUnits(haproxy, keepalived)
		return haproxy, keepalived, both, err
	}
	proxies, err = guard.NewRunner(s.StateDir, s.RunDir, n.logger.Named("haproxy"))
	return proxies, daemon.Exec{}, nil, err
}

// drivers makes both drivers.
func (n *node) drivers(ctx context.Context, s *settings.Settings, good *target.Target, changes *drift.Set) (err error) {
	proxies, routers, both, err := n.runners(s)
	if err != nil {
		return err
	}
	n.takeover, err = adopt.New(adopt.Options{
		StateDir: s.StateDir, Node: s.Node, Networks: s.Networks, Units: both, Logger: n.logger.Named("takeover"),
		Problem: func(text string) { n.report.Problem("takeover", text) },
	})
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	n.vrrp, err = keepalived.New(ctx, keepalived.Options{
		FenceGuard:   []string{program, "hook", "fence-guard"},
		TrackGuard:   []string{program, "hook", "track-guard", "--state-dir", s.StateDir},
		ReleaseGuard: []string{program, "hook", "release-guard", "--state-dir", s.StateDir, "--run-dir", s.RunDir},
		Binary:       s.Keepalived.Binary,
		StateDir:     s.StateDir,
		RunDir:       s.RunDir,
		Networks:     s.Networks,
		Runner:       routers,
		Logger:       n.logger.Named("keepalived"),
		Notify:       n.fromKeepalived,
	})
	if err != nil {
		return err
	}
	if n.vrrp.Snapshot().Trial {
		n.trial.found()
	}
	var proxyConfig *haproxyv1.Config
	// Beside somebody else's daemons nothing is started.
	if good != nil && n.takeover.Held(ctx) == nil {
		if proxyConfig, err = changes.Over(good).HAProxy(); err != nil {
			return fmt.Errorf("last good configuration: %w", err)
		}
	}
	n.proxy, err = haproxy.New(haproxy.Options{
		Binary:    s.HAProxy.Binary,
		StateDir:  s.StateDir,
		RunDir:    s.RunDir,
		Good:      proxyConfig,
		User:      s.HAProxy.User,
		Group:     s.HAProxy.Group,
		Runner:    proxies,
		AccessLog: s.Logs.File("access.log"),
		Kept:      n.takeover.Kept,
		Logger:    n.logger.Named("haproxy"),
		Notify:    n.fromHAProxy,
	})
	return err
}

// reconciler makes the reconciler, which acts on both drivers.
func (n *node) reconciler(o reconcile.Options) *reconcile.Reconciler {
	o.Proxy, o.VRRP = adopt.Proxy{Takeover: n.takeover}, adopt.VRRP{Takeover: n.takeover}
	o.Logger = n.logger.Named("reconcile")
	o.Problem = func(text string) { n.report.Problem("target", text) }
	o.Unsaved = func(text string) { n.report.Unsaved("disk", text) }
	return reconcile.New(o)
}

// changes reads what operators have changed on the node itself. Ones that are
// damaged or cannot be read are told and left: nobody knows any more what they
// were.
func (n *node) changes(stateDir string) *drift.Set {
	changes, err := drift.Load(stateDir, n.report)
	if err != nil {
		n.logger.Error("local changes ignored", "error", err)
		n.report.Note(fmt.Sprintf("%v: what was changed on the node itself is no longer in effect", err))
	}
	return changes
}

// good reads the last good target; nil: none. One that is damaged or cannot be
// read is told and left: the daemons go on with what they have, and the
// controller sends everything anew. Of a damaged journal it has the changes
// before the damage, and behind tells so.
func (n *node) good(store *cache.Cache) (good *target.Target, behind bool) {
	config, err := store.Good()
	if behind = config != nil && err != nil; behind {
		n.logger.Error("last good configuration used without its newest changes; asking the controller for them", "error", err)
		n.report.Note(fmt.Sprintf("last good configuration used without its newest changes: %v", err))
	}
	if config != nil {
		good, err = target.FromConfig(config)
	}
	if err != nil {
		n.logger.Error("last good configuration ignored; asking the controller for a new one", "error", err)
		n.report.Note(fmt.Sprintf("last good configuration ignored: %v", err))
		return nil, false
	}
	return good, behind
}

// newBootID is the kernel's boot id and a random part: see Hello.boot_id.
func newBootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(boot)) + "/" + rand.Text(), nil
}
