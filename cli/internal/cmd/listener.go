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

var listenerFields = []fields.Field{
	{Flag: "protocol", Path: "protocol", Usage: "http or tcp (default http)", Values: []string{"http", "tcp"}},
	{Flag: "pool", Path: "pool", Usage: "pool that gets the traffic"},
	{Flag: "client-timeout", Path: "client_timeout", Usage: "how long a client may be silent (default: the cluster's)"},
	{Flag: "http-request-timeout", Path: "http_request_timeout", Usage: "how long a request's headers may take (default: the cluster's)"},
	{Flag: "http-keep-alive-timeout", Path: "http_keep_alive_timeout", Usage: "how long a connection may idle between requests (default: the cluster's)"},
	{Flag: "forwarded-for", Path: "forwarded_for", Usage: "add X-Forwarded-For (default: the cluster's)"},
	{Flag: "max-connections", Path: "max_connections", Usage: "limit of concurrent connections (default: the cluster's)"},
	{Flag: "probe-path", Path: "probe.path", Usage: "path of a request that shows whether the listener works (kept; nothing asks it yet)"},
	{Flag: "probe-host", Path: "probe.host", Usage: "Host header of that request (kept; nothing asks it yet)"},
	{Flag: "probe-status", Path: "probe.expected_status", Usage: "status that counts as working, 200 by default (kept; nothing asks it yet)"},
}

var listenerKind = kind{noun: "listener", plural: "listeners", example: "web_frontend", arg: "LISTENER", full: nameOf(name.Listener)}

func (a *app) listenerCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "listener",
		Aliases: []string{"listeners"},
		Short:   "What clients connect to",
		Long: `A listener accepts connections at VIPs, at addresses of the nodes, or at every
address, and gives them to a pool.`,
		Example: `  lbctl listener add web_frontend --vip web --port 80 --protocol http --pool web_servers
  lbctl listener set web_frontend --port 80 --port 8080`,
	},
		a.listenerAdd(),
		list(a, listenerKind, listenersOf, func(r *tandemv1.ListListenersResponse) output.Table { return view.Listeners(r.GetListeners()) }),
		show(a, listenerKind, a.firstName(listListeners), func(ctx context.Context, s *session, full string) (*tandemv1.Listener, error) {
			return s.Config.GetListener(ctx, &tandemv1.GetListenerRequest{Name: full})
		}),
		a.listenerSet(),
		remove(a, listenerKind, a.firstName(listListeners), func(ctx context.Context, s *session, c *change, full string) error {
			return send(ctx, s, c, name.ClusterOf(full), what("listener", full), "removed",
				&tandemv1.DeleteListenerRequest{Name: full, Etag: c.etag}, s.Config.DeleteListener)
		}),
	)
}

func (a *app) listenerAdd() *cobra.Command {
	var c change
	var set *fields.Set
	var where bindFlags
	cmd := &cobra.Command{
		Use:   "add LISTENER",
		Short: "Add a listener",
		Long: `Add a listener on each given port of each given VIP and address; with neither,
on every address of the node.`,
		Example: `  lbctl listener add web_frontend --vip web --port 80 --protocol http --pool web_servers
  lbctl listener add games --port 7000-7010 --protocol tcp --pool game_servers`,
		Args:              arguments("LISTENER"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := listenerKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			listener := &tandemv1.Listener{}
			if _, err := set.Apply(listener); err != nil {
				return failure.Usage(err)
			}
			if listener.Binds, err = where.binds(nil); err != nil {
				return err
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("listener", full), "added",
				&tandemv1.CreateListenerRequest{Parent: name.Parent(full), ListenerId: name.ID(full), Listener: listener}, s.Config.CreateListener)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Listener{}, listenerFields)
	where.bind(a, cmd)
	a.completeListener(cmd)
	c.bind(cmd)
	return cmd
}

func (a *app) listenerSet() *cobra.Command {
	var c change
	var set *fields.Set
	var where bindFlags
	cmd := &cobra.Command{
		Use:   "set LISTENER",
		Short: "Change a listener",
		Long: `Change what the flags name and leave everything else. --vip and --address
together replace all places; --port replaces all ports.`,
		Example: `  lbctl listener set web_frontend --client-timeout 30s
  lbctl listener set web_frontend --port 8080
  lbctl listener set web_frontend --unset max-connections`,
		Args:              arguments("LISTENER"),
		ValidArgsFunction: a.firstName(listListeners),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := listenerKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			listener := &tandemv1.Listener{Name: full, Etag: c.etag}
			paths, err := set.Apply(listener)
			if err != nil {
				return failure.Usage(err)
			}
			if where.given() {
				if err := replaceBinds(ctx, s, listener, where); err != nil {
					return err
				}
				paths = append(paths, "binds")
			}
			mask, err := maskOf(paths)
			if err != nil {
				return err
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("listener", full), "changed",
				&tandemv1.UpdateListenerRequest{Listener: listener, UpdateMask: mask}, s.Config.UpdateListener)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Listener{}, listenerFields)
	set.BindUnset(cmd.Flags(), map[string]string{"probe": "probe"})
	complete(cmd, "unset", fixed(set.UnsetNames()...))
	where.bind(a, cmd)
	a.completeListener(cmd)
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

// replaceBinds makes the new binds from the present ones; the etag makes sure
// that they are still the present ones.
func replaceBinds(ctx context.Context, s *session, listener *tandemv1.Listener, where bindFlags) error {
	current, err := s.Config.GetListener(ctx, &tandemv1.GetListenerRequest{Name: listener.GetName()})
	if err != nil {
		return err
	}
	if listener.GetEtag() == "" {
		listener.Etag = current.GetEtag()
	}
	listener.Binds, err = where.binds(current.GetBinds())
	return err
}

func (a *app) completeListener(cmd *cobra.Command) {
	completeFields(cmd, listenerFields)
	complete(cmd, "pool", a.names(listPools))
}

func listenersOf(ctx context.Context, s *session) (*tandemv1.ListListenersResponse, error) {
	return allPages(func(token string) (*tandemv1.ListListenersResponse, error) {
		return s.Config.ListListeners(ctx, &tandemv1.ListListenersRequest{Parent: s.cluster, PageToken: token})
	})
}
