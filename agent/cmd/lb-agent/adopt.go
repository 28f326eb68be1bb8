package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/agent/internal/adopt"
	"github.com/tandem-lb/tandem/agent/internal/settings"
)

// adoptFlags are the flags of "lb-agent adopt".
type adoptFlags struct {
	config, node                string
	haproxyFile, keepalivedFile string
	peers                       map[string]string
	output                      string
	yes, holder                 bool
	timeout                     time.Duration
}

func adoptCommand() *cobra.Command {
	f := &adoptFlags{}
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Take over a HAProxy and a keepalived that run hand-written files",
		Long: `Read the hand-written files of the HAProxy and the keepalived that run on this
machine, and show line by line what Tandem would manage, what it would keep as
written, what it does itself, and what stands in the way. With --output it also
writes what it would manage as the file that "lbctl apply -f" takes.

Nothing is changed without --yes. With it the running agent takes the daemons
over as soon as the controller's configuration has all that runs. Take the
standby over first; on the node that holds a VIP --holder says that this was
done. docs/takeover.md describes the whole way.`,
		Example: `  lb-agent adopt
  lb-agent adopt --peer lb-backup=keepalived-backup.conf --output cluster.yaml
  lb-agent adopt --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.config, "config", "/etc/tandem/agent.yaml", "the agent's configuration file, for node and networks")
	cmd.Flags().StringVar(&f.node, "node", "", "this node's id, where there is no configuration file yet (default: the hostname's first label)")
	cmd.Flags().StringVar(&f.haproxyFile, "haproxy-file", "", "haproxy.cfg (default: the one that the running HAProxy reads)")
	cmd.Flags().StringVar(&f.keepalivedFile, "keepalived-file", "", "keepalived.conf (default: the one that the running keepalived reads)")
	cmd.Flags().StringToStringVar(&f.peers, "peer", nil, "another node's keepalived.conf, as NODE=FILE")
	cmd.Flags().StringVar(&f.output, "output", "", "file to write for lbctl apply -f")
	cmd.Flags().Bool("dry-run", false, "change nothing, as without --yes")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "take the daemons over")
	cmd.Flags().BoolVar(&f.holder, "holder", false, "do it on the node that holds a VIP too")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for the agent")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "yes")
	return cmd
}

func (f *adoptFlags) run(cmd *cobra.Command) error {
	q := adopt.Question{Node: f.node, HAProxyFile: f.haproxyFile, KeepalivedFile: f.keepalivedFile, Peers: f.peers}
	s, err := settings.Read(f.config)
	switch {
	case err == nil:
		q.Networks = s.Networks
		if q.Node == "" {
			q.Node = s.Node
		}
	case !errors.Is(err, fs.ErrNotExist) || cmd.Flags().Changed("config"):
		return err
	case q.Node == "":
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the hostname is unknown: give --node: %w", err)
		}
		q.Node, _, _ = strings.Cut(host, ".")
	}
	answer, err := adopt.Look(q)
	if err != nil {
		return err
	}
	if _, err := cmd.OutOrStdout().Write(answer.Report()); err != nil {
		return err
	}
	for _, note := range answer.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", note)
	}
	if refusals := answer.Refusals(); len(refusals) > 0 {
		return fmt.Errorf("the files cannot be taken over as they are:\n  %s", strings.Join(refusals, "\n  "))
	}
	if f.output != "" {
		if err := answer.Write(f.output, q.Node); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "wrote %s\n", f.output)
	}
	if !f.yes {
		return nil
	}
	if s == nil {
		return fmt.Errorf("--yes needs the agent's configuration file: %w", err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	if err := wish(cmd, s, f.holder).TakeOver(ctx, answer.Import); err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "taken over")
	return nil
}

func wish(cmd *cobra.Command, s *settings.Settings, holder bool) *adopt.Wish {
	return &adopt.Wish{
		StateDir: s.StateDir, Systemd: s.Runner == settings.RunnerSystemd, Holder: holder,
		Say: func(problem string) { fmt.Fprintln(cmd.ErrOrStderr(), "waiting:", problem) },
	}
}

func releaseCommand() *cobra.Command {
	var path string
	var yes bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Give a HAProxy and a keepalived that were taken over their own files back",
		Long: `Have the running agent put the hand-written files back that lb-agent adopt has put
aside, and let the daemons go on with them. A VIP stays where it is, and no new
connection fails. The agent touches neither of them afterwards, until they are
taken over again or stopped.`,
		Example: "  lb-agent release --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.Read(path)
			if err != nil {
				return err
			}
			if !yes {
				return errors.New("this gives both daemons back on this node: say --yes")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := wish(cmd, s, false).Release(ctx); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "released")
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "/etc/tandem/agent.yaml", "the agent's configuration file")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the agent")
	return cmd
}
