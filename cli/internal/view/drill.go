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
	t := output.Table{Columns: output.Columns("FROM", "TO", "TOOK", "BLACKOUT", "REQUESTS", "FAILED", "ERRORS", "ASKED", "FAILURE")}
	for _, m := range report.GetMoves() {
		failed, ill, requests := bad(m.GetFailed()), bad(m.GetErrors()), strconv.Itoa(int(m.GetRequests()))
		if report.GetTarget() == "" {
			failed, ill, requests = output.Text(none), output.Text(none), none
		}
		took := milliseconds(m.GetDuration())
		if m.GetFailedBack() {
			took = "by itself"
		}
		t.Rows = append(t.Rows, []output.Cell{
			output.Text(m.GetFrom()), output.Text(m.GetTo()), output.Text(took), output.Text(milliseconds(m.GetBlackout())),
			output.Text(requests), failed, ill, output.Text(or(report.GetTarget(), "nothing: not reached from here")), output.Text(or(m.GetFailure(), or(m.GetError(), none))),
		})
	}
	return t
}

// bad is a number of what should not be.
func bad(n uint32) output.Cell {
	tone := output.Good
	if n > 0 {
		tone = output.Bad
	}
	return output.Cell{Text: strconv.Itoa(int(n)), Tone: tone}
}

func milliseconds(d *durationpb.Duration) string {
	if d == nil {
		return none
	}
	return d.AsDuration().Round(time.Millisecond).String()
}
