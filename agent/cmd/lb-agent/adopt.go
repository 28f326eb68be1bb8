package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

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
}

func adoptCommand() *cobra.Command {
	f := &adoptFlags{}
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Show what Tandem would manage of a HAProxy and a keepalived that run already",
		Long: `Read the hand-written files of the HAProxy and the keepalived that run on this
machine, and show line by line what Tandem would manage, what it would keep as
written, what it does itself, and what stands in the way. Nothing is changed.

With --output it also writes what it would manage as the file that
"lbctl apply -f" takes. docs/takeover.md describes the whole way.`,
		Example: `  lb-agent adopt --dry-run
  lb-agent adopt --dry-run --peer lb-backup=keepalived-backup.conf --output cluster.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.config, "config", "/etc/tandem/agent.yaml", "the agent's configuration file, for node and networks")
	cmd.Flags().StringVar(&f.node, "node", "", "this node's id, where there is no configuration file yet (default: the hostname's first label)")
	cmd.Flags().StringVar(&f.haproxyFile, "haproxy-file", "", "haproxy.cfg (default: the one that the running HAProxy reads)")
	cmd.Flags().StringVar(&f.keepalivedFile, "keepalived-file", "", "keepalived.conf (default: the one that the running keepalived reads)")
	cmd.Flags().StringToStringVar(&f.peers, "peer", nil, "another node's keepalived.conf, as NODE=FILE")
	cmd.Flags().StringVar(&f.output, "output", "", "file to write for lbctl apply -f")
	cmd.Flags().Bool("dry-run", true, "change nothing")
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
	if f.output == "" {
		return nil
	}
	if err := answer.Write(f.output, q.Node); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "wrote %s\n", f.output)
	return nil
}
