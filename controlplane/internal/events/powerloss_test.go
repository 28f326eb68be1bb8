package events

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
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/controlplane/internal/disktest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// writeOn runs a log in a directory, whose calls go through judge, and appends
// n events one after the other; acknowledged hears of each that is on disk.
func writeOn(t *testing.T, dir string, judge disktest.Judge, n uint64, acknowledged func(uint64)) {
	t.Helper()
	disktest.Run(t, dir, judge, func() {
		l, err := Open(filepath.Join(dir, "events.db"), Options{})
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var next func(uint64)
		next = func(i uint64) {
			l.AppendFrom("default", Source{"n", Position{"b", i}}, &tandemv1.Event{Message: fmt.Sprint(i)}, func() {
				acknowledged(i)
				if i == n {
					cancel()
					return
				}
				next(i + 1)
			})
		}
		next(1)
		if err := errors.Join(l.Run(ctx), l.Close()); err != nil {
			t.Error(err)
		}
	})
}

func checkLoss(dir string, acknowledged uint64) error {
	path := filepath.Join(dir, "events.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && acknowledged == 0 {
		return nil
	}
	l, err := Open(path, Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	list, err := l.List("default", 0, 100)
	if err == nil && uint64(len(list)) != acknowledged && uint64(len(list)) != acknowledged+1 {
		err = fmt.Errorf("%d events", len(list))
	}
	return err
}

// An event that was acknowledged to an agent is there after a loss of power.
func TestPowerLost(t *testing.T) {
	dir, calls := t.TempDir(), &disktest.Recorder{}
	writeOn(t, dir, calls.Record, 8, calls.Mark)
	played, err := calls.PowerLosses(t, rand.New(rand.NewPCG(1, 0)), 3, checkLoss)
	if err != nil || played < 100 {
		t.Errorf("%d losses of power: %v", played, err)
	}
}

// While the disk is full events wait, none is acknowledged, and all are written
// once there is room again.
func TestDiskIsFullForAWhile(t *testing.T) {
	dir := t.TempDir()
	full, refused := atomic.Bool{}, 0
	early := false
	writeOn(t, dir, func(c disktest.Call) error {
		if full.Load() && c.Op == disktest.Write {
			if refused++; refused == 2 {
				full.Store(false)
			}
			return unix.ENOSPC
		}
		return nil
	}, 8, func(i uint64) {
		early = early || full.Load()
		full.Store(i == 4)
	})
	if refused != 2 || early {
		t.Errorf("%d writes refused, acknowledged meanwhile: %v", refused, early)
	}
	if err := checkLoss(dir, 8); err != nil {
		t.Error(err)
	}
}
