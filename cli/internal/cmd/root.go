// Package cmd is the command line of lbctl, one file a noun.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/output"
)

// Env is the world that lbctl runs in.
type Env struct {
	// Args are the words after "lbctl".
	Args []string
	// Stdin is where "-" reads from, and where questions are answered.
	Stdin io.Reader
	// Stdout gets data, Stderr gets words.
	Stdout, Stderr io.Writer
	// LookupEnv reads the environment.
	LookupEnv func(string) (string, bool)
	// Version is lbctl's own.
	Version string
}

// Run runs one command line and returns its exit code; see package failure.
// It ends early when ctx does.
func Run(ctx context.Context, env Env) int {
	a := &app{env: env, format: output.FormatTable}
	root := a.rootCommand() //nolint:contextcheck // commands get ctx from ExecuteContextC
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	ran, err := root.ExecuteContextC(ctx)
	if err != nil {
		fmt.Fprintf(env.Stderr, "error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
	}
	var usage *failure.UsageError
	if errors.As(err, &usage) {
		fmt.Fprintf(env.Stderr, "see \"%s --help\"\n", ran.CommandPath())
	}
	return failure.ExitCode(err)
}

// app is one run of lbctl: its world and the flags of every command.
type app struct {
	env     Env
	flags   client.Settings
	format  output.Format
	timeout time.Duration
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lbctl",
		Short: "Set and watch a Tandem load balancer",
		Long: `lbctl sets what a Tandem load balancer shall do and shows what it does.

It talks to an lb-controller: log in once with "lbctl login", or say where it is
with flags or with the variables LBCTL_SERVER, LBCTL_TOKEN_FILE, LBCTL_CA and
LBCTL_CLUSTER. Flags override the environment, which overrides
~/.config/lbctl/config.yaml.

A command that changes something returns when the change is in effect on every
connected node. Data goes to stdout, words go to stderr.

Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 not allowed, 5 conflict,
6 timeout.`,
		Example: `  lbctl pool add web_servers --check 'GET /health'
  lbctl backend add web_servers/web1 192.168.1.20:80
  lbctl vip add web 192.168.1.100/24 --vrid 51
  lbctl listener add web_frontend --vip web --port 80 --pool web_servers
  lbctl status --watch`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.flags.Server, "server", "", "controller's gRPC address, HOST[:PORT] (default localhost:9443)")
	flags.StringVar(&a.flags.TokenFile, "token-file", "", "file with the operator token")
	flags.StringVar(&a.flags.CA, "ca", "", "file with the controller's CA certificate")
	flags.StringVar(&a.flags.Cluster, "cluster", "", "cluster to work on (default default)")
	flags.VarP(&a.format, "output", "o", "how data is written")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long a call, and waiting for its effect, may take")
	root.SetFlagErrorFunc(suggestFlag)
	group(root,
		a.statusCommand(), a.doctorCommand(), a.eventsCommand(), a.historyCommand(),
		a.clusterCommand(), a.nodeCommand(), a.vipCommand(), a.listenerCommand(), a.poolCommand(), a.backendCommand(),
		a.drillCommand(),
		a.planCommand(), a.applyCommand(), a.exportCommand(),
		a.backupCommand(), a.restoreCommand(),
		a.loginCommand(), a.caCommand(), a.versionCommand(),
	)
	complete(root, "output", fixed(output.Formats...))
	complete(root, "cluster", a.names(listClusters))
	return root
}
