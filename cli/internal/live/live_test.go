package live

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const cluster = "clusters/default"

func TestModelFollowsAWatch(t *testing.T) {
	node := func(id string, applied uint64) *tandemv1.WatchStatusResponse {
		return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Node{
			Node: &tandemv1.NodeStatus{Name: cluster + "/nodes/" + id, Applied: applied}}}
	}
	backend := func(pool, id string) *tandemv1.WatchStatusResponse {
		return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Backend{
			Backend: &tandemv1.BackendStatus{Name: cluster + "/pools/" + pool + "/backends/" + id}}}
	}
	deleted := func(key string) *tandemv1.WatchStatusResponse {
		return &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Deleted{Deleted: key}}
	}
	steps := []*tandemv1.WatchStatusResponse{
		{Epoch: "e1", Change: &tandemv1.WatchStatusResponse_Desired{Desired: 3}},
		node("lb-master", 1),
		node("lb-backup", 1),
		backend("b", "2"),
		backend("b", "1"),
		backend("a", "1"),
		{Change: &tandemv1.WatchStatusResponse_Vip{Vip: &tandemv1.VipStatus{Name: cluster + "/vips/web", Holders: []string{"lb-master"}}}},
		{Change: &tandemv1.WatchStatusResponse_Alarm{Alarm: &tandemv1.Alarm{Key: "K1"}}},
		{Change: &tandemv1.WatchStatusResponse_Alarm{Alarm: &tandemv1.Alarm{Key: "K2"}}},
		{Change: &tandemv1.WatchStatusResponse_Synced{Synced: true}},
		node("lb-master", 3),
		deleted(cluster + "/pools/b/backends/2"),
		deleted("K1"),
		deleted("clusters/default/nodes/unknown"),
	}
	model := New(cluster)
	for i, step := range steps {
		if model.Synced() != (i > 9) {
			t.Errorf("synced is %v before step %d", model.Synced(), i)
		}
		if !model.Apply(step) {
			t.Errorf("step %d changed nothing", i)
		}
	}
	if model.Apply(&tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Heartbeat{Heartbeat: true}}) {
		t.Error("a heartbeat must change nothing")
	}
	want := &tandemv1.ClusterStatus{
		Name: cluster, Epoch: "e1", Desired: 3,
		Nodes: []*tandemv1.NodeStatus{
			{Name: cluster + "/nodes/lb-master", Applied: 3},
			{Name: cluster + "/nodes/lb-backup", Applied: 1},
		},
		Vips: []*tandemv1.VipStatus{{Name: cluster + "/vips/web", Holders: []string{"lb-master"}}},
		Pools: []*tandemv1.PoolStatus{
			{Name: cluster + "/pools/a", Backends: []*tandemv1.BackendStatus{{Name: cluster + "/pools/a/backends/1"}}},
			{Name: cluster + "/pools/b", Backends: []*tandemv1.BackendStatus{{Name: cluster + "/pools/b/backends/1"}}},
		},
		Alarms: []*tandemv1.Alarm{{Key: "K2"}},
	}
	if diff := cmp.Diff(want, model.Status(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
