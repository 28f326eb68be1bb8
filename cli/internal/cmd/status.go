package cmd

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/live"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// redrawInterval is how often a watched status is drawn at most; ages are
// drawn anew each second.
const (
	redrawInterval = 200 * time.Millisecond
	ageInterval    = time.Second
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	once := a.connected(func(ctx context.Context, s *session, _ []string) error {
		status, err := s.Fleet.GetStatus(ctx, &tandemv1.GetStatusRequest{Name: s.cluster})
		if err != nil {
			return err
		}
		if s.isTable() {
			return view.Status(s.env.Stdout, status, s.style(), now())
		}
		return s.print(status, nil)
	})
	watched := a.streaming(func(ctx context.Context, s *session, _ []string) error { return watchStatus(ctx, s) })
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what really is: nodes, VIPs, backends, alarms",
		Long: `Show what the nodes report: which revision each has in effect, who holds each
VIP, which backends are up, and what wants an operator, with its cure.

With --watch a terminal is drawn anew with every change until Ctrl-C; "-o json"
then prints each step of the API's status watch on a line.`,
		Example:           "  lbctl status\n  lbctl status --watch\n  lbctl status -o json",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return watched(cmd, args)
			}
			return once(cmd, args)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until interrupted")
	return cmd
}

// watchStatus shows each change until ctx ends, which is no error.
func watchStatus(ctx context.Context, s *session) error {
	screen := &screen{out: s.env.Stdout, terminal: isTerminal(s.env.Stdout)}
	err := client.Follow(ctx, func(ctx context.Context, alive func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.Fleet.WatchStatus(ctx, &tandemv1.WatchStatusRequest{Name: s.cluster})
		if err != nil {
			return err
		}
		steps := make(chan *tandemv1.WatchStatusResponse)
		failed := make(chan error, 1)
		go func() { failed <- receive(ctx, stream, steps, alive) }()
		if s.isTable() {
			return drawStatus(s, steps, failed, screen)
		}
		return printSteps(s, steps, failed)
	}, func(err error) { s.say("connection lost, trying again: %v", err) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// receive hands steps on until the stream or ctx ends.
func receive(ctx context.Context, stream interface {
	Recv() (*tandemv1.WatchStatusResponse, error)
}, steps chan<- *tandemv1.WatchStatusResponse, alive func()) error {
	for {
		step, err := stream.Recv()
		if err != nil {
			return err
		}
		alive()
		select {
		case steps <- step:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func printSteps(s *session, steps <-chan *tandemv1.WatchStatusResponse, failed <-chan error) error {
	for {
		select {
		case err := <-failed:
			return err
		case step := <-steps:
			if err := output.WriteJSONLine(s.env.Stdout, step); err != nil {
				return err
			}
		}
	}
}

// drawStatus draws what has changed, a few times a second at most.
func drawStatus(s *session, steps <-chan *tandemv1.WatchStatusResponse, failed <-chan error, screen *screen) error {
	model := live.New(s.cluster)
	redraw := time.NewTicker(redrawInterval)
	defer redraw.Stop()
	changed, drawn := false, time.Time{}
	for {
		select {
		case err := <-failed:
			return err
		case step := <-steps:
			changed = model.Apply(step) || changed
		case <-redraw.C:
			aged := screen.terminal && time.Since(drawn) >= ageInterval
			if !model.Synced() || !changed && !aged {
				continue
			}
			if err := screen.draw(s, model.Status()); err != nil {
				return err
			}
			changed, drawn = false, time.Now()
		}
	}
}

// screen is where a watched status is drawn: over itself on a terminal, one
// after the other elsewhere.
type screen struct {
	out      io.Writer
	terminal bool
}

const (
	clearScreen = "\x1b[H\x1b[2J"
	separator   = "\n"
)

func (sc *screen) draw(s *session, status *tandemv1.ClusterStatus) error {
	var frame bytes.Buffer
	if err := view.Status(&frame, status, s.style(), now()); err != nil {
		return err
	}
	shown := frame.Bytes()
	if sc.terminal {
		width, height := size(sc.out)
		shown = slices.Concat([]byte(clearScreen), fit(shown, width, height))
	} else {
		shown = append(shown, separator...)
	}
	_, err := sc.out.Write(shown)
	return err
}

func size(out io.Writer) (width, height int) {
	if file, ok := out.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 1 {
			return width, height
		}
	}
	return 80, 24
}

// fit cuts text to what a screen holds, so that its beginning stays in view.
// Lines that are wider than the screen take several of its own.
func fit(frame []byte, width, height int) []byte {
	var shown bytes.Buffer
	left := height - 1 // the last is for the cursor, or for the dots
	for line := range bytes.Lines(frame) {
		left -= max(1, (text.StringWidthWithoutEscSequences(string(bytes.TrimRight(line, "\n")))+width-1)/width)
		if left < 0 {
			shown.WriteString("...")
			break
		}
		shown.Write(line)
	}
	return shown.Bytes()
}
