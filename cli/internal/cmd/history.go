package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// maxPage is the largest page of revisions or events.
const maxPage = 1000

func (a *app) historyCommand() *cobra.Command {
	listing := a.historyList()
	history := &cobra.Command{
		Use:   "history",
		Short: "Show who changed what, and when",
		Long: `Show the accepted changes, the newest first.
"lbctl history show" shows one in full.`,
		Example: "  lbctl history\n  lbctl history show 12",
		RunE:    listing.RunE,
	}
	history.Flags().AddFlagSet(listing.Flags())
	return group(history, listing, a.historyShow())
}

func (a *app) historyList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the newest revisions",
		Long:              `List the newest revisions with the names of what they changed.`,
		Example:           "  lbctl history list --limit 100",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			if err := checkLimit("--limit", limit, 1); err != nil {
				return err
			}
			reply, err := s.Config.ListRevisions(ctx, &tandemv1.ListRevisionsRequest{Parent: s.cluster, PageSize: int32(limit)})
			if err != nil {
				return err
			}
			return s.print(reply, func() output.Table { return view.Revisions(reply.GetRevisions(), now()) })
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "how many, at most 1000")
	return cmd
}

func checkLimit(flag string, limit, least int) error {
	if limit < least || limit > maxPage {
		return failure.Usagef("%s must be %d to %d (got %d)", flag, least, maxPage, limit)
	}
	return nil
}

func (a *app) historyShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NUMBER",
		Short:             "Show what one revision changed",
		Long:              `Show every field that a revision changed, before and after.`,
		Example:           "  lbctl history show 12\n  lbctl history show 12 -o yaml",
		Args:              arguments("NUMBER"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := name.Revision.Full(s.cluster, args[0])
			if err != nil {
				return failure.Usage(err)
			}
			revision, err := s.Config.GetRevision(ctx, &tandemv1.GetRevisionRequest{Name: full})
			if err != nil {
				return err
			}
			if s.isTable() {
				s.say("revision %d by %s at %s", revision.GetNumber(), revision.GetAuthor(), now().At(revision.GetCreateTime()))
				if revision.GetMessage() != "" {
					s.say("%s", revision.GetMessage())
				}
			}
			return s.print(revision, func() output.Table { return view.Changes(revision.GetChanges()) })
		}),
	}
}
