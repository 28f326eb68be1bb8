package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var tail int
	once := a.connected(func(ctx context.Context, s *session, _ []string) error { return listEvents(ctx, s, tail) })
	following := a.streaming(func(ctx context.Context, s *session, _ []string) error { return followEvents(ctx, s, tail) })
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened",
		Long: `Show the newest events, the last one last. With --follow new ones are added as
they happen, until Ctrl-C, each once also when the connection is lost meanwhile;
"-o json" then prints one event a line.`,
		Example:           "  lbctl events --tail 100\n  lbctl events --follow\n  lbctl events --follow -o json",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				if err := checkLimit("--tail", tail, 0); err != nil {
					return err
				}
				return following(cmd, args)
			}
			if err := checkLimit("--tail", tail, 1); err != nil {
				return err
			}
			return once(cmd, args)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().IntVar(&tail, "tail", 20, "how many of the newest events, at most 1000")
	return cmd
}

func listEvents(ctx context.Context, s *session, tail int) error {
	reply, err := s.Events.ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: s.cluster, PageSize: int32(tail)})
	if err != nil {
		return err
	}
	return s.print(reply, func() output.Table {
		oldestFirst := slices.Clone(reply.GetEvents())
		slices.Reverse(oldestFirst)
		return view.Events(oldestFirst, now())
	})
}

// followEvents prints events until ctx ends, which is no error.
func followEvents(ctx context.Context, s *session, tail int) error {
	request := &tandemv1.WatchEventsRequest{Parent: s.cluster, Tail: int32(tail)}
	err := client.Follow(ctx, func(ctx context.Context, alive func()) error {
		err := receiveEvents(ctx, s, request, alive)
		var call *failure.Error
		if request.GetResumeToken() != "" && errors.As(err, &call) && call.Code == codes.OutOfRange {
			s.say("some events are no longer kept and are missing here")
			request.ResumeToken, request.Tail = "", maxPage
			return receiveEvents(ctx, s, request, alive)
		}
		return err
	}, func(err error) { s.say("connection lost, trying again: %v", err) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// receiveEvents prints events until the stream ends, and keeps request at the
// last one that was printed.
func receiveEvents(ctx context.Context, s *session, request *tandemv1.WatchEventsRequest, alive func()) error {
	stream, err := s.Events.WatchEvents(ctx, request)
	if err != nil {
		return err
	}
	for {
		step, err := stream.Recv()
		if err != nil {
			return err
		}
		alive()
		if step.GetEvent() != nil {
			if err := printEvent(s, step.GetEvent()); err != nil {
				return err
			}
		}
		if step.GetResumeToken() != "" {
			request.ResumeToken, request.Tail = step.GetResumeToken(), 0
		}
	}
}

// printEvent prints one event on one line, in columns as wide as they usually
// are: what comes later is not known.
func printEvent(s *session, event *tandemv1.Event) error {
	if s.format == output.FormatName {
		return output.WriteNames(s.env.Stdout, event)
	}
	if !s.isTable() {
		return output.WriteJSONLine(s.env.Stdout, event)
	}
	widths := []int{19, 8, 10, 34, 18}
	var line strings.Builder
	for i, cell := range view.EventRow(event, now())[:6] {
		text := output.Clean(cell.Text)
		line.WriteString(s.style().Paint(text, cell.Tone))
		if i < len(widths) {
			fmt.Fprintf(&line, "%*s", max(widths[i]-len([]rune(text)), 0)+2, "")
		}
	}
	_, err := fmt.Fprintln(s.env.Stdout, strings.TrimRight(line.String(), " "))
	return err
}
