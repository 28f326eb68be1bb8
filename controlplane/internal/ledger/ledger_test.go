package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

func TestFirstStartMakesTheDefaultCluster(t *testing.T) {
	r := fresh(t)
	if got := r.Clusters(); !slices.Equal(got, []string{"default"}) {
		t.Fatalf("clusters: %v", got)
	}
	rev, err := r.Revision(context.Background(), DefaultCluster, 1)
	if err != nil || rev.GetAuthor() != Controller || len(rev.GetChanges()) != 1 {
		t.Errorf("first revision: %v, %v", rev, err)
	}
	if _, err := r.DeleteCluster(context.Background(), DefaultCluster, "", Request{}); err != nil {
		t.Fatal(err)
	}
	r = r.restart()
	if got := r.Clusters(); len(got) != 0 {
		t.Errorf("a deleted default cluster came back: %v", got)
	}
}

func TestRevisionTellsWhatChanged(t *testing.T) {
	r := fresh(t)
	r.commit(pool("p"))
	q := backend("p", "web1", "10.0.0.1")
	q.Message, q.RequestID = "a note", "id-1"
	res := r.commit(q)
	got, err := r.Revision(context.Background(), DefaultCluster, 3)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(res.Revision, got, protocmp.Transform()); d != "" {
		t.Errorf("stored revision differs: %s", d)
	}
	want := &tandemv1.Revision{
		Name: "clusters/default/revisions/3", Epoch: r.Epoch(), Number: 3, Author: "alice", Message: "a note", RequestId: "id-1",
		CreateTime: got.GetCreateTime(),
		Changes: []*tandemv1.Change{{Name: "clusters/default/pools/p/backends/web1",
			After: &tandemv1.Resource{Kind: &tandemv1.Resource_Backend{Backend: r.head().Backend("p", "web1")}}}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("revision (-want +got): %s", d)
	}
	if age := time.Since(got.GetCreateTime().AsTime()); age < 0 || age > time.Minute {
		t.Errorf("create_time is %v ago", age)
	}
}

// TestGroupCommit holds the first commit back until all others wait: they
// then share transactions, and each still has its own revision.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		r := fresh(t)
		r.commit(pool("p"))
		release := make(chan struct{})
		r.store.intercept(func() error { <-release; return nil })
		before := r.store.commits.Load()
		numbers := make(chan uint64, n)
		for i := range n {
			go func() {
				res, err := r.Commit(context.Background(), DefaultCluster, backend("p", fmt.Sprint("web", i), fmt.Sprint("10.0.0.", i+1)))
				if err != nil {
					t.Error(err)
				}
				numbers <- res.Revision.GetNumber()
			}()
		}
		synctest.Wait() // the first is in the store, the others wait
		close(release)
		seen := map[uint64]bool{}
		for range n {
			seen[<-numbers] = true
		}
		if got := r.store.commits.Load() - before; got > 3 {
			t.Errorf("%d changes took %d transactions", n, got)
		}
		if len(seen) != n || r.head().Revision() != 2+n {
			t.Errorf("%d changes made %d revisions and the head %d", n, len(seen), r.head().Revision())
		}
	})
}

// TestI2RestartKeepsAll restarts the ledger: head, revisions, ids, etags and
// secrets are as before.
func TestI2RestartKeepsAll(t *testing.T) {
	r := fresh(t)
	r.commit(pool("p"))
	r.commit(backend("p", "web1", "10.0.0.1"))
	r.commit(backend("p", "web2", "10.0.0.2"))
	r.commit(Request{Change: state.AddNode("lb-master", "uid")})
	r.commit(Request{Change: state.DeleteBackend("p", "web2", "")})
	r.commit(Request{Author: "bob", Change: state.SetOverride(&tandemv1.Override{
		Name: "clusters/default/pools/p/backends/web1/override", State: "drain"}, nil)})
	r.commit(Request{Change: state.UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", StatsPage: &tandemv1.StatsPage{
		Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}}}}, nil)})
	before := r.head()
	r = r.restart()
	after := r.head()
	if d := cmp.Diff(resources(before), resources(after), protocmp.Transform()); d != "" {
		t.Errorf("resources: %s", d)
	}
	if before.ETag() != after.ETag() || before.Revision() != after.Revision() || before.Counters() != after.Counters() {
		t.Errorf("head: %s %d %v, was %s %d %v", after.ETag(), after.Revision(), after.Counters(),
			before.ETag(), before.Revision(), before.Counters())
	}
	if got := after.Secret("stats/admin"); got == "" || got != before.Secret("stats/admin") {
		t.Errorf("secret is %q, was %q", got, before.Secret("stats/admin"))
	}
	r.commit(backend("p", "web3", "10.0.0.3"))
	if id := r.head().Backend("p", "web3").GetId(); id != 3 {
		t.Errorf("a new backend got id %d: ids are not given again", id)
	}
}

