package bench

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
)

func TestTable(t *testing.T) {
	one := measurement{rows: []row{{"first", "ms", 5, "a note"}, {"second", "ms", noGoal, ""}}}
	other := measurement{rows: []row{{"third", "ms", noGoal, ""}}}
	untaken := measurement{rows: []row{{"fourth", "ms", noGoal, ""}}}
	table := newTable([]measurement{one, other, untaken})
	for _, figures := range [][]float64{{9, 0}, {1, 0}, {2, 0}} {
		table.add(one, 0, figures)
	}
	table.add(one, 1, []float64{10, 0})
	table.add(one, 1, []float64{40, 0})
	table.add(one, 1, nil)
	table.add(other, 0, []float64{7})
	table.add(other, 0, nil)
	table.add(other, 0, []float64{8})
	table.add(other, 1, nil)
	goal := 5.0
	want := []Result{
		{Name: "first", Unit: "ms", Ours: 2, Peer: 25, PeerName: PeerName, Ratio: 0.08, Worst: 9, PeerWorst: 40, Goal: &goal, Runs: 3,
			Note: "a note; no figure in 1 rounds of the guide's files"},
		{Name: "second", Unit: "ms", PeerName: PeerName, Runs: 3, Note: "no figure in 1 rounds of the guide's files"},
		{Name: "third", Unit: "ms", Ours: 8, PeerName: PeerName, Worst: Unmeasured, Runs: 2,
			Note: "no figure in 1 rounds of Tandem; no figure in 1 rounds of the guide's files"},
	}
	if diff := cmp.Diff(want, table.results()); diff != "" {
		t.Error(diff)
	}
	var text strings.Builder
	if err := Print(&text, want); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "|      2 |      9 | 5 (!)  |") {
		t.Errorf("a worst round beyond its goal is not marked:\n%s", text.String())
	}
	if !strings.Contains(text.String(), "|      8 |   none |") {
		t.Errorf("a round of ours without a figure is not told as its worst:\n%s", text.String())
	}
}

func TestJudge(t *testing.T) {
	goal, none := 100.0, 0.0
	kept := Result{Name: "kept", Unit: "ms", Worst: 100, Goal: &goal, Runs: 3}
	for _, c := range []struct {
		name    string
		results []Result
		want    []string
	}{
		{"no row", nil, nil},
		{"goals kept, or none", []Result{kept, {Name: "told", Worst: 8000, Runs: 3}}, nil},
		{"a goal missed", []Result{kept, {Name: "outage", Unit: "ms", Worst: 100.5, Goal: &goal, Runs: 3}}, []string{"outage: the worst round had 100"}},
		{"a request lost", []Result{{Name: "lost", Unit: "requests", Worst: 1, Goal: &none, Runs: 3}}, []string{"lost: the worst round had 1 requests"}},
		{"a round without a figure", []Result{kept, {Name: "told", Worst: Unmeasured, Runs: 2}}, []string{"told: 2 of 3 rounds gave a figure"}},
		{"two of them", []Result{{Name: "outage", Worst: 101, Goal: &goal, Runs: 3}, {Name: "told", Runs: 0}}, []string{"outage:", "told:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Judge(c.results, 3)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("judged: %v, want %q", err, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("judged: %v, want %q", err, want)
				}
			}
		})
	}
}

// A side that gives no figure in a round, for whatever reason, fails the run.
func TestARoundWithoutAFigureFailsTheRun(t *testing.T) {
	takes := 0
	chosen := []measurement{{"one", []row{ms("one", noGoal, "")}, func(context.Context, *runner, side) ([]float64, error) {
		if takes++; takes == 3 { // the second round of ours
			return nil, errors.New("it hangs")
		}
		return []float64{1}, nil
	}}}
	r := &runner{Options: Options{Rounds: 3, Out: io.Discard}}
	for k := range r.sides {
		r.sides[k] = &contender{start: func(context.Context) (side, error) { return wellSide{}, nil }}
	}
	results := newTable(chosen)
	if err := r.rounds(t.Context(), chosen, results); err != nil {
		t.Fatal(err)
	}
	if err := Judge(results.results(), 3); err == nil || !strings.Contains(err.Error(), "one: 2 of 3 rounds") {
		t.Errorf("judged: %v; want a round too few", err)
	}
}

// wellSide is a side that needs no repair.
type wellSide struct{ side }

func (wellSide) repair(context.Context) error { return nil }
func (wellSide) well(context.Context) error   { return nil }

func TestLongestGap(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	report := &probe.Report{Start: start}
	for _, ms := range []int{0, 100, 160, 200, 900, 1300, 1400} {
		report.Answers = append(report.Answers, probe.AnswerAt{At: at(ms), Kind: probe.New}, probe.AnswerAt{At: at(ms + 10), Kind: probe.Download})
	}
	for _, c := range []struct {
		from, to int
		want     float64
	}{
		{0, 200, 100},
		{130, 200, 40},
		{150, 950, 700},
		{1000, 1500, 300},   // the end of a gap that began before
		{1500, 1600, 100},   // without an answer
		{1500, 99000, 5000}, // patience
	} {
		if got := longestGap(report, at(c.from), at(c.to)); got != c.want {
			t.Errorf("between %d and %d ms: %v, want %v", c.from, c.to, got, c.want)
		}
	}
}

func TestChoose(t *testing.T) {
	all, err := choose(nil)
	if err != nil || len(all) != len(measurements) {
		t.Errorf("without a choice: %d measurements, %v; want all", len(all), err)
	}
	two, err := choose([]string{"planned", "proxy-killed"})
	if err != nil || len(two) != 2 || two[0].key != "proxy-killed" {
		t.Errorf("two of them: %v, %v; want them in the order of a round", two, err)
	}
	if _, err := choose([]string{"planed"}); err == nil || !strings.Contains(err.Error(), "planned") {
		t.Errorf("a mistyped key: %v; want those that there are", err)
	}
	names := map[string]bool{}
	for _, m := range all {
		for _, r := range m.rows {
			if names[r.name] {
				t.Errorf("two rows are called %q", r.name)
			}
			names[r.name] = true
		}
	}
}
