package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/agent/internal/alive"
	"github.com/tandem-lb/tandem/agent/internal/cache"
	"github.com/tandem-lb/tandem/agent/internal/drift"
	"github.com/tandem-lb/tandem/agent/internal/guard"
	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/settings"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// hook is the group of commands that units call around starts and stops of the
// daemons, so that these are right without the agent and the controller. They
// do not read the agent's configuration file: a mistake in it must not keep the
// daemons from starting.
func hook() *cobra.Command {
	var dirs hookDirs
	cmd := &cobra.Command{
		Use:   "hook",
		Short: "Called by units around starts and stops of the daemons",
		Long: `Called by the units of HAProxy and keepalived (ExecStartPre and the like), so
that a start or stop is right although neither agent nor controller runs. Where
there are no units (runner: exec) the agent starts haproxy-guard itself.`,
	}
	cmd.PersistentFlags().StringVar(&dirs.state, "state-dir", settings.DefaultStateDir, "the agent's state_dir")
	cmd.PersistentFlags().StringVar(&dirs.run, "run-dir", settings.DefaultRunDir, "the agent's run_dir")
	cmd.AddCommand(
		dirs.command("haproxy-start", "Have HAProxy start with what was in effect last", haproxyStart),
		dirs.command("haproxy-started", "Wait until HAProxy serves, and let this node hold VIPs", haproxyStarted),
		haproxyStop(&dirs),
		haproxyGuard(&dirs),
		dirs.command("keepalived-start", "Write safe scores before keepalived starts, and await its interfaces", keepalivedStart),
		fenceGuard(),
		trackGuard(&dirs),
		releaseGuard(&dirs),
		dirs.command("keepalived-stop", "Remove what a keepalived that was killed left behind", keepalivedStop),
	)
	return cmd
}

// fenceGuard is what the agent starts beside a fence, which must not outlive it.
func fenceGuard() *cobra.Command {
	return &cobra.Command{
		Use: "fence-guard FILE...", Short: "End a fence when the agent, which says how long it lasts, does not",
		Args: arguments(cobra.MinimumNArgs(1)), Hidden: true,
		RunE: func(cmd *cobra.Command, files []string) error {
			return keepalived.GuardFence(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), files)
		},
	}
}

// trackGuard is what the agent starts beside what the tracks of its VIPs add.
func trackGuard(dirs *hookDirs) *cobra.Command {
	return &cobra.Command{
		Use: "track-guard FILE...", Short: "End what tracks take off a VIP's priority when no agent asks for them any more",
		Args: arguments(cobra.MinimumNArgs(1)), Hidden: true,
		RunE: func(cmd *cobra.Command, files []string) error {
			ctx := cmd.Context()
			return keepalived.GuardTracks(ctx, cmd.InOrStdin(), cmd.OutOrStdout(), files,
				func(do func() error) error { return unlessAgent(ctx, dirs.state, do) })
		},
	}
}

// releaseGuard is what the agent starts before keepalived gives its VIPs up for a HAProxy
// that hangs.
func releaseGuard(dirs *hookDirs) *cobra.Command {
	return &cobra.Command{
		Use: "release-guard", Short: "Make this node stand by again when the agent, which has had it give its VIPs up, does not",
		Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
			if err != nil {
				return err
			}
			return hooks.GuardRelease(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// hookDirs are where a hook finds the agent's files.
type hookDirs struct{ state, run string }

func (d *hookDirs) command(use, short string, run func(context.Context, hookDirs) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), *d) },
	}
}

const (
	// startPatience is how long HAProxy gets until it serves. 10,000 servers
	// take it a second.
	startPatience = time.Minute
	// askPatience is for a HAProxy that serves already, or not.
	askPatience = time.Second
)

// haproxyStart makes HAProxy's file anew from the last good configuration and
// the changes since. What cannot be read is told; the last file that HAProxy was
// confirmed with is used then.
func haproxyStart(ctx context.Context, dirs hookDirs) error {
	good, unread := lastGood(dirs)
	told, err := haproxy.BeforeStart(ctx, dirs.state, dirs.run, good)
	if err != nil {
		return errors.Join(unread, err)
	}
	tell(errors.Join(unread, told))
	return nil
}

