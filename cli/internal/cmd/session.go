package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
)

// session is a connection to the controller on behalf of one command.
type session struct {
	*app
	*client.Client
	// cluster is the full name of the cluster to work on.
	cluster string
}

// handler is what a command does once it is connected.
type handler func(ctx context.Context, s *session, args []string) error

// connected runs a handler within --timeout.
func (a *app) connected(handle handler) func(*cobra.Command, []string) error {
	return a.streaming(func(ctx context.Context, s *session, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		return handle(ctx, s, args)
	})
}

// streaming runs a handler until it ends by itself or is interrupted.
func (a *app) streaming(handle handler) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := a.open()
		if err != nil {
			return err
		}
		defer s.Close()
		return handle(cmd.Context(), s, args)
	}
}

func (a *app) open() (*session, error) {
	settings, err := a.settings()
	if err != nil {
		return nil, err
	}
	cluster, err := name.Cluster(settings.Cluster)
	if err != nil {
		return nil, failure.Usage(err)
	}
	c, err := client.Dial(settings)
	if err != nil {
		return nil, err
	}
	return &session{app: a, Client: c, cluster: cluster}, nil
}

// settings are the flags over the environment over the configuration file over
// the defaults.
func (a *app) settings() (client.Settings, error) {
	known := a.flags.Over(client.FromEnv(a.env.LookupEnv))
	if dir, err := client.ConfigDir(a.env.LookupEnv); err == nil {
		saved, err := client.FromFile(filepath.Join(dir, configFile))
		if err != nil {
			return client.Settings{}, err
		}
		known = known.Over(saved)
	}
	return known.Over(client.Settings{Server: "localhost", Cluster: "default"}), nil
}

// print writes a message in the format that was asked for.
func (a *app) print(message proto.Message, table func() output.Table) error {
	switch a.format {
	case output.FormatJSON:
		return output.WriteJSON(a.env.Stdout, message)
	case output.FormatYAML:
		return output.WriteYAML(a.env.Stdout, message)
	case output.FormatName:
		return output.WriteNames(a.env.Stdout, message)
	default:
		return table().Write(a.env.Stdout, a.style())
	}
}

func (a *app) isTable() bool {
	return a.format == output.FormatTable || a.format == output.FormatWide
}

func (a *app) style() output.Style {
	return output.Style{Wide: a.format == output.FormatWide, Color: a.colored()}
}

// colored follows no-color.org, and leaves files and pipes plain.
func (a *app) colored() bool {
	noColor, _ := a.env.LookupEnv("NO_COLOR")
	kind, _ := a.env.LookupEnv("TERM")
	return noColor == "" && kind != "dumb" && isTerminal(a.env.Stdout)
}

// say writes words for people. Whatever is in them from elsewhere is clean.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.env.Stderr, output.CleanLines(fmt.Sprintf(format, args...)))
}

func now() view.Clock { return view.Clock(time.Now()) }

// isTerminal tells whether a reader or a writer is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
