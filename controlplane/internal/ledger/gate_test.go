package ledger

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

// A restored store takes no change before an operator's word, says so over a
// restart, and goes on from its revision in a new epoch.
func TestRestoredStoreWaitsForAnOperator(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	r := start(t, path)
	r.commit(pool("p"))
	epoch := r.Epoch()
	r.stop()
	if _, err := bolt.Renew(t.Context(), path, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r = start(t, path)
		if _, err := r.Commit(context.Background(), DefaultCluster, pool("q")); !errors.Is(err, ErrWaiting) {
			t.Errorf("a change: %v", err)
		}
		if _, err := r.DeleteCluster(context.Background(), DefaultCluster, "", Request{}); !errors.Is(err, ErrWaiting) {
			t.Errorf("a removal: %v", err)
		}
		checked := pool("q")
		checked.ValidateOnly = true
		if _, err := r.Commit(context.Background(), DefaultCluster, checked); err != nil {
			t.Errorf("a check that changes nothing: %v", err)
		}
		if got := r.head(); got.Revision() != 2 || got.Epoch() != r.Epoch() || r.Epoch() == epoch {
			t.Errorf("revision %d of epoch %s, which was %s", got.Revision(), got.Epoch(), epoch)
		}
		select {
		case <-r.Confirmed():
			t.Error("it does not wait")
		default:
		}
		r.stop()
	}
	r = start(t, path)
	if err := r.Confirm(context.Background()); err != nil {
		t.Fatal(err)
	}
	<-r.Confirmed()
	if err := r.Confirm(context.Background()); !errors.Is(err, ErrNotWaiting) {
		t.Errorf("confirmed twice: %v", err)
	}
	if res := r.commit(pool("q")); res.Revision.GetNumber() != 3 || res.Revision.GetEpoch() != r.Epoch() {
		t.Errorf("the next revision is %v", res.Revision)
	}
	r = r.restart()
	if r.Restored() != nil {
		t.Error("it waits again")
	}
}