// tell says what does not keep a daemon from starting.
func tell(told error) {
	if told != nil {
		fmt.Fprintln(os.Stderr, "lb-agent:", told)
	}
}

// lastGood returns HAProxy's part of the last good configuration, with what
// operators have changed on the node itself; nil: none.
func lastGood(dirs hookDirs) (*haproxyv1.Config, error) {
	store, err := cache.New(dirs.state)
	if err != nil {
		return nil, err
	}
	config, damage := store.Good()
	if config == nil {
		return nil, damage
	}
	good, err := target.FromConfig(config)
	if err != nil {
		return nil, errors.Join(damage, fmt.Errorf("last good configuration: %w", err))
	}
	changes, unread := drift.Load(dirs.state, report.New(""))
	proxyConfig, err := changes.Over(good).HAProxy()
	return proxyConfig, errors.Join(damage, unread, err)
}

// haproxyStarted leaves the score to an agent that lives: it knows of a HAProxy that
// keeps dying.
func haproxyStarted(ctx context.Context, dirs hookDirs) error {
	if err := untilServing(ctx, dirs, startPatience); err != nil {
		return err
	}
	hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
	if err != nil {
		return err
	}
	return unlessAgent(ctx, dirs.state, func() error { return hooks.SetHealth(true) })
}

// agentPatience is for an agent that may be about to end: one that does not start, as
// another one runs or its file is wrong, has the lock for a moment.
const agentPatience = 200 * time.Millisecond

// unlessAgent does something unless an agent lives. Where that cannot be told, it does.
func unlessAgent(ctx context.Context, stateDir string, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	done := false
	err := alive.Without(ctx, stateDir, func() error {
		done = true
		return do()
	})
	switch {
	case done:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return nil
	default:
		tell(err)
		return do()
	}
}

func haproxyStop(dirs *hookDirs) *cobra.Command {
	var wait time.Duration
	cmd := dirs.command("haproxy-stop", "Have the VIPs leave this node, as HAProxy is not to serve",
		func(ctx context.Context, dirs hookDirs) error {
			hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
			if err != nil {
				return err
			}
			if err := hooks.SetHealth(false); err != nil || wait == 0 {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			return hooks.UntilReleased(ctx)
		})
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long at most until they have left; they stay where there is no better node")
	return cmd
}

// haproxyGuard is what the agent starts beside a HAProxy that no unit looks after.
func haproxyGuard(dirs *hookDirs) *cobra.Command {
	var pid int
	cmd := dirs.command("haproxy-guard", "Wait for HAProxy's end, and have the VIPs leave this node when no agent lives",
		func(ctx context.Context, dirs hookDirs) error {
			if pid <= 0 {
				return usagef("--process is missing: the process id of HAProxy's master")
			}
			hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
			if err != nil {
				return err
			}
			return guard.Guard(ctx, pid, dirs.state, guardActs(ctx, dirs, hooks))
		})
	cmd.Flags().IntVar(&pid, "process", 0, "process id of HAProxy's master")
	return cmd
}

func guardActs(ctx context.Context, dirs hookDirs, hooks *keepalived.Hooks) guard.Acts {
	dead := func() error {
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		if haproxy.Serves(ctx, dirs.run) == nil {
			return nil // an agent has started it again and died then
		}
		return hooks.SetHealth(false)
	}
	return guard.Acts{Dead: dead, Released: hooks.EndRelease}
}

func keepalivedStart(ctx context.Context, dirs hookDirs) error {
	hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
	if err != nil {
		return err
	}
	told, err := hooks.BeforeStart(ctx, func() bool { return untilServing(ctx, dirs, askPatience) == nil })
	tell(told)
	return err
}

func keepalivedStop(_ context.Context, dirs hookDirs) error {
	hooks, err := keepalived.NewHooks(dirs.state, dirs.run)
	if err != nil {
		return err
	}
	return hooks.AfterStop()
}

func untilServing(ctx context.Context, dirs hookDirs, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return haproxy.UntilServing(ctx, dirs.run)
}
