package diagnose

import "testing"

// deafEar has the agent not listen at the interface.
func deafEar(n *Node) {
	i := n.Instances["web"][0]
	i.Listens, i.Advertisers = false, nil
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
