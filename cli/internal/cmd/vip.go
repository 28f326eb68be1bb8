package cmd

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var vipFields = []fields.Field{
	{Flag: "vrid", Path: "vrid", Usage: "virtual router id, 1 to 255, unique on its network"},
	{Flag: "network", Path: "network", Usage: "network the addresses live on (default front)"},
	{Flag: "vrrp-network", Path: "vrrp_network", Usage: "network the VIP is advertised over (default: that of the addresses)"},
	{Flag: "priority", Path: "priorities", Usage: "NODE=N, 1 to 234, the highest holds the VIP; repeat for each node"},
	{Flag: "fail-back", Path: "fail_back", Usage: "automatic, delayed or never (default automatic)", Values: []string{"automatic", "delayed", "never"}},
	{Flag: "fail-back-delay", Path: "fail_back_delay", Usage: "how long a better node must be well, 0s to 1h; with --fail-back delayed"},
	{Flag: "handover-timeout", Path: "handover_timeout", Usage: "how long established connections may outlive a planned move, 0s to 24h (default 5m); 0s: not at all"},
	{Flag: "advert-interval", Path: "advert_interval", Usage: "time between advertisements (default: the cluster's)"},
	{Flag: "unicast", Path: "unicast", Usage: "advertise to the nodes' own addresses, where the network carries no multicast (default: the cluster's)"},
	{Flag: "virtual-mac", Path: "virtual_mac", Usage: "the addresses keep the virtual router's own MAC address, 00:00:5e:00:01:VRID (02 for IPv6), when the VIP moves (default false)"},
	{Flag: "announce-repeat", Path: "announce_repeat", Usage: "gratuitous ARP packets or neighbour advertisements of a new holder, 1 to 20 (default 5)"},
	{Flag: "announce-refresh", Path: "announce_refresh", Usage: "how often the holder repeats them, 0s to 1h, 0s never (default 60s)"},
	{Flag: "profile", Path: "profile", Usage: "that time by name: fast (50ms), normal (100ms) or wan (1s)", Values: []string{"fast", "normal", "wan"}},
}

var vipSetFields = append([]fields.Field{
	{Flag: "address", Path: "addresses", Usage: "ADDRESS/PREFIX; repeat for each: they replace all, and the first of each family must stay"},
}, vipFields...)

var vipKind = kind{noun: "vip", plural: "VIPs", example: "web", arg: "VIP", full: nameOf(name.Vip)}

func (a *app) vipCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "vip",
		Aliases: []string{"vips"},
		Short:   "Virtual addresses that one node holds",
		Long: `A VIP is a group of addresses that exactly one node holds; another node takes it
over when that one fails. The first address of each family is its anchor and
never changes.`,
		Example: `  lbctl vip add web 192.168.1.100/24 --vrid 51
  lbctl vip set web --priority lb-master=120 --priority lb-backup=110
  lbctl vip failover web`,
	},
		a.vipAdd(),
		list(a, vipKind, vipsOf, func(r *tandemv1.ListVipsResponse) output.Table { return view.Vips(r.GetVips()) }),
		show(a, vipKind, a.firstName(listVips), func(ctx context.Context, s *session, full string) (*tandemv1.Vip, error) {
			return s.Config.GetVip(ctx, &tandemv1.GetVipRequest{Name: full})
		}),
		a.vipSet(),
		a.vipFailover(),
		a.vipProfile(),
		remove(a, vipKind, a.firstName(listVips), func(ctx context.Context, s *session, c *change, full string) error {
			return send(ctx, s, c, name.ClusterOf(full), what("vip", full), "removed",
				&tandemv1.DeleteVipRequest{Name: full, Etag: c.etag}, s.Config.DeleteVip)
		}),
	)
}

