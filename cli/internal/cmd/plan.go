package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) planCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what applying a file would do, and what the nodes say to it",
		Long: `Show what "lbctl apply -f FILE" would change, and what each node's own HAProxy
and keepalived say to it. Nothing is changed.

A node that is not connected, or does not answer, is told and counts as unknown.
The exit code is 1 when the controller or a node refuses the file.`,
		Example: "  lbctl plan -f cluster.yaml",
		Args:    arguments(""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return failure.Usagef("-f is missing: the file to plan, or - for standard input")
			}
			m, err := a.readManifest(file)
			if err != nil {
				return err
			}
			return a.connected(func(ctx context.Context, s *session, _ []string) error {
				return m.Locate(plan(ctx, s, m.Config))
			})(cmd, args)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the cluster's configuration, - for standard input")
	return cmd
}

func plan(ctx context.Context, s *session, config *tandemv1.ClusterConfig) error {
	cluster, err := s.clusterOf(config)
	if err != nil {
		return err
	}
	request := &tandemv1.ApplyConfigRequest{Parent: cluster, Config: config, CheckNodes: true}
	(&change{dryRun: true}).stamp(request)
	reply, err := s.Config.ApplyConfig(ctx, request)
	if err != nil {
		return err
	}
	if err := showPlan(s, cluster, reply); err != nil {
		return err
	}
	var refused []string
	for _, check := range reply.GetNodeChecks() {
		if check.GetVerdict() == tandemv1.NodeVerdict_NODE_VERDICT_REFUSED {
			refused = append(refused, name.Short(check.GetNode()))
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("refused by %s", strings.Join(refused, ", "))
	}
	return nil
}

// showPlan prints the changes and what each node says.
func showPlan(s *session, cluster string, reply *tandemv1.ApplyConfigResponse) error {
	if !s.isTable() {
		return s.print(reply, nil)
	}
	changes := reply.GetRevision().GetChanges()
	if len(changes) == 0 {
		s.say("%s is like that already", what("cluster", cluster))
	} else if err := s.print(reply, func() output.Table { return view.Changes(changes) }); err != nil {
		return err
	}
	if len(reply.GetNodeChecks()) == 0 {
		s.say("no node has joined yet, so none was asked")
		return nil
	}
	if len(changes) > 0 {
		fmt.Fprintln(s.env.Stdout)
	}
	return s.print(reply, func() output.Table { return view.NodeChecks(reply.GetNodeChecks()) })
}
