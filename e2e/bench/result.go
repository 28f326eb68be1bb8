// Package bench measures Tandem beside the guide's own hand-written files: both
// run on labs of their own, at the same time, and every round measures one and
// then the other, so that a machine's mood touches both alike.
package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// PeerName is what Tandem is measured against.
const PeerName = "the guide's files"

// Unmeasured stands for the figure of a round of ours that gave none: more than any
// round can give, in milliseconds as in requests.
const Unmeasured = 1e9

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
	// Worst is the worst round of ours. One without a figure counts as Unmeasured.
	Worst float64 `json:"worst"`
	// Goal of the worst round of ours; none: it is only told.
	Goal *float64 `json:"goal,omitempty"`
	// PeerWorst is the worst round of the peer, of those that gave a figure.
	PeerWorst float64 `json:"peer_worst"`
	// Runs is how many rounds of ours gave a figure.
	Runs int `json:"runs"`
	// Note says what a figure cannot, such as that the peer never recovers.
	Note string `json:"note,omitempty"`
}

// table collects the figures of the rounds.
type table struct{ lines []*line }

// line is a row with the figures of ours and of the peer.
type line struct {
	row
	figures [2][]float64
	missing [2]int // rounds without a figure
}

func newTable(chosen []measurement) *table {
	t := &table{}
	for _, m := range chosen {
		for _, r := range m.rows {
			t.lines = append(t.lines, &line{row: r})
		}
	}
	return t
}

// add takes the figures of one round and side, one a row; none: the round gave
// none.
func (t *table) add(m measurement, side int, figures []float64) {
	for i, r := range m.rows {
		l := t.lines[slices.IndexFunc(t.lines, func(l *line) bool { return l.row == r })]
		if len(figures) == len(m.rows) {
			l.figures[side] = append(l.figures[side], figures[i])
		} else {
			l.missing[side]++
		}
	}
}

// results summarizes the rows that were taken.
func (t *table) results() []Result {
	var all []Result
	for _, l := range t.lines {
		if len(l.figures[0])+l.missing[0] > 0 {
			all = append(all, l.summarize())
		}
	}
	return all
}

func (l *line) summarize() Result {
	ours := slices.Concat(l.figures[0], slices.Repeat([]float64{Unmeasured}, l.missing[0]))
	r := Result{
		Name: l.name, Unit: l.unit, PeerName: PeerName, Note: l.note, Runs: len(l.figures[0]),
		Ours: median(ours), Worst: slices.Max(ours),
	}
	if peer := l.figures[1]; len(peer) > 0 {
		r.Peer, r.PeerWorst = median(peer), slices.Max(peer)
	}
	if r.Peer != 0 {
		r.Ratio = r.Ours / r.Peer
	}
	if l.goal != noGoal {
		r.Goal = &l.goal
	}
	for side, n := range l.missing {
		if n > 0 {
			r.Note = strings.TrimPrefix(fmt.Sprintf("%s; no figure in %d rounds of %s", r.Note, n, []string{"Tandem", PeerName}[side]), "; ")
		}
	}
	return r
}

// Judge returns what of ours missed its goal or lacks figures, of as many rounds as
// there were to be; nil: nothing.
func Judge(results []Result, rounds int) error {
	var errs []error
	for _, r := range results {
		if r.Runs < rounds {
			errs = append(errs, fmt.Errorf("%s: %d of %d rounds gave a figure", r.Name, r.Runs, rounds))
		} else if r.missed() {
			errs = append(errs, fmt.Errorf("%s: the worst round had %s %s, of at most %s", r.Name, figure(r.Worst), r.Unit, figure(*r.Goal)))
		}
	}
	return errors.Join(errs...)
}

func (r Result) missed() bool { return r.Goal != nil && r.Worst > *r.Goal }

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Print writes results as a table of docs/benchmarks.md, with the notes below.
func Print(w io.Writer, results []Result) error {
	width := 0
	for _, r := range results {
		width = max(width, len(r.Name))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %-*s | unit     | Tandem |  worst | goal   | %s |  worst | ratio | runs |\n", width, "what", PeerName)
	fmt.Fprintf(&b, "|%s|----------|-------:|-------:|--------|%s:|-------:|------:|-----:|\n", strings.Repeat("-", width+2), strings.Repeat("-", len(PeerName)+1))
	for _, r := range results {
		ratio := "–"
		if r.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(&b, "| %-*s | %-8s | %6s | %6s | %-6s | %*s | %6s | %5s | %4d |\n",
			width, r.Name, r.Unit, figure(r.Ours), figure(r.Worst), r.kept(), len(PeerName), figure(r.Peer), figure(r.PeerWorst), ratio, r.Runs)
	}
	for _, r := range results {
		if r.Note != "" {
			fmt.Fprintf(&b, "\n%s: %s.\n", r.Name, r.Note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// figure prints one, a small one with decimals.
func figure(f float64) string {
	switch {
	case f >= Unmeasured/2: // a median may lie between one and a figure
		return "none"
	case f > 0 && f < 1:
		return fmt.Sprintf("%.2f", f)
	default:
		return fmt.Sprintf("%.0f", f)
	}
}

// kept tells the goal, and whether it was missed.
func (r Result) kept() string {
	switch {
	case r.Goal == nil:
		return ""
	case r.missed():
		return figure(*r.Goal) + " (!)"
	default:
		return figure(*r.Goal)
	}
}

// Write writes results to a file as JSON.
func Write(path string, results []Result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
