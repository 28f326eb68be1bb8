// Command lb-controller holds what Tandem's clusters shall be, and serves the
// API.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
)

// version is filled in by the build.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lb-controller:", err)
		stop()
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "lb-controller",
		Short:         "Hold what Tandem's clusters shall be, and serve the API",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	cmd.AddCommand(serveCommand(), restoreCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version) },
	})
	return cmd
}

func serveCommand() *cobra.Command {
	var o options
	var level, format string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the controller",
		Long: `Run the controller until it is told to stop (SIGINT or SIGTERM). The nodes go
on serving while it is down.

The first start fills the data directory: ca.pem (give it to clients), its key,
and admin.token (the first operator's token; keep it secret). docs/security.md
tells more.`,
		Example: `  lb-controller serve --data-dir /var/lib/tandem/controller --advertise ctl.example.com
  lb-controller serve --data-dir /tmp/ctl --grpc-listen 127.0.0.1:9443 --http-listen 127.0.0.1:8443`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(level, format)
			if err != nil {
				return err
			}
			o.logger, o.version, o.out = logger, version, cmd.OutOrStdout()
			return serve(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.dataDir, "data-dir", "/var/lib/tandem/controller", "directory of everything that must survive")
	flags.StringVar(&o.grpcListen, "grpc-listen", ":9443", "address and port of gRPC, for lbctl and agents")
	flags.StringVar(&o.httpListen, "http-listen", ":8443", "address and port of REST, the event stream and health")
	flags.StringSliceVar(&o.advertise, "advertise", nil, "host names and IP addresses that clients and agents reach this controller by, for its certificate (localhost always is one)")
	flags.StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "text or json")
	return cmd
}

func newLogger(level, format string) (hclog.Logger, error) {
	parsed := hclog.LevelFromString(level)
	if parsed == hclog.NoLevel {
		return nil, fmt.Errorf("--log-level %q: must be trace, debug, info, warn or error", level)
	}
	if format != "text" && format != "json" {
		return nil, fmt.Errorf("--log-format %q: must be text or json", format)
	}
	return hclog.New(&hclog.LoggerOptions{
		Name: "lb-controller", Level: parsed, JSONFormat: format == "json", Output: os.Stderr,
	}), nil
}
