package scenarios

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// With the controller's disk full nothing is acknowledged that is not durable:
// changes are refused with a reason, reads and sessions go on, a controller even
// starts, events wait, and all goes on once there is space again.
func TestControllerDiskFull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	s.under(ctx, steady, func() {
		s.onSmallDisk(ctx)
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "7")
		fill := filepath.Join(s.Controller.DataDir(), "fill")
		// dd fails when the disk is full, as it shall.
		s.inController(ctx, "sh", "-c", "dd if=/dev/zero of="+fill+" bs=4k 2>/dev/null; [ -s "+fill+" ]")

		s.refusedForSpace(ctx)
		s.lbctlRefusedForSpace(ctx)
		last := s.head(ctx)
		if text := s.lbctl(ctx, "status"); strings.Contains(text, "NODE_DISCONNECTED") {
			t.Errorf("sessions do not go on:\n%s", text)
		}
		// What was acknowledged is there after a kill, and no more.
		if err := s.Controller.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Controller.Start(ctx); err != nil {
			t.Fatalf("a controller does not start on a full disk: %v", err)
		}
		if got := s.head(ctx); got != last {
			t.Errorf("the head is %d after a kill, the last acknowledged revision was %d", got, last)
		}
		s.healthy(ctx)
		last = s.refusedForSpace(ctx)
		s.inController(ctx, "rm", fill)
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "9")
		if got := s.head(ctx); got != last+1 {
			t.Errorf("the head is %d, want the one after %d", got, last)
		}
		s.until(10*time.Second, "the event of the new revision", func(ctx context.Context) error {
			list, err := s.events.ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: "clusters/default", PageSize: 1000})
			if err != nil {
				return err
			}
			for _, e := range list.GetEvents() {
				if e.GetReason() == "CONFIG_CHANGED" && e.GetRevision() == last+1 {
					return nil
				}
			}
			return errors.New("it is not in the log")
		})
		s.healthy(ctx)
		for _, node := range clustertest.Both {
			s.until(5*time.Second, node+" with its file in step", func(ctx context.Context) error { return s.agrees(ctx, node) })
		}
	})
}

// onSmallDisk moves the controller's data to a file system of their own.
func (s *site) onSmallDisk(ctx context.Context) {
	s.t.Helper()
	if err := s.Controller.Stop(10 * time.Second); err != nil {
		s.t.Fatal(err)
	}
	data := s.Controller.DataDir()
	// The test sees the old directory, whose CA and token are the same.
	s.inController(ctx, "sh", "-c", "cp -a "+data+" "+data+".own && mount -t tmpfs -o size=24m,mode=0700 tmpfs "+data+
		" && cp -a --sparse=always "+data+".own/. "+data)
	if err := s.Controller.Start(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// refusedForSpace makes changes until one is refused for want of space, and
// returns the last revision that was acknowledged.
func (s *site) refusedForSpace(ctx context.Context) uint64 {
	s.t.Helper()
	last := s.head(ctx)
	for n := range uint32(2000) {
		weight := n%200 + 1
		_, err := s.config.UpdateBackend(ctx, weighing("web2", weight))
		if err == nil {
			if now := s.head(ctx); now > last {
				last = now
			}
			continue
		}
		if !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "Unavailable") {
			s.t.Errorf("refused by %v", err)
		}
		if now := s.head(ctx); now != last {
			s.t.Errorf("the head is %d after a refused change, was %d", now, last)
		}
		return last
	}
	s.t.Fatal("2000 changes on a full disk")
	return 0
}

// lbctlRefusedForSpace types changes until one is refused: what a refused one
// has taken may be enough for a smaller one.
func (s *site) lbctlRefusedForSpace(ctx context.Context) {
	s.t.Helper()
	for n := range 50 {
		_, err := s.Lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", strconv.Itoa(100+n), "--no-wait")
		if err == nil {
			continue
		}
		var failed *cluster.CommandError
		for _, words := range []string{"no space left on device", "[STORE_NOT_WRITABLE]", "free space on the controller's disk"} {
			if !errors.As(err, &failed) || failed.Code != 1 || !strings.Contains(failed.Stderr, words) {
				s.t.Errorf("lbctl is refused by %v; want code 1 and %q", err, words)
			}
		}
		return
	}
	s.t.Error("50 changes on a full disk")
}

// inController runs a command on the controller's host.
func (s *site) inController(ctx context.Context, args ...string) {
	s.t.Helper()
	if out, err := s.Controller.Host.Command(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %v: %s", args, err, out)
	}
}
