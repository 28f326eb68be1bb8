package compile

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// large is a cluster with 10,000 backends in pools of 100.
func large(t testing.TB) *state.Config {
	t.Helper()
	config := &tandemv1.ClusterConfig{}
	for p := range 100 {
		pool := &tandemv1.Pool{Name: fmt.Sprintf("pool%03d", p)}
		for b := range 100 {
			pool.Backends = append(pool.Backends, &tandemv1.Backend{
				Name: fmt.Sprintf("b%05d", b), Address: fmt.Sprintf("10.1.%d.%d", p, b), Port: 80,
			})
		}
		config.Pools = append(config.Pools, pool)
	}
	return apply(t, state.New("default", "epoch-1", 0),
		state.CreateCluster(&tandemv1.Cluster{}), state.AddNode("lb-master", "u1"), state.AddNode("lb-backup", "u2"),
		state.ApplyConfig(config, ""))
}

// One weight among 10,000 backends: compiled for both nodes, and the
// difference found.
func BenchmarkOneWeightOf10000(b *testing.B) {
	configs := []*state.Config{large(b)}
	for w := range uint32(2) {
		configs = append(configs, apply(b, configs[len(configs)-1], state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/pool050/backends/b00050/override", Weight: proto.Uint32(w + 5),
		}, nil)))
	}
	var compiler Compiler
	last := make(map[string]*Config)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		c := configs[1+i%2]
		for _, id := range []string{"lb-master", "lb-backup"} {
			target, err := compiler.Node(Target{Structure: c, Runtime: c}, id)
			if err != nil {
				b.Fatal(err)
			}
			if upserts, removals := Diff(last[id], target); i > 0 && len(upserts)+len(removals) != 1 {
				b.Fatalf("%d upserts and %d removals, want 1 and 0", len(upserts), len(removals))
			}
			last[id] = target
		}
		i++
	}
}

// Cold: all 10,000 backends for the first time.
func BenchmarkCold10000(b *testing.B) {
	c := large(b)
	b.ReportAllocs()
	for b.Loop() {
		var compiler Compiler
		if _, err := compiler.Node(Target{Structure: c, Runtime: c}, "lb-master"); err != nil {
			b.Fatal(err)
		}
	}
}
