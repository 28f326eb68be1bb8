package view

import (
	"bytes"
	"testing"

	"github.com/tandem-lb/tandem/cli/internal/golden"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestDiagnosis(t *testing.T) {
	standby := func(node string, priority uint32, obstacles ...string) *tandemv1.StandbyDiagnosis {
		return &tandemv1.StandbyDiagnosis{Node: node, Ready: len(obstacles) == 0, Priority: priority, Obstacles: obstacles}
	}
	for name, d := range map[string]*tandemv1.Diagnosis{
		"diagnosis_well.golden": {Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{
			{Name: id("vips", "mail"), Holder: "lb-backup", Taker: "lb-master", Standbys: []*tandemv1.StandbyDiagnosis{standby("lb-master", 220), standby("lb-third", 210)}},
			{Name: id("vips", "web"), Holder: "lb-master", Taker: "lb-backup", Standbys: []*tandemv1.StandbyDiagnosis{standby("lb-backup", 220)}},
		}},
		"diagnosis_unknown.golden": {
			Name:     "clusters/default",
			Findings: []*tandemv1.DiagnosisFinding{{Reason: "AGENT_SILENT", Node: id("nodes", "lb-backup"), Message: "the agent of lb-backup has not answered", Evidence: "no answer within 8 s", Cure: "ask again"}},
			Vips: []*tandemv1.VipDiagnosis{{Name: id("vips", "web"), Holder: "lb-master", Standbys: []*tandemv1.StandbyDiagnosis{
				{Node: "lb-backup", Priority: 220, Unknowns: []string{"AGENT_SILENT"}}}}},
		},
		"diagnosis_heard.golden": {
			Name: "clusters/default",
			Vips: []*tandemv1.VipDiagnosis{
				{Name: id("vips", "mail"), Heard: []string{"lb-master"}, Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Priority: 220, Unknowns: []string{"HOLDER_AWAY"}}}},
				{Name: id("vips", "web"), Holder: "lb-backup", Heard: []string{"lb-master"}, Standbys: []*tandemv1.StandbyDiagnosis{standby("lb-third", 210, "TWO_HOLDERS")}},
			},
		},
		"diagnosis_ill.golden": {
			Name: "clusters/default",
			Findings: []*tandemv1.DiagnosisFinding{
				{Reason: "VRRP_DROPPED", Stops: true, Node: id("nodes", "lb-backup"), Vips: []string{id("vips", "web")},
					Message:  "the firewall of lb-backup drops the advertisements of the other nodes",
					Evidence: "rule with handle 4 of chain in in table inet site", Cure: "on lb-backup: nft insert rule inet site in meta l4proto vrrp accept"},
				{Reason: "NO_HOLDER", Stops: true, Vips: []string{id("vips", "mail")}, Message: "no node holds VIP mail", Evidence: "no node's kernel has its address", Cure: "two\nlines\x1b[2J"},
				{Reason: "NODE_PROBLEM", Node: id("nodes", "lb-master"), Message: "lb-master is not well"},
			},
			Vips: []*tandemv1.VipDiagnosis{
				{Name: id("vips", "mail"), Standbys: []*tandemv1.StandbyDiagnosis{standby("lb-master", 0, "NO_HOLDER"), standby("lb-backup", 0, "NO_HOLDER", "VRRP_DROPPED")}},
				{Name: id("vips", "web"), Holder: "lb-master", Standbys: []*tandemv1.StandbyDiagnosis{standby("lb-backup", 220, "VRRP_DROPPED")}},
				{Name: id("vips", "lone"), Holder: "lb-master"},
			},
		},
	} {
		var out bytes.Buffer
		if err := Diagnosis(&out, d, output.Style{}); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, out.Bytes())
	}
}