func (a *app) vipAdd() *cobra.Command {
	var c change
	var set *fields.Set
	var tracks trackFlag
	cmd := &cobra.Command{
		Use:   "add VIP ADDRESS/PREFIX...",
		Short: "Add a VIP",
		Long: `Add a VIP with one or more addresses. Without priorities the first node that
joined holds it when all are well.

` + trackHelp,
		Example: `  lbctl vip add web 192.168.1.100/24 --vrid 51
  lbctl vip add web 192.168.1.100/24 2001:db8::100/64 --vrid 51 --fail-back never
  lbctl vip add web 192.168.1.100/24 --vrid 51 --unicast
  lbctl vip add web 192.168.1.100/24 --vrid 51 --vrrp-network vrrp
  lbctl vip add web 192.168.1.100/24 --vrid 51 --virtual-mac`,
		Args:              arguments("VIP ADDRESS/PREFIX..."),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := vipKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			vip := &tandemv1.Vip{Addresses: args[1:]}
			if _, err := set.Apply(vip); err != nil {
				return failure.Usage(err)
			}
			vip.Tracks = tracks.tracks
			if !set.Touched("vrid") {
				return failure.Usagef("--vrid is missing: a virtual router id, 1 to 255, that nothing else on the network uses")
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("vip", full), "added",
				&tandemv1.CreateVipRequest{Parent: name.Parent(full), VipId: name.ID(full), Vip: vip}, s.Config.CreateVip)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Vip{}, vipFields)
	tracks.bind(cmd)
	a.completeVip(cmd)
	c.bind(cmd)
	return cmd
}

func (a *app) vipSet() *cobra.Command {
	var c change
	var set *fields.Set
	var tracks trackFlag
	cmd := &cobra.Command{
		Use:   "set VIP",
		Short: "Change a VIP",
		Long: `Change what the flags name and leave everything else. A priority is set for the
node it names and kept for the others; "--unset priority" forgets all. Tracks
replace all that there are.

` + trackHelp,
		Example: `  lbctl vip set web --priority lb-master=120
  lbctl vip set web --fail-back delayed --fail-back-delay 1m
  lbctl vip set web --track gateway --track 'ping 192.0.2.1 weight=-20'`,
		Args:              arguments("VIP"),
		ValidArgsFunction: a.firstName(listVips),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := vipKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			vip := &tandemv1.Vip{Name: full, Etag: c.etag}
			paths, err := set.Apply(vip)
			if err != nil {
				return failure.Usage(err)
			}
			if len(tracks.tracks) > 0 {
				if slices.Contains(paths, "tracks") {
					return failure.Usagef("--unset track and --track contradict each other")
				}
				vip.Tracks = tracks.tracks
				paths = append(paths, "tracks")
			}
			mask, err := maskOf(paths)
			if err != nil {
				return err
			}
			if set.Touched("priorities") {
				if err := keepPriorities(ctx, s, vip); err != nil {
					return err
				}
			}
			return send(ctx, s, &c, name.ClusterOf(full), what("vip", full), "changed",
				&tandemv1.UpdateVipRequest{Vip: vip, UpdateMask: mask}, s.Config.UpdateVip)
		}),
	}
	set = fields.Bind(cmd.Flags(), &tandemv1.Vip{}, vipSetFields)
	tracks.bind(cmd)
	set.BindUnset(cmd.Flags(), map[string]string{"track": "tracks"})
	complete(cmd, "unset", fixed(set.UnsetNames()...))
	a.completeVip(cmd)
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

// keepPriorities adds the present priorities of nodes that were not named; the
// etag makes sure that they are still the present ones.
func keepPriorities(ctx context.Context, s *session, vip *tandemv1.Vip) error {
	current, err := s.Config.GetVip(ctx, &tandemv1.GetVipRequest{Name: vip.GetName()})
	if err != nil {
		return err
	}
	merged := maps.Clone(current.GetPriorities())
	if merged == nil {
		merged = map[string]uint32{}
	}
	maps.Copy(merged, vip.GetPriorities())
	vip.Priorities = merged
	if vip.GetEtag() == "" {
		vip.Etag = current.GetEtag()
	}
	return nil
}

func (a *app) completeVip(cmd *cobra.Command) {
	completeFields(cmd, vipFields)
	complete(cmd, "priority", func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		nodes, directive := a.names(listNodes)(cmd, args, typed)
		for i := range nodes {
			nodes[i] += "="
		}
		return nodes, directive | cobra.ShellCompDirectiveNoSpace
	})
}

func vipsOf(ctx context.Context, s *session) (*tandemv1.ListVipsResponse, error) {
	return allPages(func(token string) (*tandemv1.ListVipsResponse, error) {
		return s.Config.ListVips(ctx, &tandemv1.ListVipsRequest{Parent: s.cluster, PageToken: token})
	})
}
