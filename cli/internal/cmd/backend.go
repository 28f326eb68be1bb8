package cmd

import (
	"context"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var backendFields = []fields.Field{
	{Flag: "weight", Path: "weight", Usage: "share of traffic relative to the others, 0 to 256 (default 1)"},
	{Flag: "max-connections", Path: "max_connections", Usage: "limit of concurrent connections (default: no limit)"},
	{Flag: "backup", Path: "backup", Usage: "serve only when no other backend of the pool can"},
}

var backendSetFields = append([]fields.Field{
	{Flag: "address", Path: "address", Usage: "IP address of the server"},
	{Flag: "port", Path: "port", Usage: "port of the server"},
}, backendFields...)

var backendKind = kind{noun: "backend", plural: "backends", example: "web_servers/web1", arg: "POOL/BACKEND", full: nameOf(name.Backend)}

func (a *app) backendCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "backend",
		Aliases: []string{"backends"},
		Short:   "Servers of a pool",
		Long: `A backend is one server of a pool. Adding and removing one, its weight and its
state take effect at once and without a reload of HAProxy.`,
		Example: `  lbctl backend add web_servers/web1 192.168.1.20:80 --weight 1
  lbctl backend drain web_servers/web1 --reason "new kernel" --for 30m
  lbctl backend ready web_servers/web1`,
	},
		a.backendAdd(),
		a.backendList(),
		show(a, backendKind, a.backendNames, func(ctx context.Context, s *session, full string) (*tandemv1.Backend, error) {
			return s.Config.GetBackend(ctx, &tandemv1.GetBackendRequest{Name: full})
		}),
		a.backendSet(),
		remove(a, backendKind, a.backendNames, func(ctx context.Context, s *session, c *change, full string) error {
			return send(ctx, s, c, name.ClusterOf(full), what("backend", full), "removed",
				&tandemv1.DeleteBackendRequest{Name: full, Etag: c.etag}, s.Config.DeleteBackend)
		}),
		a.backendDrain(), a.backendMaintenance(), a.backendReady(),
	)
}

func (a *app) backendAdd() *cobra.Command {
	var c change
	var set *fields.Set
	cmd := &cobra.Command{
		Use:   "add POOL/BACKEND ADDRESS:PORT",
		Short: "Add a backend to a pool",
		Long:  `Add a server to a pool. It gets traffic once its first health check has passed.`,
		Example: `  lbctl backend add web_servers/web1 192.168.1.20:80 --weight 1
  lbctl backend add web_servers/web6 '[2001:db8::20]:80' --backup`,
		Args:              arguments("POOL/BACKEND ADDRESS:PORT"),
		ValidArgsFunction: a.poolPrefix,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := backendKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			backend := &tandemv1.Backend{}
			if backend.Address, backend.Port, err = splitEndpoint(args[1]); err != nil {
				return err
			}
			if _, err := set.Apply(backend); err != nil {
				return failure.Usage(err)
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("backend", full), "added",
				&tandemv1.CreateBackendRequest{Parent: name.Parent(full), BackendId: name.ID(full), Backend: backend}, s.Config.CreateBackend)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Backend{}, backendFields)
	c.bind(cmd)
	return cmd
}

// splitEndpoint takes ADDRESS:PORT apart. Whether the parts are right is the
// controller's to judge, so that every way to it gives the same error.
func splitEndpoint(text string) (address string, port uint32, err error) {
	address, portText, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, failure.Usagef("server must be ADDRESS:PORT, such as 192.168.1.20:80 or [2001:db8::20]:80 (got %q)", text)
	}
	number, err := strconv.ParseUint(portText, 10, 32)
	if err != nil {
		return "", 0, failure.Usagef("port must be a number, such as 80 in 192.168.1.20:80 (got %q)", portText)
	}
	return address, uint32(number), nil
}

func (a *app) backendSet() *cobra.Command {
	var c change
	var set *fields.Set
	cmd := &cobra.Command{
		Use:   "set POOL/BACKEND",
		Short: "Change a backend",
		Long:  `Change what the flags name and leave everything else.`,
		Example: `  lbctl backend set web_servers/web1 --weight 5
  lbctl backend set web_servers/web1 --unset max-connections`,
		Args:              arguments("POOL/BACKEND"),
		ValidArgsFunction: a.backendNames,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := backendKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			backend := &tandemv1.Backend{Name: full, Etag: c.etag}
			mask, err := changedFields(set, backend)
			if err != nil {
				return err
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("backend", full), "changed",
				&tandemv1.UpdateBackendRequest{Backend: backend, UpdateMask: mask}, s.Config.UpdateBackend)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Backend{}, backendSetFields)
	set.BindUnset(cmd.Flags(), nil)
	complete(cmd, "unset", fixed(set.UnsetNames()...))
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

func (a *app) backendList() *cobra.Command {
	return &cobra.Command{
		Use:     "list [POOL]",
		Aliases: []string{"ls"},
		Short:   "List the backends of a pool, or of all pools",
		Long: `List backends with their administrative state. What the nodes see of them is
in "lbctl status".`,
		Example:           "  lbctl backend list web_servers\n  lbctl backend list -o json",
		Args:              arguments("[POOL]"),
		ValidArgsFunction: a.firstName(listPools),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			var pools []string
			if len(args) > 0 {
				pool, err := poolKind.resolve(s, args[0])
				if err != nil {
					return err
				}
				pools = []string{pool}
			} else {
				all, err := poolsOf(ctx, s)
				if err != nil {
					return err
				}
				pools = output.Names(all)
			}
			reply := &tandemv1.ListBackendsResponse{}
			for _, pool := range pools {
				some, err := backendsOf(ctx, s, pool)
				if err != nil {
					return err
				}
				reply.Backends = append(reply.Backends, some.GetBackends()...)
			}
			return s.print(reply, func() output.Table { return view.Backends(reply.GetBackends(), now()) })
		}),
	}
}

func backendsOf(ctx context.Context, s *session, pool string) (*tandemv1.ListBackendsResponse, error) {
	return allPages(func(token string) (*tandemv1.ListBackendsResponse, error) {
		return s.Config.ListBackends(ctx, &tandemv1.ListBackendsRequest{Parent: pool, PageToken: token, PageSize: 10000})
	})
}
