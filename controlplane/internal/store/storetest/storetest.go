// Package storetest is the conformance suite of store.Store: whatever keeps
// the controller's state must pass it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// Open opens the store in a directory, and makes it if there is none.
type Open func(t *testing.T, dir string) store.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	tests := map[string]func(*testing.T, *harness){
		"commit and read":           testCommit,
		"survives closing":          testReopen,
		"all or none":               testAtomic,
		"compare and swap":          testConflict,
		"one writer wins":           testRace,
		"removal":                   testRemoval,
		"deleted cluster":           testDeleted,
		"clusters apart":            testClusters,
		"revisions listed":          testRevisions,
		"records":                   testRecords,
		"records survive":           testRecordsReopen,
		"swap succeeds for one":     testSwap,
		"create gives to one":       testCreate,
		"cancelled context changes": testCancelled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := &harness{T: t, open: open, dir: t.TempDir()}
			h.Store = open(t, h.dir)
			defer func() { h.must(h.Close()) }()
			test(t, h)
		})
	}
}

// harness is a store with what tests say often.
type harness struct {
	*testing.T
	store.Store
	open Open
	dir  string
}

func (h *harness) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *harness) want(err, target error) {
	h.Helper()
	if !errors.Is(err, target) {
		h.Fatalf("got error %v, want %v", err, target)
	}
}

func (h *harness) reopen() {
	h.Helper()
	h.must(h.Close())
	h.Store = h.open(h.T, h.dir)
}

// commit returns a commit that sets a backend's weight, as revision base+1.
func commit(cluster string, base uint64, weights ...uint32) store.Commit {
	r := &tandemv1.Revision{
		Name: fmt.Sprintf("clusters/%s/revisions/%d", cluster, base+1), Number: base + 1,
		Author: "alice", Message: "a note", RequestId: fmt.Sprint("request-", base+1),
		CreateTime: timestamppb.New(time.Unix(1_700_000_000, 5)),
	}
	for i, w := range weights {
		r.Changes = append(r.Changes, change(cluster, fmt.Sprintf("web%d", i), w))
	}
	return store.Commit{Cluster: cluster, Base: base, Revision: r}
}

func change(cluster, backend string, weight uint32) *tandemv1.Change {
	n := state.BackendName(cluster, "p", backend).String()
	return &tandemv1.Change{Name: n, After: &tandemv1.Resource{Kind: &tandemv1.Resource_Backend{
		Backend: &tandemv1.Backend{Name: n, Address: "10.0.0.1", Weight: &weight}}}}
}

// weights returns the weights that a cluster holds.
func (h *harness) weights(cluster string) map[string]uint32 {
	h.Helper()
	_, content, err := h.Content(context.Background(), cluster)
	h.must(err)
	out := map[string]uint32{}
	for _, r := range content.Resources {
		out[r.GetBackend().GetName()] = r.GetBackend().GetWeight()
	}
	return out
}

