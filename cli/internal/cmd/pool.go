package cmd

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var poolFields = []fields.Field{
	{Flag: "protocol", Path: "protocol", Usage: "http or tcp (default http)", Values: []string{"http", "tcp"}},
	{Flag: "balance", Path: "balance", Usage: "roundrobin, leastconn, first, random, source or uri (default roundrobin)",
		Values: []string{"roundrobin", "leastconn", "first", "random", "source", "uri"}},
	{Flag: "check", Type: "REQUEST", Parse: parseCheck, Values: []string{"GET /", "HEAD /", "tcp", "none"},
		Usage: "health check: 'GET /health', tcp or none (default tcp)"},
	{Flag: "check-host", Path: "check.http.host", Usage: "Host header of the health check"},
	{Flag: "check-status", Path: "check.http.expected_status", Usage: "status or range that passes (default 200-399)"},
	{Flag: "check-timeout", Path: "check.timeout", Usage: "how long one check may take (default: the interval)"},
	{Flag: "check-port", Path: "check.port", Usage: "port to check, if not the one that serves"},
	{Flag: "interval", Path: "check.interval", Usage: "time between checks, 10ms to 1h (default 2s)"},
	{Flag: "rise", Path: "check.rise", Usage: "passed checks that bring a backend up (default 2)"},
	{Flag: "fall", Path: "check.fall", Usage: "failed checks that take a backend down (default 3)"},
	{Flag: "connect-timeout", Path: "connect_timeout", Usage: "how long a connection to a backend may take (default: the cluster's)"},
	{Flag: "server-timeout", Path: "server_timeout", Usage: "how long a backend may be silent (default: the cluster's)"},
	{Flag: "queue-timeout", Path: "queue_timeout", Usage: "how long to wait for a free connection (default: the cluster's)"},
	{Flag: "retries", Path: "retries", Usage: "how often a failed connection is tried again (default: the cluster's)"},
	{Flag: "redispatch", Path: "redispatch", Usage: "let a retry go to another backend (default: the cluster's)"},
}

// parseCheck reads "GET /health", "/health", "tcp" or "none".
func parseCheck(text string) ([]fields.Assignment, error) {
	words := strings.Fields(text)
	switch {
	case text == "tcp":
		return []fields.Assignment{{Path: "check.http"}, {Path: "check.disabled"}}, nil
	case text == "none":
		return []fields.Assignment{{Path: "check.http"}, {Path: "check.disabled", Text: "true"}}, nil
	case len(words) == 1 && strings.HasPrefix(text, "/"):
		words = []string{"GET", text}
	case len(words) != 2:
		return nil, errors.New("must be a request such as 'GET /health', or tcp, or none")
	}
	return []fields.Assignment{
		{Path: "check.http.method", Text: words[0]}, {Path: "check.http.path", Text: words[1]}, {Path: "check.disabled"},
	}, nil
}

var poolKind = kind{noun: "pool", plural: "pools", example: "web_servers", arg: "POOL", full: nameOf(name.Pool)}

func (a *app) poolCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "pool",
		Aliases: []string{"pools"},
		Short:   "Groups of backends that serve the same thing",
		Long: `A pool says how traffic is spread over its backends and how their health is
found out. What it leaves unset it inherits from the cluster. Its backends are
set with "lbctl backend".`,
		Example: `  lbctl pool add web_servers
  lbctl pool add web_servers --balance roundrobin --check 'GET /health' --interval 2s --rise 2 --fall 3
  lbctl pool set web_servers --connect-timeout 5s`,
	},
		a.poolAdd(),
		list(a, poolKind, poolsOf, func(r *tandemv1.ListPoolsResponse) output.Table { return view.Pools(r.GetPools()) }),
		show(a, poolKind, a.firstName(listPools), func(ctx context.Context, s *session, full string) (*tandemv1.Pool, error) {
			return s.Config.GetPool(ctx, &tandemv1.GetPoolRequest{Name: full})
		}),
		a.poolSet(),
		remove(a, poolKind, a.firstName(listPools), func(ctx context.Context, s *session, c *change, full string) error {
			return send(ctx, s, c, name.ClusterOf(full), what("pool", full), "removed",
				&tandemv1.DeletePoolRequest{Name: full, Etag: c.etag}, s.Config.DeletePool)
		}),
	)
}

func (a *app) poolAdd() *cobra.Command {
	var c change
	var set *fields.Set
	cmd := &cobra.Command{
		Use:   "add POOL",
		Short: "Add a pool",
		Long: `Add a pool, without backends yet. The name alone is enough: HTTP, round robin,
and a TCP connection every 2 seconds as the health check.`,
		Example: `  lbctl pool add web_servers
  lbctl pool add web_servers --balance roundrobin --check 'GET /health' --interval 2s --rise 2 --fall 3
  lbctl pool add databases --protocol tcp --balance leastconn`,
		Args:              arguments("POOL"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := poolKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			pool := &tandemv1.Pool{}
			if _, err := set.Apply(pool); err != nil {
				return failure.Usage(err)
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("pool", full), "added",
				&tandemv1.CreatePoolRequest{Parent: name.Parent(full), PoolId: name.ID(full), Pool: pool}, s.Config.CreatePool)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Pool{}, poolFields)
	completeFields(cmd, poolFields)
	c.bind(cmd)
	return cmd
}

func (a *app) poolSet() *cobra.Command {
	var c change
	var set *fields.Set
	cmd := &cobra.Command{
		Use:   "set POOL",
		Short: "Change a pool",
		Long: `Change what the flags name and leave everything else. --unset goes back to what
the cluster says, or to the default.`,
		Example: `  lbctl pool set web_servers --connect-timeout 5s
  lbctl pool set web_servers --unset connect-timeout,check`,
		Args:              arguments("POOL"),
		ValidArgsFunction: a.firstName(listPools),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := poolKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			pool := &tandemv1.Pool{Name: full, Etag: c.etag}
			mask, err := changedFields(set, pool)
			if err != nil {
				return err
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("pool", full), "changed",
				&tandemv1.UpdatePoolRequest{Pool: pool, UpdateMask: mask}, s.Config.UpdatePool)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Pool{}, poolFields)
	set.BindUnset(cmd.Flags(), map[string]string{"check": "check"})
	complete(cmd, "unset", fixed(set.UnsetNames()...))
	completeFields(cmd, poolFields)
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

func poolsOf(ctx context.Context, s *session) (*tandemv1.ListPoolsResponse, error) {
	return allPages(func(token string) (*tandemv1.ListPoolsResponse, error) {
		return s.Config.ListPools(ctx, &tandemv1.ListPoolsRequest{Parent: s.cluster, PageToken: token})
	})
}
