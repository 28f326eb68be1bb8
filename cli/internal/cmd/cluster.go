package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var clusterFields = []fields.Field{
	{Flag: "vrrp-version", Path: "vrrp.version", Usage: "2 or 3 (default 3)", Values: []string{"2", "3"}},
	{Flag: "advert-interval", Path: "vrrp.advert_interval", Usage: "time between VRRP advertisements (default 100ms, 1s with version 2)"},
	{Flag: "unicast", Path: "vrrp.unicast", Usage: "advertise VIPs to the nodes' own addresses, where the network carries no multicast (default false)"},
	{Flag: "profile", Path: "vrrp.profile", Usage: "that time by name: fast (50ms), normal (100ms) or wan (1s)", Values: []string{"fast", "normal", "wan"}},
	{Flag: "connect-timeout", Path: "defaults.connect_timeout", Usage: "how long a connection to a backend may take (default 5s)"},
	{Flag: "client-timeout", Path: "defaults.client_timeout", Usage: "how long a client may be silent (default 60s)"},
	{Flag: "server-timeout", Path: "defaults.server_timeout", Usage: "how long a backend may be silent (default 60s)"},
	{Flag: "queue-timeout", Path: "defaults.queue_timeout", Usage: "how long to wait for a free connection (default 60s)"},
	{Flag: "http-request-timeout", Path: "defaults.http_request_timeout", Usage: "how long a request's headers may take (default 10s)"},
	{Flag: "http-keep-alive-timeout", Path: "defaults.http_keep_alive_timeout", Usage: "how long a connection may idle between requests (default 10s)"},
	{Flag: "retries", Path: "defaults.retries", Usage: "how often a failed connection is tried again (default 3)"},
	{Flag: "redispatch", Path: "defaults.redispatch", Usage: "let a retry go to another backend (default true)"},
	{Flag: "forwarded-for", Path: "defaults.forwarded_for", Usage: "add X-Forwarded-For (default true)"},
	{Flag: "listener-max-connections", Path: "defaults.max_connections", Usage: "limit of concurrent connections of a listener (default 3000)"},
	{Flag: "max-connections", Path: "max_connections", Usage: "limit of concurrent connections of HAProxy as a whole (default 8000)"},
	{Flag: "stats-address", Path: "stats_page.address", Usage: "address of the statistics page (default: every one)"},
	{Flag: "stats-port", Path: "stats_page.port", Usage: "port of the statistics page (default 8080)"},
	{Flag: "stats-path", Path: "stats_page.path", Usage: "path of the statistics page (default /stats)"},
	{Flag: "stats-realm", Path: "stats_page.realm", Usage: "what the statistics page's password prompt shows"},
	{Flag: "stats-refresh", Path: "stats_page.refresh", Usage: "how often the statistics page reloads itself (default 30s)"},
	{Flag: "log-target", Path: "logging.target", Usage: "where the access log goes: file, journald, syslog or a syslog server's ADDRESS:PORT (default: none)"},
	{Flag: "log-format", Path: "logging.format", Usage: "haproxy or json (default haproxy)", Values: []string{"haproxy", "json"}},
	{Flag: "log-query", Path: "logging.query", Usage: "log query strings, which may hold secrets (default: true with haproxy, false with json)"},
	{Flag: "log-facility", Path: "logging.facility", Usage: "syslog facility (default local0)"},
}

// clusterUnset is what --unset clears beside the flags.
var clusterUnset = map[string]string{
	"stats-page": "stats_page", "stats-user": "stats_page.users",
	"defaults": "defaults", "logging": "logging", "vrrp": "vrrp",
}

var clusterKind = kind{
	noun: "cluster", plural: "clusters", example: "default", arg: "CLUSTER", optional: true,
	full: func(_, arg string) (string, error) { return name.Cluster(arg) },
}