func (h *harness) same(what string, got, want any) {
	h.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		h.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

func testCommit(t *testing.T, h *harness) {
	ctx := context.Background()
	if h.Epoch() == "" {
		t.Error("a store has an epoch")
	}
	heads, err := h.Heads(ctx)
	h.must(err)
	if len(heads) != 0 {
		t.Errorf("a new store holds %v", heads)
	}
	_, _, err = h.Content(ctx, "a")
	h.want(err, store.ErrNotFound)

	k := commit("a", 0, 1, 2)
	k.Counters = state.Counters{Backend: 2, Node: 3, Defaults: 1}
	k.Secrets = map[string]string{"stats/admin": "hash", "vrrp/auth": "secret"}
	h.must(h.Commit(ctx, []store.Commit{k}))

	head, content, err := h.Content(ctx, "a")
	h.must(err)
	h.same("head", head, store.Head{Cluster: "a", Revision: 1})
	h.same("counters", content.Counters, k.Counters)
	h.same("secrets", content.Secrets, k.Secrets)
	h.same("resources", content.Resources, []*tandemv1.Resource{k.Revision.Changes[0].After, k.Revision.Changes[1].After})
	r, err := h.Revision(ctx, "a", 1)
	h.must(err)
	h.same("revision", r, k.Revision)
	_, err = h.Revision(ctx, "a", 2)
	h.want(err, store.ErrNotFound)
	_, err = h.Revision(ctx, "b", 1)
	h.want(err, store.ErrNotFound)
}

func testReopen(t *testing.T, h *harness) {
	ctx := context.Background()
	k := commit("a", 0, 7)
	k.Secrets = map[string]string{"vrrp/auth": "secret"}
	h.must(h.Commit(ctx, []store.Commit{k}))
	epoch := h.Epoch()
	h.reopen()
	if h.Epoch() != epoch {
		t.Errorf("epoch was %s and is %s", epoch, h.Epoch())
	}
	_, content, err := h.Content(ctx, "a")
	h.must(err)
	h.same("secrets", content.Secrets, k.Secrets)
	h.same("weights", h.weights("a"), map[string]uint32{"clusters/a/pools/p/backends/web0": 7})
}

func testAtomic(t *testing.T, h *harness) {
	ctx := context.Background()
	h.must(h.Commit(ctx, []store.Commit{commit("a", 0, 1), commit("a", 1, 2)}))
	before := h.weights("a")
	// The last one of these does not fit: none may be seen.
	err := h.Commit(ctx, []store.Commit{commit("a", 2, 3), commit("b", 0, 3), commit("a", 7, 4)})
	h.want(err, store.ErrConflict)
	h.same("weights", h.weights("a"), before)
	heads, err := h.Heads(ctx)
	h.must(err)
	h.same("heads", heads, []store.Head{{Cluster: "a", Revision: 2}})
	_, err = h.Revision(ctx, "a", 3)
	h.want(err, store.ErrNotFound)
}

func testConflict(_ *testing.T, h *harness) {
	ctx := context.Background()
	h.must(h.Commit(ctx, []store.Commit{commit("a", 0, 1)}))
	h.want(h.Commit(ctx, []store.Commit{commit("a", 0, 2)}), store.ErrConflict)
	h.want(h.Commit(ctx, []store.Commit{commit("a", 2, 2)}), store.ErrConflict)
	h.same("weights", h.weights("a"), map[string]uint32{"clusters/a/pools/p/backends/web0": 1})
}

func testRace(_ *testing.T, h *harness) {
	won := race(8, func(i int) bool {
		return h.Commit(context.Background(), []store.Commit{commit("a", 0, uint32(i))}) == nil
	})
	h.same("winners", won, 1)
	h.same("weights held", len(h.weights("a")), 1)
}

func testRemoval(_ *testing.T, h *harness) {
	ctx := context.Background()
	first := commit("a", 0, 1, 2)
	first.Secrets = map[string]string{"stats/a": "x", "stats/b": "y"}
	second := commit("a", 1)
	second.Revision.Changes = []*tandemv1.Change{{Name: first.Revision.Changes[0].Name, Before: first.Revision.Changes[0].After}}
	second.Secrets = map[string]string{"stats/a": ""}
	h.must(h.Commit(ctx, []store.Commit{first, second}))
	_, content, err := h.Content(ctx, "a")
	h.must(err)
	h.same("resources", content.Resources, []*tandemv1.Resource{first.Revision.Changes[1].After})
	h.same("secrets", content.Secrets, map[string]string{"stats/b": "y"})
}

func testDeleted(_ *testing.T, h *harness) {
	ctx := context.Background()
	gone := commit("a", 1)
	gone.Deleted = true
	gone.Revision.Changes = []*tandemv1.Change{{Name: commit("a", 0, 1).Revision.Changes[0].Name}}
	h.must(h.Commit(ctx, []store.Commit{commit("a", 0, 1), gone}))
	h.reopen()
	heads, err := h.Heads(ctx)
	h.must(err)
	h.same("heads", heads, []store.Head{{Cluster: "a", Revision: 2, Deleted: true}})
	_, _, err = h.Content(ctx, "a")
	h.want(err, store.ErrNotFound)

	h.must(h.Commit(ctx, []store.Commit{commit("a", 2, 5)}))
	head, _, err := h.Content(ctx, "a")
	h.must(err)
	h.same("head", head, store.Head{Cluster: "a", Revision: 3})
	h.same("weights", h.weights("a"), map[string]uint32{"clusters/a/pools/p/backends/web0": 5})
}

func testClusters(_ *testing.T, h *harness) {
	ctx := context.Background()
	h.must(h.Commit(ctx, []store.Commit{commit("b", 0, 2), commit("a", 0, 1), commit("b", 1, 3)}))
	heads, err := h.Heads(ctx)
	h.must(err)
	h.same("heads", heads, []store.Head{{Cluster: "a", Revision: 1}, {Cluster: "b", Revision: 2}})
	h.same("a", h.weights("a"), map[string]uint32{"clusters/a/pools/p/backends/web0": 1})
	h.same("b", h.weights("b"), map[string]uint32{"clusters/b/pools/p/backends/web0": 3})
}

func testRevisions(t *testing.T, h *harness) {
	ctx := context.Background()
	for i := range uint64(20) {
		h.must(h.Commit(ctx, []store.Commit{commit("a", i, 1, 2)}))
	}
	tests := []struct {
		q     store.Query
		first uint64
		n     int
	}{
		{store.Query{}, 20, 20}, {store.Query{Limit: 3}, 20, 3}, {store.Query{Before: 18, Limit: 5}, 17, 5},
		{store.Query{Before: 3}, 2, 2}, {store.Query{Before: 1}, 0, 0}, {store.Query{Before: 99, Limit: 1}, 20, 1},
	}
	for _, tt := range tests {
		got, err := h.Revisions(ctx, "a", tt.q)
		h.must(err)
		if len(got) != tt.n {
			t.Fatalf("%+v: got %d revisions, want %d", tt.q, len(got), tt.n)
		}
		for i, r := range got {
			if want := tt.first - uint64(i); r.GetNumber() != want {
				t.Errorf("%+v: revision %d is %d, want %d", tt.q, i, r.GetNumber(), want)
			}
		}
	}
	got, err := h.Revisions(ctx, "a", store.Query{Limit: 1})
	h.must(err)
	want := commit("a", 19, 1, 2).Revision
	for _, c := range want.Changes {
		c.After = nil
	}
	h.same("listed revision", got[0], want)
	got, err = h.Revisions(ctx, "a", store.Query{Limit: 1, NoChanges: true})
	h.must(err)
	want.Changes = nil
	h.same("bare revision", got[0], want)
}

func testRecords(_ *testing.T, h *harness) {
	ctx := context.Background()
	_, err := h.Get(ctx, "tokens", "a")
	h.want(err, store.ErrNotFound)
	all, err := h.List(ctx, "tokens")
	h.must(err)
	h.same("nothing", len(all), 0)
	h.want(h.Delete(ctx, "tokens", "a"), store.ErrNotFound)

	h.must(h.Create(ctx, "tokens", "a", []byte("1")))
	h.want(h.Create(ctx, "tokens", "a", []byte("2")), store.ErrExists)
	h.must(h.Put(ctx, "tokens", "b", []byte("3")))
	h.must(h.Put(ctx, "tokens", "b", []byte("4")))
	h.must(h.Put(ctx, "other", "a", nil))
	all, err = h.List(ctx, "tokens")
	h.must(err)
	h.same("tokens", all, map[string][]byte{"a": []byte("1"), "b": []byte("4")})
	h.must(h.Swap(ctx, "tokens", "a", []byte("1"), []byte("5")))
	h.want(h.Swap(ctx, "tokens", "a", []byte("1"), []byte("6")), store.ErrConflict)
	v, err := h.Get(ctx, "tokens", "a")
	h.must(err)
	h.same("swapped", v, []byte("5"))
	h.must(h.Delete(ctx, "tokens", "b"))
	h.want(h.Delete(ctx, "tokens", "b"), store.ErrNotFound)
	h.want(h.Swap(ctx, "tokens", "b", []byte("4"), []byte("6")), store.ErrNotFound)
	_, err = h.Get(ctx, "tokens", "b")
	h.want(err, store.ErrNotFound)
	v, err = h.Get(ctx, "other", "a")
	h.must(err)
	h.same("empty record", len(v), 0)
}

func testRecordsReopen(_ *testing.T, h *harness) {
	ctx := context.Background()
	h.must(h.Put(ctx, "tokens", "a", []byte("1")))
	h.must(h.Put(ctx, "tokens", "b", []byte(strings.Repeat("x", 10_000))))
	h.must(h.Swap(ctx, "tokens", "a", []byte("1"), []byte("2")))
	h.must(h.Delete(ctx, "tokens", "b"))
	h.reopen()
	all, err := h.List(ctx, "tokens")
	h.must(err)
	h.same("tokens", all, map[string][]byte{"a": []byte("2")})
}

func testSwap(_ *testing.T, h *harness) {
	ctx := context.Background()
	h.must(h.Put(ctx, "tokens", "a", []byte("1")))
	won := race(100, func(i int) bool {
		return h.Swap(ctx, "tokens", "a", []byte("1"), fmt.Appendf(nil, "by %d", i)) == nil
	})
	h.same("winners", won, 1)
}

func testCreate(_ *testing.T, h *harness) {
	won := race(20, func(i int) bool {
		return h.Create(context.Background(), "tokens", "a", fmt.Append(nil, i)) == nil
	})
	h.same("winners", won, 1)
}

func testCancelled(_ *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.want(h.Put(ctx, "tokens", "a", nil), context.Canceled)
	h.want(h.Commit(ctx, []store.Commit{commit("a", 0, 1)}), context.Canceled)
	heads, err := h.Heads(context.Background())
	h.must(err)
	h.same("heads", len(heads), 0)
}

// race runs try n times at once and returns how often it succeeded.
func race(n int, try func(i int) bool) int {
	var wg sync.WaitGroup
	results := make(chan bool, n)
	for i := range n {
		wg.Go(func() { results <- try(i) })
	}
	wg.Wait()
	close(results)
	won := 0
	for ok := range results {
		if ok {
			won++
		}
	}
	return won
}
