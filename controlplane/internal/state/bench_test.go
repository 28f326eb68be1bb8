package state

import (
	"fmt"
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
)

// many is how many backends the design's budgets are for.
const many = 10_000

func manyFile() *tandemv1.ClusterConfig {
	p := &tandemv1.Pool{Name: "p"}
	for i := range many {
		p.Backends = append(p.Backends, &tandemv1.Backend{Name: fmt.Sprint("web", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Port: 80})
	}
	return &tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{p}}
}

func manyBackends(b *testing.B) *Config {
	b.Helper()
	return apply(b, apply(b, New("default", epoch, 0), CreateCluster(nil)), ApplyConfig(manyFile(), ""))
}

// bench applies changes to a cluster with many backends.
func bench(b *testing.B, change func(i int) Change) {
	c := manyBackends(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		next, _, err := c.Apply(change(i), env())
		if err != nil {
			b.Fatal(err)
		}
		c = next
		i++
	}
}

func BenchmarkWeight(b *testing.B) {
	bench(b, func(i int) Change {
		return UpdateBackend(&tandemv1.Backend{Name: in(BackendName("default", "p", fmt.Sprint("web", i%many))),
			Weight: proto.Uint32(uint32(i%200) + 1)}, mask("weight"))
	})
}

func BenchmarkDrain(b *testing.B) {
	bench(b, func(i int) Change {
		return SetOverride(&tandemv1.Override{Name: in(OverrideName("default", "p", fmt.Sprint("web", i%100))),
			State: []string{"drain", "maintenance"}[i/100%2]}, nil)
	})
}

func BenchmarkAddAndRemoveBackend(b *testing.B) {
	bench(b, func(i int) Change {
		if i%2 == 1 {
			return DeleteBackend("p", "new", "")
		}
		return CreateBackend("p", "new", &tandemv1.Backend{Address: "10.9.9.9", Port: 80})
	})
}

func BenchmarkApplySameFile(b *testing.B) {
	file := manyFile()
	bench(b, func(int) Change { return ApplyConfig(file, "") })
}

func BenchmarkApplyNewFile(b *testing.B) {
	file := manyFile()
	empty := apply(b, New("default", epoch, 0), CreateCluster(nil))
	for b.Loop() {
		if _, _, err := empty.Apply(ApplyConfig(file, ""), env()); err != nil {
			b.Fatal(err)
		}
	}
}
