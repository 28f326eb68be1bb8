// Command lb-agent makes HAProxy and keepalived on one machine do what the
// controller wants of it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/agent/internal/node"
	"github.com/tandem-lb/tandem/agent/internal/settings"
	"github.com/tandem-lb/tandem/agent/internal/slack"
)

// version is filled in by the build.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		text, code := outcome(err)
		fmt.Fprintln(os.Stderr, "lb-agent:", text)
		stop()
		os.Exit(code)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "lb-agent",
		Short:         "Drive HAProxy and keepalived on this machine for a Tandem controller",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2, // letters
	}
	cmd.AddCommand(run(), hook(), adoptCommand(), releaseCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version) },
	})
	cmd.AddCommand(breakGlass()...)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w\nsee \"%s --help\"", err, cmd.CommandPath())
	})
	return cmd
}

// garbage is how much there may be, in percent of what is in use, until it is collected.
// With 1,000 backends half of the usual saves 3 MB, and costs a collection of 5 ms each
// ten seconds or so.
const garbage = 50

// processors are how many run Go code at a time. With a second one each wake-up has the
// runtime start another thread to look for more work, of which an agent at rest has none:
// that took as long as all that it does. What takes long, as a new configuration does,
// keeps others waiting for 10 ms at most (asynchronous preemption), and a call of the kernel
// that blocks, such as fsync(2), for one or two: the runtime's monitor has slack, too.
const processors = 1

func run() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run the agent until it is told to stop (SIGINT or SIGTERM).

HAProxy and keepalived go on when it stops, and the next start takes them over
as they are. docs/operations.md describes the configuration file.`,
		Example: "  lb-agent run --config /etc/tandem/agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.Read(path)
			if err != nil {
				return err
			}
			logger := hclog.New(&hclog.LoggerOptions{
				Name: "lb-agent", Level: hclog.LevelFromString(s.LogLevel), Output: os.Stderr,
			})
			logger.Info("starting", "version", version, "node", s.Node)
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(garbage)
			}
			if os.Getenv("GOMAXPROCS") == "" {
				runtime.GOMAXPROCS(processors)
			}
			if runtime.GOMAXPROCS(0) == processors { // with more the runtime waits for microseconds, too
				if err := slack.Relax(); err != nil {
					logger.Debug("timers are more exact than they need be, which takes time", "reason", err)
				}
			}
			return node.Run(cmd.Context(), s, version, logger)
		},
	}
	cmd.Flags().StringVar(&path, "config", "/etc/tandem/agent.yaml", "configuration file")
	return cmd
}
