package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/controlplane/internal/disktest"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// commitOn makes a store and revisions in a directory, whose calls go through
// judge, and tells acknowledged of each.
func commitOn(t *testing.T, dir string, judge disktest.Judge, revisions uint64, acknowledged func(uint64)) {
	t.Helper()
	disktest.Run(t, dir, judge, func() {
		s, err := Open(filepath.Join(dir, "store.db"), Options{KeepRevisions: 5})
		if err != nil {
			t.Error(err)
			return
		}
		for base := range revisions {
			if err := s.Commit(context.Background(), []store.Commit{after(base)}); err != nil {
				t.Error(err)
			}
			acknowledged(base + 1)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// checkLoss tells what is wrong with a store after a loss of power.
func checkLoss(dir string, acknowledged uint64) (err error) {
	defer func() {
		if r := recover(); r != nil { // bbolt's way to say that a file is damaged
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	path := filepath.Join(dir, "store.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && acknowledged == 0 {
		return nil
	}
	head, err := whole(path)
	if err == nil && head != acknowledged && head != acknowledged+1 {
		err = fmt.Errorf("the head is %d", head)
	}
	return err
}

// TestI2PowerLost cuts the power after every call that the store makes of the
// disk: what was acknowledged is there, and what was not is absent or whole.
func TestI2PowerLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir, calls := t.TempDir(), &disktest.Recorder{}
	commitOn(t, dir, calls.Record, 12, calls.Mark)
	played, err := calls.PowerLosses(t, rand.New(rand.NewPCG(seed, 0)), 6, checkLoss)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d losses of power", played)
	if played < 500 {
		t.Errorf("only %d losses of power: the calls were not seen", played)
	}
}

// TestPowerLossNeedsEverySync holds that the test above finds each sync that is
// missing: a transaction syncs what it wrote, then the page that refers to it.
func TestPowerLossNeedsEverySync(t *testing.T) {
	for nth, name := range []string{"data", "meta"} {
		t.Run(name, func(t *testing.T) {
			dir, calls, syncs := t.TempDir(), &disktest.Recorder{}, 0
			var begun atomic.Bool   // the store is made
			var written atomic.Bool // since the file was last synced
			commitOn(t, dir, func(c disktest.Call) error {
				if c.Op == disktest.Write {
					written.Store(true)
				}
				if !begun.Load() || c.Op != disktest.Sync || !written.Load() {
					return calls.Record(c)
				}
				written.Store(false)
				if syncs++; (syncs-1)%2 != nth {
					return calls.Record(c)
				}
				return disktest.Skip
			}, 12, func(revision uint64) {
				calls.Mark(revision)
				begun.Store(true)
				written.Store(false)
			})
			if _, err := calls.PowerLosses(t, rand.New(rand.NewPCG(1, 0)), 6, checkLoss); err == nil {
				t.Errorf("without the sync of %s nothing is lost", name)
			} else {
				t.Log(err)
			}
		})
	}
}

// TestSettlesAfterAFailedSync fails the sync that ends a transaction: the change
// is refused, and what is read after Settle is durable, as later changes are.
func TestSettlesAfterAFailedSync(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, failing := range []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS} {
		for nth := 1; nth <= 2; nth++ {
			t.Run(fmt.Sprintf("%v/%d", failing, nth), func(t *testing.T) {
				dir, calls := t.TempDir(), &disktest.Recorder{}
				var fail atomic.Int64 // the sync that fails, counted from now
				ctx := context.Background()
				disktest.Run(t, dir, func(c disktest.Call) error {
					if c.Op == disktest.Sync && fail.Load() > 0 && fail.Add(-1) == 0 {
						return calls.Fail(c, failing)
					}
					return calls.Record(c)
				}, func() {
					s, err := Open(filepath.Join(dir, "store.db"), Options{})
					if err != nil {
						t.Error(err)
						return
					}
					defer s.Close()
					commit := func(base uint64) error { return s.Commit(ctx, []store.Commit{after(base)}) }
					for base := range uint64(3) {
						if err := commit(base); err != nil {
							t.Error(err)
						}
						calls.Mark(base + 1)
					}
					fail.Store(int64(nth))
					if err := commit(3); !errors.Is(err, store.ErrNotWritable) || !errors.Is(err, failing) {
						t.Errorf("got %v", err)
					}
					if err := s.Settle(ctx); err != nil {
						t.Error(err)
					}
					heads, err := s.Heads(ctx)
					if err != nil || heads[0].Revision < 3 || heads[0].Revision > 4 {
						t.Errorf("heads are %v, %v", heads, err)
						return
					}
					calls.Mark(heads[0].Revision)
					for base := heads[0].Revision; base < 8; base++ {
						if err := commit(base); err != nil {
							t.Error(err)
						}
						calls.Mark(base + 1)
					}
				})
				if _, err := calls.PowerLosses(t, rand.New(rand.NewPCG(seed, 0)), 1, checkLoss); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
