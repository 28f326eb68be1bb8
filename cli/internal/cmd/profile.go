package cmd

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) vipProfile() *cobra.Command {
	return &cobra.Command{
		Use:   "profile [VIP]",
		Short: "Show the jitter between the nodes, and the profile that suits it",
		Long: `Show how punctual the advertisements of each VIP reach the nodes that stand by,
by the times at which their kernels receive them, over the last ten minutes at
most, and the fastest profile that bears twice the worst of it. Nothing follows
it by itself: set it with "lbctl vip set VIP --profile NAME".`,
		Example:           "  lbctl vip profile\n  lbctl vip profile web",
		Args:              arguments("[VIP]"),
		ValidArgsFunction: a.firstName(listVips),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			cluster, full := s.cluster, ""
			if len(args) > 0 {
				var err error
				if full, err = vipKind.resolve(s, args[0]); err != nil {
					return err
				}
				if _, err := s.Config.GetVip(ctx, &tandemv1.GetVipRequest{Name: full}); err != nil {
					return err
				}
				cluster = name.ClusterOf(full)
			}
			status, err := s.Fleet.GetStatus(ctx, &tandemv1.GetStatusRequest{Name: cluster})
			if err != nil {
				return err
			}
			status.Vips = slices.DeleteFunc(status.GetVips(), func(v *tandemv1.VipStatus) bool { return full != "" && v.GetName() != full })
			if !s.isTable() {
				return s.print(&tandemv1.ClusterStatus{Name: status.GetName(), Vips: status.GetVips()}, nil)
			}
			return view.Profiles(s.env.Stdout, status.GetVips(), s.style())
		}),
	}
}
