package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/agent/internal/handover"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
)

// What a node hands over, and whether it keeps what was handed to it, follows from
// what keepalived is known to do. A HAProxy on trial serves what it has.
func TestCarried(t *testing.T) {
	web := keepalived.InstanceStatus{Name: "web", State: keepalived.InstanceMaster}
	handovers := map[string]keepalived.Handover{"web": {Interface: "eth0"}}
	holds := []handover.VIP{{Name: "web", Interface: "eth0", Role: handover.Holder}}
	for name, test := range map[string]struct {
		snapshot keepalived.Snapshot
		want     handover.View
	}{
		"nothing is known": {keepalived.Snapshot{Health: -100}, handover.View{}},
		"it serves":        {keepalived.Snapshot{Handovers: handovers}, handover.View{Known: true, Serving: true}},
		"it is drained":    {keepalived.Snapshot{Handovers: handovers, Drain: -50}, handover.View{Known: true, Serving: true}},
		"its proxy died":   {keepalived.Snapshot{Handovers: handovers, Health: -100}, handover.View{Known: true}},
		"it is on trial":   {keepalived.Snapshot{Handovers: handovers, Health: -56, Trial: true}, handover.View{Known: true, Serving: true}},
		"it holds": {
			keepalived.Snapshot{Handovers: handovers, Instances: []keepalived.InstanceStatus{web}},
			handover.View{Known: true, Serving: true, VIPs: holds},
		},
		"an instance without handovers": {
			keepalived.Snapshot{Handovers: map[string]keepalived.Handover{}, Instances: []keepalived.InstanceStatus{web}},
			handover.View{Known: true, Serving: true},
		},
	} {
		if diff := cmp.Diff(test.want, carriedBy(&test.snapshot)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
