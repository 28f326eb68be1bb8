package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

func TestSubscribeLatestWins(t *testing.T) {
	r := fresh(t)
	sub, err := r.Subscribe(DefaultCluster)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if c := <-sub.C; c != r.head() {
		t.Errorf("first came revision %d", c.Revision())
	}
	for i := range 10 {
		r.commit(pool(fmt.Sprint("p", i)))
	}
	if c := <-sub.C; c != r.head() {
		t.Errorf("then came revision %d, the head is %d", c.Revision(), r.head().Revision())
	}
	select {
	case c := <-sub.C:
		t.Errorf("a backlog came: revision %d", c.Revision())
	default:
	}
	sub.Close()
	r.commit(pool("last"))
	select {
	case c := <-sub.C:
		t.Errorf("after Close came revision %d", c.Revision())
	default:
	}
	if _, err := r.Subscribe("nonsense"); r.refused(err) != state.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestClustersComeAndGo(t *testing.T) {
	r := fresh(t)
	ctx := context.Background()
	list := r.SubscribeClusters()
	defer list.Close()
	want := func(ids ...string) {
		t.Helper()
		if got := <-list.C; !slices.Equal(got, ids) {
			t.Errorf("clusters: %v, want %v", got, ids)
		}
	}
	want("default")
	if _, err := r.CreateCluster(ctx, "two", nil, Request{Author: "alice"}); err != nil {
		t.Fatal(err)
	}
	want("default", "two")
	if _, err := r.CreateCluster(ctx, "two", nil, Request{}); r.refused(err) != state.AlreadyExists {
		t.Errorf("again: %v", err)
	}
	if _, err := r.CreateCluster(ctx, "a/b", nil, Request{}); r.refused(err) != state.Invalid {
		t.Errorf("wrong id: %v", err)
	}
	sub, err := r.Subscribe("two")
	if err != nil {
		t.Fatal(err)
	}
	<-sub.C
	if _, err := r.DeleteCluster(ctx, "two", "stale", Request{}); r.refused(err) != state.Aborted {
		t.Errorf("stale: %v", err)
	}
	if _, err := r.DeleteCluster(ctx, "two", "", Request{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-sub.C; ok {
		t.Error("the subscription to a deleted cluster goes on")
	}
	want("default")
	if _, err := r.Commit(ctx, "two", pool("p")); r.refused(err) != state.NotFound {
		t.Errorf("change of a deleted cluster: %v", err)
	}
	r = r.restart()
	res, err := r.CreateCluster(ctx, "two", nil, Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Revision.GetNumber(); got != 3 {
		t.Errorf("a new cluster of the same name begins at %d: revisions only grow", got)
	}
}

func TestVridAcrossClusters(t *testing.T) {
	r := fresh(t)
	ctx := context.Background()
	if _, err := r.CreateCluster(ctx, "two", nil, Request{}); err != nil {
		t.Fatal(err)
	}
	vip := func(address string) Request {
		return Request{Change: state.CreateVip("web", &tandemv1.Vip{Vrid: 51, Addresses: []string{address}})}
	}
	r.commit(vip("10.0.0.1/24"))
	_, err := r.Commit(ctx, "two", vip("10.0.0.2/24"))
	var se *state.Error
	if !errors.As(err, &se) || se.Reason != state.ReasonVridTaken {
		t.Errorf("got %v", err)
	}
}

func TestAtKeepsTheNewest(t *testing.T) {
	r := fresh(t)
	for i := range 70 {
		r.commit(pool(fmt.Sprint("p", i)))
	}
	head := r.head().Revision() // 71
	for _, n := range []uint64{head, head - 63} {
		if c, err := r.At(DefaultCluster, n); err != nil || c.Revision() != n || uint64(len(c.Pools())) != n-1 {
			t.Errorf("revision %d: %v, %v", n, c, err)
		}
	}
	for _, n := range []uint64{head - 64, head + 1} {
		if _, err := r.At(DefaultCluster, n); !errors.Is(err, ErrRevisionGone) {
			t.Errorf("revision %d: %v", n, err)
		}
	}
}
