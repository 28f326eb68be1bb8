package view

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Drill is a table of the moves of a drill, and what clients noticed of each.
func Drill(report *tandemv1.DrillReport) output.Table {
	t := output.Table{Columns: output.Columns("FROM", "TO", "TOOK", "BLACKOUT", "REQUESTS", "FAILED", "ASKED", "FAILURE")}
	for _, m := range report.GetMoves() {
		failed := output.Cell{Text: strconv.Itoa(int(m.GetFailed())), Tone: output.Good}
		requests := strconv.Itoa(int(m.GetRequests()))
		switch {
		case report.GetTarget() == "":
			failed, requests = output.Text(none), none
		case m.GetFailed() > 0:
			failed.Tone = output.Bad
		}
		t.Rows = append(t.Rows, []output.Cell{
			output.Text(m.GetFrom()), output.Text(m.GetTo()), output.Text(milliseconds(m.GetDuration())), output.Text(milliseconds(m.GetBlackout())),
			output.Text(requests), failed, output.Text(or(report.GetTarget(), "nothing: not reached from here")), output.Text(or(m.GetFailure(), none)),
		})
	}
	return t
}

func milliseconds(d *durationpb.Duration) string {
	if d == nil {
		return none
	}
	return d.AsDuration().Round(time.Millisecond).String()
}
