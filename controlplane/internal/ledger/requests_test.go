package ledger

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

func TestI2RequestIDMakesOneRevision(t *testing.T) {
	r := fresh(t)
	q := pool("p")
	q.RequestID = "once"
	first := r.commit(q)
	again := r.commit(q)
	if !again.Repeated || !proto.Equal(first.Revision, again.Revision) {
		t.Errorf("repeated: %+v, first: %+v", again, first)
	}
	r = r.restart()
	again = r.commit(q)
	if !again.Repeated || !proto.Equal(first.Revision, again.Revision) {
		t.Errorf("repeated after a restart: %+v", again)
	}
	q.Author = "bob"
	if _, err := r.Commit(context.Background(), DefaultCluster, q); r.refused(err) != state.AlreadyExists {
		t.Errorf("another operator's request: %v", err)
	}
	if got := r.head().Revision(); got != 2 {
		t.Errorf("head is %d, want 2", got)
	}
}

// TestI2RequestIDAtOnce repeats a request within one transaction.
func TestI2RequestIDAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fresh(t)
		release := make(chan struct{})
		r.store.intercept(func() error { <-release; return nil })
		var callers sync.WaitGroup
		call := func(q Request, want uint64) {
			callers.Go(func() {
				res, err := r.Commit(context.Background(), DefaultCluster, q)
				if err != nil || res.Revision.GetNumber() != want {
					t.Errorf("got %+v, %v, want revision %d", res, err, want)
				}
			})
			synctest.Wait()
		}
		call(pool("first"), 2) // is in the store while the others wait
		q := pool("p")
		q.RequestID = "once"
		for range 50 {
			call(q, 3)
		}
		close(release)
		callers.Wait()
		if got := r.head().Revision(); got != 3 {
			t.Errorf("head is %d, want 3", got)
		}
	})
}

func TestRequestThatChangedNothing(t *testing.T) {
	r := fresh(t)
	r.commit(Request{Change: state.AddNode("n", "uid")})
	res := r.commit(Request{Change: state.AddNode("n", "uid"), RequestID: "x"})
	if res.Revision != nil || res.Config != r.head() {
		t.Errorf("got %+v", res)
	}
	r.commit(Request{Change: state.DeleteNode("n", "")})
	res = r.commit(Request{Change: state.AddNode("n", "uid"), RequestID: "x"})
	if res.Revision != nil || !res.Repeated || r.head().Node("n") != nil {
		t.Errorf("repeated: %+v", res)
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	r := fresh(t)
	before := r.head()
	q := pool("p")
	q.ValidateOnly, q.RequestID = true, "x"
	commits := r.store.commits.Load()
	res := r.commit(q)
	if res.Config.Pool("p") == nil || len(res.Revision.GetChanges()) != 1 {
		t.Errorf("the result does not show the change: %+v", res)
	}
	if r.head() != before || r.store.commits.Load() != commits {
		t.Error("something has changed")
	}
	q.ValidateOnly = false // its id is still free
	if res := r.commit(q); res.Repeated || r.head().Pool("p") == nil {
		t.Errorf("the real request: %+v", res)
	}
	q.ValidateOnly = true
	q.RequestID = ""
	if _, err := r.Commit(context.Background(), DefaultCluster, q); r.refused(err) != state.AlreadyExists {
		t.Errorf("got %v", err)
	}
}

// A request that is repeated after its cluster's end has its first result, and
// a configuration that says that the cluster is no more.
func TestRequestRepeatedAfterTheClusterIsGone(t *testing.T) {
	r := fresh(t)
	made := Request{Author: "alice", RequestID: "make"}
	gone := Request{Author: "alice", RequestID: "end"}
	ctx := context.Background()
	first, err := r.CreateCluster(ctx, "x1", nil, made)
	if err != nil {
		t.Fatal(err)
	}
	last, err := r.DeleteCluster(ctx, "x1", "", gone)
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at once", "after a restart"} {
		again, err := r.DeleteCluster(ctx, "x1", "", gone)
		if err != nil || !again.Repeated || !again.Config.Deleted() || !proto.Equal(again.Revision, last.Revision) {
			t.Errorf("deleted again %s: %+v, %v", when, again, err)
		}
		if got, want := again.Config.Revision(), last.Config.Revision(); got != want {
			t.Errorf("deleted again %s: the configuration has revision %d, want %d", when, got, want)
		}
		again, err = r.CreateCluster(ctx, "x1", nil, made)
		if err != nil || !again.Repeated || !again.Config.Deleted() || !proto.Equal(again.Revision, first.Revision) {
			t.Errorf("made again %s: %+v, %v", when, again, err)
		}
		r = r.restart()
	}
}
