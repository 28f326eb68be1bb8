package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
)

func TestTable(t *testing.T) {
	one := measurement{rows: []row{{"first", "ms", 5, "a note"}, {"second", "ms", noGoal, ""}}}
	other := measurement{rows: []row{{"third", "ms", noGoal, ""}}}
	table := newTable([]measurement{one, other})
	for _, figures := range [][]float64{{9, 0}, {1, 0}, {2, 0}} {
		table.add(one, 0, figures)
	}
	table.add(one, 1, []float64{10, 0})
	table.add(one, 1, []float64{40, 0})
	table.add(one, 1, nil)
	table.add(other, 0, []float64{1})
	table.add(other, 1, nil)
	goal := 5.0
	want := []Result{
		{Name: "first", Unit: "ms", Ours: 2, Peer: 25, PeerName: PeerName, Ratio: 0.08, Worst: 9, PeerWorst: 40, Goal: &goal, Runs: 3,
			Note: "a note; no figure in 1 rounds of the guide's files"},
		{Name: "second", Unit: "ms", PeerName: PeerName, Runs: 3, Note: "no figure in 1 rounds of the guide's files"},
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
}

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
		{1500, 99000, 8000}, // patience
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
