package cmd

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestDoctorsExitCode(t *testing.T) {
	well := &tandemv1.VipDiagnosis{Name: "clusters/default/vips/web", Holder: "lb-master", Taker: "lb-backup",
		Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Ready: true, Priority: 220}}}
	ill := &tandemv1.VipDiagnosis{Name: "clusters/default/vips/mail", Holder: "lb-master",
		Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Obstacles: []string{"DRAINED"}}}}
	three := &tandemv1.VipDiagnosis{Name: "clusters/default/vips/web", Holder: "lb-master", Taker: "lb-backup",
		Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Ready: true, Priority: 220}, {Node: "lb-third", Priority: 210, Obstacles: []string{"DRAINED"}}}}
	for name, test := range map[string]struct {
		reply  *tandemv1.Diagnosis
		code   int
		stdout string
		stderr string
	}{
		"nothing": {&tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{well}}, 0,
			"Cluster default: nothing found, a failover would work now\n", ""},
		"to know of": {&tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{well},
			Findings: []*tandemv1.DiagnosisFinding{{Reason: "VIP_OUTSIDE_SUBNET"}}}, 0, "a failover would work now, and 1 finding to know of", ""},
		"stops": {&tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{well, ill},
			Findings: []*tandemv1.DiagnosisFinding{{Reason: "DRAINED", Stops: true, Cure: "lbctl node undrain lb-backup"}, {Reason: "X"}}}, failure.ExitError,
			"1 finding would stop a failover of mail, 1 more to know of", "error: a failover would not work: no standby would take mail\n"},
		"nobody there": {&tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{{Name: "clusters/default/vips/mail", Holder: "lb-master"}}}, failure.ExitError,
			"a failover of mail would not work", "error: a failover would not work: no standby would take mail\n"},
		"one of two is drained": {&tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{three},
			Findings: []*tandemv1.DiagnosisFinding{{Reason: "DRAINED", Stops: true}, {Reason: "X"}}}, 0,
			"a failover would work now, and 1 finding would keep a node from it, 1 more to know of", ""},
		"not known": {&tandemv1.Diagnosis{Name: "clusters/default",
			Vips: []*tandemv1.VipDiagnosis{well, {Name: "clusters/default/vips/mail", Holder: "lb-master",
				Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Unknowns: []string{"AGENT_SILENT"}}}}},
			Findings: []*tandemv1.DiagnosisFinding{{Reason: "AGENT_SILENT"}}}, failure.ExitError,
			"it is not known whether a failover of mail would work, 1 more to know of",
			"error: it is not known whether a failover of mail would work: no standby could be looked at\n"},
		"no VIP": {&tandemv1.Diagnosis{Name: "clusters/default"}, 0, "Cluster default: it has no VIP, so there is nothing to move\n", ""},
	} {
		r := newRecorder(t)
		r.replies["Diagnose"] = []proto.Message{test.reply}
		got := r.run("", "doctor")
		if got.code != test.code || got.stderr != test.stderr || !strings.Contains(got.stdout, test.stdout) {
			t.Errorf("%s: %v, want code %d, %q", name, got, test.code, test.stdout)
		}
		json := r.run("", "doctor", "-o", "json")
		if json.code != test.code || !strings.Contains(json.stdout, `"name": "clusters/default"`) {
			t.Errorf("%s: %v", name, json)
		}
	}
}

func TestDoctorAsksForOneVIP(t *testing.T) {
	r := newRecorder(t)
	r.run("", "doctor", "web")
	if calls := r.taken(); !slices.Equal(calls, []string{`Diagnose {"name":"clusters/default","vip":"clusters/default/vips/web"}`}) {
		t.Errorf("it asks %v", calls)
	}
	if got := r.run("", "doctor", "web", "mail"); got.code != failure.ExitUsage {
		t.Errorf("two VIPs: %v", got)
	}
}