func (a *app) clusterCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "cluster",
		Aliases: []string{"clusters"},
		Short:   "Nodes that share VIPs, and what they have in common",
		Long: `A cluster is a set of nodes that share VIPs, usually one pair. What is set here
is inherited by its listeners and pools.`,
		Example: `  lbctl cluster set --stats-user admin --stats-password-file stats.password
  lbctl cluster set --client-timeout 30s --log-target 127.0.0.1:514
  lbctl cluster add staging`,
	},
		a.clusterAdd(),
		list(a, clusterKind, clustersOf, func(r *tandemv1.ListClustersResponse) output.Table { return view.Clusters(r.GetClusters(), now()) }),
		show(a, clusterKind, a.firstName(listClusters), func(ctx context.Context, s *session, full string) (*tandemv1.Cluster, error) {
			return s.Config.GetCluster(ctx, &tandemv1.GetClusterRequest{Name: full})
		}),
		a.clusterSet(),
		remove(a, clusterKind, a.firstName(listClusters), func(ctx context.Context, s *session, c *change, full string) error {
			c.noWait = true // no node is left to wait for
			return send(ctx, s, c, full, what("cluster", full), "removed",
				&tandemv1.DeleteClusterRequest{Name: full, Etag: c.etag}, s.Config.DeleteCluster)
		}),
	)
}

func (a *app) clusterAdd() *cobra.Command {
	var c change
	var set *fields.Set
	var secrets secretFlags
	cmd := &cobra.Command{
		Use:   "add CLUSTER",
		Short: "Add a cluster",
		Long: `Add a cluster, without nodes yet. Passwords come from a file, from standard
input with -, or are asked for; never from an argument.`,
		Example:           "  lbctl cluster add staging",
		Args:              arguments("CLUSTER"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := clusterKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			cluster := &tandemv1.Cluster{}
			if _, err := set.Apply(cluster); err != nil {
				return failure.Usage(err)
			}
			if _, err := secrets.apply(cluster, nil); err != nil {
				return err
			}
			return send(ctx, s, &c, full, what("cluster", full), "added",
				&tandemv1.CreateClusterRequest{ClusterId: name.ID(full), Cluster: cluster}, s.Config.CreateCluster)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Cluster{}, clusterFields)
	completeFields(cmd, clusterFields)
	secrets.bind(a, cmd)
	c.bind(cmd)
	return cmd
}

func (a *app) clusterSet() *cobra.Command {
	var c change
	var set *fields.Set
	var secrets secretFlags
	cmd := &cobra.Command{
		Use:   "set [CLUSTER]",
		Short: "Change a cluster's settings",
		Long: `Change what the flags name and leave everything else. Without a name it is the
cluster that --cluster or the configuration says.

Passwords come from a file, from standard input with -, or are asked for; never
from an argument. A user of the statistics page that is there already gets the
new password, others stay.`,
		Example: `  lbctl cluster set --stats-user admin --stats-password-file stats.password
  lbctl cluster set --connect-timeout 5s --retries 3
  lbctl cluster set --log-target file --log-format json
  lbctl cluster set --unset stats-page`,
		Args:              arguments("[CLUSTER]"),
		ValidArgsFunction: a.firstName(listClusters),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := clusterKind.resolve(s, append(args, s.cluster)[0])
			if err != nil {
				return err
			}
			cluster := &tandemv1.Cluster{Name: full, Etag: c.etag}
			paths, err := set.Apply(cluster)
			if err != nil {
				return failure.Usage(err)
			}
			more, err := secrets.apply(cluster, func() (*tandemv1.Cluster, error) {
				return s.Config.GetCluster(ctx, &tandemv1.GetClusterRequest{Name: full})
			})
			if err != nil {
				return err
			}
			mask, err := maskOf(append(paths, more...))
			if err != nil {
				return err
			}
			return send(ctx, s, &c, full, what("cluster", full), "changed",
				&tandemv1.UpdateClusterRequest{Cluster: cluster, UpdateMask: mask}, s.Config.UpdateCluster)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Cluster{}, clusterFields)
	set.BindUnset(cmd.Flags(), clusterUnset)
	complete(cmd, "unset", fixed(set.UnsetNames()...))
	completeFields(cmd, clusterFields)
	secrets.bind(a, cmd)
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

func clustersOf(ctx context.Context, s *session) (*tandemv1.ListClustersResponse, error) {
	return allPages(func(token string) (*tandemv1.ListClustersResponse, error) {
		return s.Config.ListClusters(ctx, &tandemv1.ListClustersRequest{PageToken: token})
	})
}
