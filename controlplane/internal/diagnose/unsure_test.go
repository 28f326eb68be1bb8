package diagnose

import (
	"testing"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// One that is down and others of which nothing is known are not all.
func TestBackendsThatAreNotKnownMayBeReached(t *testing.T) {
	facts := well(t)
	facts.Nodes[1].Backends["web_servers/web1"].State = down
	facts.Nodes[1].Backends["web_servers/web2"].State = agentv1.ServerState_SERVER_STATE_UNSPECIFIED
	d := Judge(facts)
	if len(d.GetFindings()) != 1 || d.GetFindings()[0].GetReason() != "BACKENDS_NOT_REACHED" || d.GetFindings()[0].GetStops() || d.GetVips()[0].GetTaker() != "lb-backup" {
		t.Errorf("found %v, taker %q", d.GetFindings(), d.GetVips()[0].GetTaker())
	}
}

// A neighbour by a route alone is none of those that strict filtering drops, and a
// stranger from anywhere is nobody who is missed.
func TestStrictFilteringOfWhoIsHeardAnyway(t *testing.T) {
	for name, spoil := range map[string]func(*agentv1.InstanceObservation){
		"received by a route": func(i *agentv1.InstanceObservation) { i.Advertisers[0].Address = "192.168.2.10" },
		"a stranger beside": func(i *agentv1.InstanceObservation) {
			i.Advertisers = append(i.Advertisers, &agentv1.Advertiser{Address: "192.168.2.66"})
			i.Findings = []*agentv1.Finding{{Kind: agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER, Who: "192.168.2.66", Text: "a stranger"}}
		},
	} {
		facts := well(t)
		spoil(facts.Nodes[1].Instances["web"][0])
		d := Judge(facts)
		if d.GetVips()[0].GetTaker() != "lb-backup" {
			t.Errorf("%s: found %v", name, d.GetFindings())
		}
	}
	facts := well(t)
	i := facts.Nodes[1].Instances["web"][0]
	i.Advertisers = []*agentv1.Advertiser{{Address: "192.168.2.66"}}
	i.Findings = []*agentv1.Finding{{Kind: agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER, Who: "192.168.2.66", Text: "a stranger"}}
	facts.Nodes[1].Diagnosis.GetInstances()[0].Received = 0
	for _, f := range Judge(facts).GetFindings() {
		if f.GetReason() == "REVERSE_PATH_FILTERED" {
			t.Errorf("a stranger is missed: %v", f)
		}
	}
}

// Two standbys that say the same of themselves are two, and what both hear is one; a
// mismatch that both hear keeps both from the VIP.
func TestTheSameWordsOfTwoNodes(t *testing.T) {
	for kind, want := range map[agentv1.FindingKind]int{
		agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED: 2, agentv1.FindingKind_FINDING_KIND_NOTHING_SENT: 2,
		agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER: 1, agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH: 1,
	} {
		facts := well(t)
		facts.Nodes = append(facts.Nodes, node("lb-third", "192.168.1.12/24", 0, 4, instance(backup, 210, "m3", "lb-master", "192.168.1.10")))
		find(&facts.Nodes[1], kind)
		find(&facts.Nodes[2], kind)
		d := Judge(facts)
		if len(d.GetFindings()) != want || (d.GetVips()[0].GetTaker() == "") != (kind != agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER) {
			t.Errorf("%v: found %v, taker %q", kind, d.GetFindings(), d.GetVips()[0].GetTaker())
		}
	}
}
