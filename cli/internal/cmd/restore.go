package cmd

import (
	"context"

	"github.com/spf13/cobra"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) restoreCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "restore",
		Short: "A controller that was restored from a backup",
		Long: `A controller that was restored with "lb-controller restore" waits for an
operator: it accepts no change and sends the nodes nothing, so that they keep
serving what they have.`,
		Example: "  lbctl restore confirm",
	}, a.restoreConfirm())
}

func (a *app) restoreConfirm() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Let a restored controller go on",
		Long: `Let a restored controller go on: the nodes get the restored configuration, and
changes are accepted again. What a node has of changes after the backup is lost;
"lbctl status" shows which nodes are ahead, and which have joined since and must
join anew. What was removed after the backup is there again: see the operator
tokens (GET /v1/tokens) and "lbctl node list". Join tokens of before the restore
are no longer good.`,
		Example:           "  lbctl status\n  lbctl node list\n  lbctl restore confirm",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			store, err := s.Store.ConfirmRestore(ctx, &tandemv1.ConfirmRestoreRequest{})
			if err != nil {
				return err
			}
			s.say("confirmed: the nodes get the restored configuration, in epoch %s", store.GetEpoch())
			s.say("operator tokens and nodes that were removed after the backup are there again: see GET /v1/tokens and \"lbctl node list\"")
			if s.isTable() {
				return nil
			}
			return s.print(store, nil)
		}),
	}
}
