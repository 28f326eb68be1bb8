package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

// many is how many backends the design's budgets are for.
const many = 10_000

func manyBackends() Request {
	p := &tandemv1.Pool{Name: "p"}
	for i := range many {
		p.Backends = append(p.Backends, &tandemv1.Backend{Name: fmt.Sprint("web", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Port: 80})
	}
	return Request{Change: state.ApplyConfig(&tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{p}}, "")}
}

// started runs a ledger on a real store until the benchmark ends.
func started(b *testing.B) *Ledger {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	l, err := Open(context.Background(), db, Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		_ = db.Close()
	})
	return l
}

func weigh(l *Ledger, i uint64) error {
	_, err := l.Commit(context.Background(), DefaultCluster, Request{Change: state.UpdateBackend(&tandemv1.Backend{
		Name: fmt.Sprintf("clusters/default/pools/p/backends/web%d", i%many), Weight: proto.Uint32(uint32(i/many%200) + 2)}, nil)})
	return err
}

// BenchmarkCommit is one weight change after the other, each durable.
func BenchmarkCommit(b *testing.B) {
	l := started(b)
	if _, err := l.Commit(context.Background(), DefaultCluster, manyBackends()); err != nil {
		b.Fatal(err)
	}
	i := uint64(0)
	for b.Loop() {
		if err := weigh(l, i); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkCommitAtOnce is 64 callers that share transactions.
func BenchmarkCommitAtOnce(b *testing.B) {
	l := started(b)
	if _, err := l.Commit(context.Background(), DefaultCluster, manyBackends()); err != nil {
		b.Fatal(err)
	}
	var i atomic.Uint64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := weigh(l, i.Add(1)); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkCommitNewFile is a file with 10,000 backends into an empty cluster.
func BenchmarkCommitNewFile(b *testing.B) {
	l := started(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		id := fmt.Sprint("c", i)
		if _, err := l.CreateCluster(context.Background(), id, nil, Request{}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := l.Commit(context.Background(), id, manyBackends()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen reads a cluster with 10,000 backends.
func BenchmarkOpen(b *testing.B) {
	l := started(b)
	if _, err := l.Commit(context.Background(), DefaultCluster, manyBackends()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Open(context.Background(), l.store, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
