package view

import (
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// NodeChecks is a table of what the nodes say to a configuration, the daemons'
// words line by line.
func NodeChecks(checks []*tandemv1.NodeCheck) output.Table {
	t := output.Table{Columns: output.Columns("NODE", "VERDICT", "MESSAGE")}
	for _, check := range checks {
		node := output.Text(name.Short(check.GetNode()))
		verdict := verdictCell(check.GetVerdict())
		for line := range strings.Lines(strings.TrimSpace(check.GetMessage()) + "\n") {
			t.Rows = append(t.Rows, []output.Cell{node, verdict, output.Text(strings.TrimSpace(line))})
			node, verdict = output.Cell{}, output.Cell{}
		}
	}
	return t
}

func verdictCell(v tandemv1.NodeVerdict) output.Cell {
	switch v {
	case tandemv1.NodeVerdict_NODE_VERDICT_ACCEPTED:
		return output.Cell{Text: "accepted", Tone: output.Good}
	case tandemv1.NodeVerdict_NODE_VERDICT_REFUSED:
		return output.Cell{Text: "refused", Tone: output.Bad}
	default:
		return output.Cell{Text: "unknown", Tone: output.Warn}
	}
}
