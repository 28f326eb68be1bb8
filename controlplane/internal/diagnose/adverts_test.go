package diagnose

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
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

// A standby that has lost something of a VIP takes it from a holder that gives it up by
// hand as keepalived decides: by what either has left, not by how much was lost.
func TestWhoLacksWhatAVIPNeeds(t *testing.T) {
	gone := []*agentv1.TrackObservation{{Track: "gateway", Lost: true}}
	one := func(name string, priority uint32, lost []*agentv1.TrackObservation) []*agentv1.InstanceObservation {
		return []*agentv1.InstanceObservation{{Name: name, Priority: priority, Tracks: lost}}
	}
	both := func(first, second uint32) []*agentv1.InstanceObservation {
		return append(one("web", first, gone), one("web-v6", second, gone)...)
	}
	automatic, never := &tandemv1.Vip{}, &tandemv1.Vip{FailBack: "never"}
	for name, test := range map[string]struct {
		vip             *tandemv1.Vip
		standby, holder []*agentv1.InstanceObservation
		lacks           bool
	}{
		"nothing is lost":                           {automatic, one("web", 120, nil), one("web", 230, nil), false},
		"all that a gateway weighs":                 {automatic, one("web", 220-44, gone), one("web", 230, nil), true},
		"little":                                    {automatic, one("web", 220-1, gone), one("web", 230, nil), false},
		"two of little weight, and one of much":     {automatic, one("web", 220-2, gone), one("web", 230-44, gone), false},
		"one of much weight, and one of little":     {automatic, one("web", 220-44, gone), one("web", 230-1, gone), true},
		"both all that tracks may add":              {automatic, one("web", 220-56, gone), one("web", 230-56, gone), false},
		"keepalived leaves it where both are equal": {automatic, one("web", 208, gone), one("web", 230, nil), true},
		"one more":                         {automatic, one("web", 209, gone), one("web", 230, nil), false},
		"a sticky one has its own for it":  {never, one("web", 220-22-1, gone), one("web", 230, nil), false},
		"a sticky one without its gateway": {never, one("web", 220-22-44, gone), one("web", 230, nil), true},
		"in one family":                    {automatic, both(219, 176), both(230, 230), true},
		"in none":                          {automatic, both(219, 219), both(230, 230), false},
	} {
		if got := Lacks(test.vip, test.standby, test.holder); got != test.lacks {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Who is heard is the holder, unless it is known to be a stranger.
func TestAStrangerIsNotTheHolder(t *testing.T) {
	speaker := &agentv1.Advertiser{Address: "192.168.1.66", Priority: 254}
	for name, test := range map[string]struct {
		findings []*agentv1.Finding
		want     []string
	}{
		"one that nobody knows": {nil, nil},
		"a stranger": {[]*agentv1.Finding{{Kind: agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER, Who: speaker.GetAddress(), Text: "a stranger speaks"}},
			[]string{"ADVERTS_NOT_SEEN", "FOREIGN_VRRP_SPEAKER"}},
	} {
		facts := well(t)
		i := facts.Nodes[1].Instances["web"][0]
		i.Advertisers, i.Findings = []*agentv1.Advertiser{speaker}, test.findings
		if got := foundOf(Judge(facts)); !slices.Equal(got, test.want) {
			t.Errorf("%s: found %v, want %v", name, got, test.want)
		}
	}
}

// A node that the other one does not hear has the address, too, and is no other machine.
func TestNodesAreNoDuplicates(t *testing.T) {
	for who, want := range map[string][]string{"m2": nil, "m9": {"DUPLICATE_ADDRESS"}} {
		facts := well(t)
		facts.Nodes[0].Instances["web"][0].Findings = []*agentv1.Finding{{Kind: agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS, Who: who, Text: "it is there, too"}}
		if got := foundOf(Judge(facts)); !slices.Equal(got, want) {
			t.Errorf("%s: found %v, want %v", who, got, want)
		}
	}
}

// What stops a failover comes before what does not, whatever it is about.
func TestWhatStopsAFailoverComesFirst(t *testing.T) {
	facts := well(t)
	facts.Nodes[0].Problems = []string{"the clock is 9 s behind"}
	facts.Nodes[1].Instances["web"][0].Fenced = true
	if got, want := foundOf(Judge(facts)), []string{"FENCED", "NODE_PROBLEM"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