// resources returns all that a Config holds.
func resources(c *state.Config) []proto.Message {
	out := []proto.Message{state.ClusterView(c)}
	for _, p := range c.Pools() {
		out = append(out, p)
		for _, b := range c.Backends(p.GetName()[len("clusters/default/pools/"):]) {
			out = append(out, b)
		}
	}
	for _, n := range c.Nodes() {
		out = append(out, n)
	}
	for _, o := range c.Overrides() {
		out = append(out, o)
	}
	return out
}

func TestStaleETag(t *testing.T) {
	r := fresh(t)
	old := r.head().ETag()
	r.commit(pool("p"))
	_, err := r.Commit(context.Background(), DefaultCluster, Request{Change: state.ApplyConfig(&tandemv1.ClusterConfig{}, old)})
	if r.refused(err) != state.Aborted {
		t.Errorf("stale cluster: %v", err)
	}
	etag := r.head().Pool("p").GetEtag()
	r.commit(backend("p", "web1", "10.0.0.1"))
	r = r.restart()
	if got := r.head().Pool("p").GetEtag(); got != etag {
		t.Errorf("a backend or a restart changed its pool's etag: %s, was %s", got, etag)
	}
	r.commit(Request{Change: state.UpdatePool(&tandemv1.Pool{Name: "p", Balance: "leastconn", Etag: etag}, nil)})
	_, err = r.Commit(context.Background(), DefaultCluster, Request{Change: state.DeletePool("p", etag)})
	if r.refused(err) != state.Aborted {
		t.Errorf("stale pool: %v", err)
	}
}

// TestStoreFails acknowledges and publishes nothing that is not durable.
func TestStoreFails(t *testing.T) {
	r := fresh(t)
	before := r.head()
	full := errors.New("no space left on device")
	r.store.intercept(func() error { return full })
	if _, err := r.Commit(context.Background(), DefaultCluster, pool("p")); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if r.head() != before {
		t.Error("published what is not durable")
	}
	r.store.intercept(nil)
	if res := r.commit(pool("p")); res.Revision.GetNumber() != 2 {
		t.Errorf("revision %d after the failed one, want 2", res.Revision.GetNumber())
	}
}

// The store may have what it could not say that it has: the ledger then goes on
// from there, and a request that is repeated is not made twice.
func TestI2RefusedChangeIsWholeInTheStore(t *testing.T) {
	r := fresh(t)
	r.store.afterwards.Store(true)
	failed := errors.New("input/output error")
	r.store.intercept(func() error { return failed })
	q := pool("p")
	q.RequestID = "id-1"
	if _, err := r.Commit(context.Background(), DefaultCluster, q); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if got := r.head().Revision(); got != 1 {
		t.Errorf("published revision %d, which may not be durable", got)
	}
	r.store.intercept(nil)
	if res := r.commit(q); !res.Repeated || res.Revision.GetNumber() != 2 {
		t.Errorf("repeated %v, revision %d; want the first one's, 2", res.Repeated, res.Revision.GetNumber())
	}
	if res := r.commit(pool("q")); res.Revision.GetNumber() != 3 {
		t.Errorf("the next is revision %d, want 3", res.Revision.GetNumber())
	}
}

