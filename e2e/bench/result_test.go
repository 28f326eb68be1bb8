package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	got := summarize(measurement{name: "n", unit: "ms"}, []float64{9, 1, 2}, []float64{10, 40})
	want := Result{Name: "n", Unit: "ms", Ours: 2, Peer: 25, PeerName: PeerName, Ratio: 0.08, Worst: 9, Runs: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := summarize(measurement{}, []float64{0}, []float64{0}); got.Ratio != 0 {
		t.Errorf("the ratio to 0 is %v, want 0", got.Ratio)
	}
}
