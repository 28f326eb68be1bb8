package view

import (
	"fmt"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Drift is what was changed on the nodes themselves.
func Drift(nodes []*tandemv1.NodeStatus, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("CHANGED ON", "WHAT", "DESIRED", "LOCAL", "BY", "SINCE", "REASON")}
	for _, node := range nodes {
		for _, d := range node.GetDrift() {
			t.Rows = append(t.Rows, []output.Cell{
				output.Text(name.ID(node.GetName())),
				output.Text(driftSubject(d)),
				output.Text(driftState(d.GetDesired())),
				{Text: driftState(d.GetLocal()), Tone: output.Warn},
				output.Text(or(d.GetAuthor(), none)),
				output.Text(clock.Ago(d.GetCreateTime())),
				output.Text(d.GetReason()),
			})
		}
	}
	return t
}

// driftSubject is "backend web_servers/web1", or "node".
func driftSubject(d *tandemv1.Drift) string {
	if short := name.Short(d.GetName()); strings.Contains(short, "/") {
		return "backend " + short
	}
	return "node"
}

func driftState(s *tandemv1.DriftState) string {
	switch {
	case s == nil:
		return "no such backend"
	case s.Weight != nil:
		return fmt.Sprintf("%s, weight %d", s.GetState(), s.GetWeight())
	default:
		return s.GetState()
	}
}

// DriftWords names drifts with their local states, in one line.
func DriftWords(all []*tandemv1.Drift) string {
	words := make([]string, len(all))
	for i, d := range all {
		words[i] = output.Clean(driftSubject(d) + " " + driftState(d.GetLocal()))
	}
	return strings.Join(words, "; ")
}