// A cluster whose removal could not be told is gone all the same.
func TestI2RefusedRemovalIsWholeInTheStore(t *testing.T) {
	r := fresh(t)
	r.store.afterwards.Store(true)
	r.store.intercept(func() error { return errors.New("input/output error") })
	if _, err := r.DeleteCluster(context.Background(), DefaultCluster, "", Request{}); err == nil {
		t.Error("no error")
	}
	r.store.intercept(nil)
	var refused *state.Error
	if _, err := r.Commit(context.Background(), DefaultCluster, pool("p")); !errors.As(err, &refused) || refused.Code != state.NotFound {
		t.Errorf("got %v", err)
	}
	if got := r.Clusters(); len(got) != 0 {
		t.Errorf("clusters: %v", got)
	}
}

func TestRevisionsAreListed(t *testing.T) {
	r := fresh(t)
	for i := range 5 {
		r.commit(pool(fmt.Sprint("p", i)))
	}
	got, err := r.Revisions(context.Background(), DefaultCluster, 5, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].GetNumber() != 4 || got[1].GetNumber() != 3 {
		t.Errorf("got %v", got)
	}
	if _, err := r.Revision(context.Background(), DefaultCluster, 99); !errors.Is(err, ErrRevisionGone) {
		t.Errorf("got %v", err)
	}
}

// pass lets the bubble's clock go on.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestOverrideExpires ends an override on time by a revision of its own, also
// when the store fails at first.
func TestOverrideExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fresh(t)
		r.commit(pool("p"))
		for i, end := range []time.Duration{time.Hour, 90 * time.Minute, 0} {
			web := fmt.Sprint("web", i)
			r.commit(backend("p", web, fmt.Sprint("10.0.0.", i+1)))
			o := &tandemv1.Override{Name: state.OverrideName("default", "p", web).String(), State: "drain"}
			if end != 0 {
				o.ExpireTime = timestamppb.New(time.Now().Add(end))
			}
			r.commit(Request{Author: "alice", Change: state.SetOverride(o, nil)})
		}
		set := r.head().Revision()
		pass(time.Hour - time.Millisecond)
		if got := len(r.head().Overrides()); got != 3 {
			t.Fatalf("a moment before: %d overrides", got)
		}
		failures := 0
		r.store.intercept(func() error {
			if failures++; failures < 3 {
				return errors.New("no space left on device")
			}
			return nil
		})
		pass(time.Millisecond + 2*retryExpiry)
		if got := r.head().Override("p", "web0"); got != nil {
			t.Errorf("still there: %v", got)
		}
		if got := r.head().Backend("p", "web0").GetOverride(); got != nil {
			t.Errorf("still on its backend: %v", got)
		}
		rev, err := r.Revision(context.Background(), DefaultCluster, set+1)
		if err != nil || rev.GetAuthor() != Controller || len(rev.GetChanges()) != 1 {
			t.Errorf("revision: %v, %v", rev, err)
		}
		if told := r.heard(); len(told) != 1 || told[0].GetNumber() != set+1 {
			t.Errorf("told of %v, want revision %d alone", told, set+1)
		}
		pass(time.Hour)
		if got := r.head().Overrides(); len(got) != 1 || r.head().Revision() != set+2 {
			t.Errorf("at last: revision %d, %v", r.head().Revision(), got)
		}
	})
}

func TestStopped(t *testing.T) {
	r := fresh(t)
	r.stop()
	if _, err := r.Commit(context.Background(), DefaultCluster, pool("p")); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
}

func TestCallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fresh(t)
		release := make(chan struct{})
		r.store.intercept(func() error { <-release; return nil })
		first := make(chan error, 1)
		go func() {
			_, err := r.Commit(context.Background(), DefaultCluster, pool("a"))
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error)
		go func() {
			_, err := r.Commit(ctx, DefaultCluster, pool("b"))
			result <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(release)
		if err := <-first; err != nil {
			t.Errorf("the one that waited: %v", err)
		}
		synctest.Wait()
		if r.head().Pool("a") == nil || r.head().Pool("b") != nil {
			t.Error("a was asked for, and b no longer")
		}
	})
}
