package diagnose

import (
	"slices"
	"strings"
	"testing"
)

// A holder whose agent is away is not known to be one, unless another node hears it.
func TestAHolderThatIsAway(t *testing.T) {
	for name, test := range map[string]struct {
		spoil   func(backup *Node)
		reasons []string
		heard   []string
		says    string
	}{
		"not heard": {func(b *Node) { b.Instances["web"][0].Advertisers = nil },
			[]string{"NODE_DISCONNECTED", "HOLDER_UNKNOWN"}, nil, "lb-master does not tell"},
		"not listened for": {func(b *Node) { b.Instances["web"][0].Listens = false },
			[]string{"NODE_DISCONNECTED", "HOLDER_UNKNOWN"}, nil, "lb-master does not tell"},
		"heard": {func(*Node) {},
			[]string{"NODE_DISCONNECTED", "HOLDER_AWAY"}, []string{"lb-master"}, "lb-master not connected, and heard to advertise it by lb-backup"},
		"heard, and another one": {func(b *Node) {
			b.Instances["web"][0].State, b.Instances["web"][0].Holds = master, true
			b.Diagnosis.GetInstances()[0].Sent = 4
		},
			[]string{"NODE_DISCONNECTED", "TWO_HOLDERS"}, []string{"lb-master"}, "lb-master not connected, and heard to advertise it by lb-backup"},
	} {
		facts := well(t)
		facts.Nodes[0] = Node{ID: "lb-master"}
		test.spoil(&facts.Nodes[1])
		var reasons, says []string
		d := Judge(facts)
		for _, f := range d.GetFindings() {
			reasons, says = append(reasons, f.GetReason()), append(says, f.GetEvidence())
		}
		v := d.GetVips()[0]
		for _, s := range v.GetStandbys() {
			if away := name == "heard"; away != slices.Equal(s.GetUnknowns(), []string{"HOLDER_AWAY"}) || away == (len(s.GetObstacles()) > 0) || s.GetReady() || away && s.GetNode() != "lb-backup" {
				t.Errorf("%s: standby %v", name, s)
			}
		}
		if !slices.Equal(reasons, test.reasons) || v.GetTaker() != "" || !slices.Equal(v.GetHeard(), test.heard) {
			t.Errorf("%s: found %v, %v", name, reasons, v)
		}
		if !strings.Contains(strings.Join(says, "\n"), test.says) {
			t.Errorf("%s: it says %q", name, says)
		}
	}
}
