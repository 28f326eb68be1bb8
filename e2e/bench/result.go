// Package bench measures Tandem beside the guide's own hand-written files: both
// run on labs of their own, at the same time, and every round measures one and
// then the other, so that a machine's mood touches both alike.
package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// PeerName is what Tandem is measured against.
const PeerName = "the guide's files"

// Result is one measurement, as results.json has it. Figures are medians of
// the rounds; less is better.
type Result struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	// Ratio is ours / peer; 0 when the peer's figure is 0.
	Ratio float64 `json:"ratio"`
	// Worst is the worst round of ours.
	Worst float64 `json:"worst"`
	Runs  int     `json:"runs"`
	// Note says what a figure cannot, such as that the peer never recovers.
	Note string `json:"note,omitempty"`
}

// summarize makes a result of the rounds' figures.
func summarize(m measurement, ours, peer []float64) Result {
	r := Result{
		Name: m.name, Unit: m.unit, PeerName: PeerName, Note: m.note,
		Ours: median(ours), Peer: median(peer), Worst: slices.Max(ours), Runs: len(ours),
	}
	if r.Peer != 0 {
		r.Ratio = r.Ours / r.Peer
	}
	return r
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Print writes results as a table.
func Print(w io.Writer, results []Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\tunit\tTandem\tworst\t%s\tratio\truns\t\n", PeerName)
	for _, r := range results {
		ratio := cmp.Or(map[bool]string{true: "-"}[r.Ratio == 0], fmt.Sprintf("%.3f", r.Ratio))
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%.1f\t%.1f\t%s\t%d\t\n", r.Name, r.Unit, r.Ours, r.Worst, r.Peer, ratio, r.Runs)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Note != "" {
			if _, err := fmt.Fprintf(w, "%s: %s\n", r.Name, r.Note); err != nil {
				return err
			}
		}
	}
	return nil
}

// Write writes results to a file as JSON.
func Write(path string, results []Result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
