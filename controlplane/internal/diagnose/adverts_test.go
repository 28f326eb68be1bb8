package diagnose

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// deafEar has the agent not listen at the interface.
func deafEar(n *Node) {
	i := n.Instances["web"][0]
	i.Listens, i.Advertisers = false, nil
}

// An agent looks for 5 s at most. With a longer interval nothing may fall into that, and
// counts of 0 say nothing.
func TestCountsOfLongIntervalsSayNothing(t *testing.T) {
	for name, test := range map[string]struct {
		interval, window time.Duration
		found            bool
	}{
		"as short as usual":     {time.Second, 3100 * time.Millisecond, true},
		"two just fit":          {2450 * time.Millisecond, 5 * time.Second, true},
		"two do not fit":        {2460 * time.Millisecond, 5 * time.Second, false},
		"longer than is looked": {10 * time.Second, 5 * time.Second, false},
		"the longest":           {40 * time.Second, 5 * time.Second, false},
	} {
		facts := well(t)
		for n := range facts.Nodes {
			i := facts.Nodes[n].Diagnosis.GetInstances()[0]
			i.Interval, i.Window, i.Sent, i.Received = durationpb.New(test.interval), durationpb.New(test.window), 0, 0
		}
		var reasons []string
		for _, f := range Judge(facts).GetFindings() {
			reasons = append(reasons, f.GetReason())
		}
		if want := []string{"ADVERTS_NOT_SENT", "ADVERTS_LOST"}; test.found != slices.Equal(reasons, want) || !test.found && reasons != nil {
			t.Errorf("%s: found %v", name, reasons)
		}
	}
	facts := well(t)
	deafEar(&facts.Nodes[1])
	for n := range facts.Nodes {
		i := facts.Nodes[n].Diagnosis.GetInstances()[0]
		i.Interval, i.Window, i.Sent, i.Received = durationpb.New(3*time.Second), durationpb.New(5*time.Second), 2, 0
	}
	if v := Judge(facts).GetVips()[0]; !slices.Equal(v.GetStandbys()[0].GetUnknowns(), []string{"NOT_LISTENED"}) {
		t.Errorf("not listened at: %v", v)
	}
}

// Where keepalived counts what the holder sends, it does not matter that the agent does
// not listen.
func TestWhatKeepalivedCountsIsHeard(t *testing.T) {
	facts := well(t)
	deafEar(&facts.Nodes[1])
	if d := Judge(facts); len(d.GetFindings()) != 0 || d.GetVips()[0].GetTaker() != "lb-backup" {
		t.Errorf("found %v", d)
	}
}
