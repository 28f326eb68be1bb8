package cmd

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/manifest"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) applyCommand() *cobra.Command {
	var c change
	var file string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make a cluster be what a file says",
		Long: `Make a cluster be what a file says, in YAML or JSON: what is not in it is
removed, nodes and what operators set by hand (drain, maintenance) stay. It is
one revision, or none when nothing differs. The change is printed. Passwords
that the file leaves out stay as they are.

A mistake is shown with its place in the file.`,
		Example: `  lbctl apply -f cluster.yaml --dry-run
  lbctl apply -f cluster.yaml -m "three more web servers"
  lbctl export | sed 's/leastconn/roundrobin/' | lbctl apply -f -`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return failure.Usagef("-f is missing: the file to apply, or - for standard input")
			}
			// Typing into standard input may take longer than --timeout.
			m, err := a.readManifest(file)
			if err != nil {
				return err
			}
			return a.connected(func(ctx context.Context, s *session, _ []string) error {
				return m.Locate(apply(ctx, s, &c, m.Config))
			})(cmd, args)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the cluster's configuration, - for standard input")
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

func (a *app) readManifest(file string) (*manifest.Manifest, error) {
	if file == "-" {
		return manifest.Read(a.env.Stdin, "standard input")
	}
	opened, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return manifest.Read(io.Reader(opened), file)
}

func apply(ctx context.Context, s *session, c *change, config *tandemv1.ClusterConfig) error {
	cluster, err := s.clusterOf(config)
	if err != nil {
		return err
	}
	request := &tandemv1.ApplyConfigRequest{Parent: cluster, Config: config, Etag: c.etag}
	c.stamp(request)
	var header metadata.MD
	reply, err := s.Config.ApplyConfig(ctx, request, grpc.Header(&header))
	if err != nil {
		return err
	}
	changes := reply.GetRevision().GetChanges()
	if !s.isTable() || len(changes) > 0 {
		if err := s.print(reply, func() output.Table { return view.Changes(changes) }); err != nil {
			return err
		}
	}
	if reply.GetRevision() == nil {
		return s.finish(ctx, c, cluster, what("cluster", cluster)+" is like that already", header)
	}
	return s.finish(ctx, c, cluster, what("cluster", cluster)+" changed", header)
}

// clusterOf is the cluster that a file is for: the file says it, unless the
// command line does.
func (s *session) clusterOf(config *tandemv1.ClusterConfig) (string, error) {
	if named := config.GetCluster().GetName(); named != "" && s.flags.Cluster == "" {
		return name.Cluster(named)
	}
	return s.cluster, nil
}

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Print a cluster's configuration as a file for apply",
		Long: `Print everything that is desired of a cluster, as "lbctl apply -f" takes it, in
YAML or with "-o json" in JSON. Left out are passwords, nodes, and what
operators set by hand.`,
		Example:           "  lbctl export > cluster.yaml\n  lbctl export -o json",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			config, err := s.Config.ExportConfig(ctx, &tandemv1.ExportConfigRequest{Parent: s.cluster})
			if err != nil {
				return err
			}
			if s.isTable() {
				return output.WriteYAML(s.env.Stdout, config)
			}
			return s.print(config, nil)
		}),
	}
}
