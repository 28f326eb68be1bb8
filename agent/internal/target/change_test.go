package target

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func TestChangeLeadsToTheOther(t *testing.T) {
	whole := func(hash string, resources ...*agentv1.Resource) *Target {
		made, err := FromConfig(&agentv1.NodeConfig{Version: &agentv1.Version{Hash: hash}, Resources: resources})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	base := whole("base", backend("web"), server("web", "a", 1), server("web", "b", 2))
	for name, test := range map[string]struct {
		next      *Target
		size      int // upserts and removals
		structure bool
	}{
		"only its number":  {whole("n", backend("web"), server("web", "a", 1), server("web", "b", 2)), 0, false},
		"servers":          {whole("n", backend("web"), server("web", "a", 9), server("web", "c", 3)), 3, false},
		"a new backend":    {whole("n", backend("web"), backend("mail"), server("web", "a", 1), server("web", "b", 2)), 1, true},
		"one backend less": {whole("n"), 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			change := base.To(test.next)
			if n := len(change.GetUpserts()) + len(change.GetRemovals()); n != test.size || change.Structure != test.structure {
				t.Errorf("%d resources, of the structure: %v; want %d, %v", n, change.Structure, test.size, test.structure)
			}
			if change.GetBaseHash() != "base" {
				t.Errorf("the base is %q", change.GetBaseHash())
			}
			got, err := base.Apply(change.GetVersion(), change.GetUpserts(), change.GetRemovals())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(test.next.Config(), got.Config(), protocmp.Transform()); d != "" {
				t.Errorf("it leads elsewhere (-want +got):\n%s", d)
			}
		})
	}
	changed := proto.CloneOf(backend("web"))
	changed.GetBackend().Retries = 7
	if !base.To(whole("n", changed, server("web", "a", 1), server("web", "b", 2))).Structure {
		t.Error("a changed backend is no structure")
	}
}

func global(router string, drain bool) *agentv1.Resource {
	return &agentv1.Resource{Key: globalKey, Version: fmt.Sprint(router, drain), Body: &agentv1.Resource_KeepalivedGlobal{
		KeepalivedGlobal: &keepalivedv1.Global{RouterId: router, Drain: drain},
	}}
}

func TestDrainAndPeersAreNoStructure(t *testing.T) {
	whole := func(hash string, resources ...*agentv1.Resource) *Target {
		made, err := FromConfig(&agentv1.NodeConfig{Version: &agentv1.Version{Hash: hash}, Resources: resources})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	base := whole("base", global("lb1", false), backend("web"))
	met := global("lb1", false)
	met.Version, met.GetKeepalivedGlobal().Peers = "met", []*keepalivedv1.Peer{{Node: "lb2", Network: "front", Addresses: []string{"192.168.1.11"}}}
	for name, test := range map[string]struct {
		next      *Target
		structure bool
	}{
		"drain":          {whole("n", global("lb1", true), backend("web")), false},
		"drain and more": {whole("n", global("lb2", true), backend("web")), true},
		"peers":          {whole("n", met, backend("web")), false},
		"none at all":    {whole("n", backend("web")), true},
	} {
		if got := base.To(test.next).Structure; got != test.structure {
			t.Errorf("%s: structure %v, want %v", name, got, test.structure)
		}
	}
	other := whole("other", global("lb2", true), backend("new"))
	if mixed := base.WithRuntimeOf(other); !mixed.Drained() || base.To(mixed).Structure || mixed.WithRuntimeOf(other) != mixed {
		t.Errorf("the drain of another target does not come alone: %v", mixed.Config())
	}
	if again := base.WithRuntimeOf(whole("none")); again != base {
		t.Errorf("a target that says nothing about it changes the drain: %v", again.Config())
	}
}
