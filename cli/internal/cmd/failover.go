package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/cli/internal/name"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) vipFailover() *cobra.Command {
	var to, reason string
	var lease time.Duration
	cmd := &cobra.Command{
		Use:   "failover VIP",
		Short: "Move a VIP to another node, once",
		Long: `Move a VIP to another node, now, and return when that one holds it. The node
that held it keeps away from it for a minute, or as long as --for says, or
until nobody else can hold it; after that the VIP's fail-back rules: with
"automatic" it comes back to the better node, with "never" it stays.

Nothing is changed that is desired and nothing is to be undone: to keep every
VIP away from a node for longer, use "lbctl node drain". It is refused when no
other node can take the VIP, with what is wrong with each.`,
		Example: `  lbctl vip failover web
  lbctl vip failover web --to lb-backup --for 10m --reason 'new kernel'`,
		Args:              arguments("VIP"),
		ValidArgsFunction: a.firstName(listVips),
	}
	cmd.RunE = a.connected(func(ctx context.Context, s *session, args []string) error {
		full, err := vipKind.resolve(s, args[0])
		if err != nil {
			return err
		}
		request := &tandemv1.FailoverVipRequest{Name: full, Reason: reason}
		if to != "" {
			node, err := nodeKind.resolve(s, to)
			if err != nil {
				return err
			}
			request.To = name.ID(node)
		}
		if cmd.Flags().Changed("for") {
			request.Lease = durationpb.New(lease)
		}
		moved, err := s.Fleet.FailoverVip(ctx, request)
		switch {
		case err != nil:
			return err
		case !s.isTable():
			return s.print(moved, nil)
		case moved.GetFrom() == moved.GetTo():
			s.say("%s holds VIP %s already", moved.GetTo(), name.Short(full))
		default:
			s.say("VIP %s moved from %s to %s in %s", name.Short(full), moved.GetFrom(), moved.GetTo(),
				moved.GetDuration().AsDuration().Round(time.Millisecond))
		}
		return nil
	})
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "node that shall hold it (default: the best other one)")
	flags.DurationVar(&lease, "for", time.Minute, "how long the node that held it keeps away from it, 1s to 1h")
	flags.StringVar(&reason, "reason", "", "note for the event")
	complete(cmd, "to", a.names(listNodes))
	return cmd
}
