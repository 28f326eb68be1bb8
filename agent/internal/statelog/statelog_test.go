package statelog

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log", "keepalived-state.log")
		l := New(logfile.Options{Path: path, MaxSize: 1 << 20, Keep: 1}, func(text string) {
			if text != "" {
				t.Error(text)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		at := time.Date(2026, 11, 6, 4, 27, 40, 0, time.UTC)
		for _, step := range []keepalived.Transition{
			{Name: "web", VIP: "web", State: keepalived.InstanceMaster, Priority: 230},
			{Name: "web-v6", VIP: "web", State: keepalived.InstanceBackup, Priority: 130, Reason: "HAProxy does not work"},
			{Name: "web", VIP: "web", State: keepalived.InstanceFault, Reason: "interface eth0\nis down"},
			{Name: "web", VIP: "web", State: keepalived.InstanceInit},
			{Name: "web", State: keepalived.InstanceMaster, Priority: 220, Reason: "while the agent was down"},
			{Name: "web", VIP: "web", State: "strange"},
		} {
			l.Transition(&step, at)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := `: Agent started
Fri Nov  6 04:27:40 UTC 2026: Became MASTER: VIP web, priority 230
Fri Nov  6 04:27:40 UTC 2026: Became BACKUP: instance web-v6 of VIP web, priority 130: HAProxy does not work
Fri Nov  6 04:27:40 UTC 2026: Fault detected: VIP web: interface eth0 is down
Fri Nov  6 04:27:40 UTC 2026: Stopped: VIP web
Fri Nov  6 04:27:40 UTC 2026: Became MASTER: instance web, priority 220: while the agent was down
Fri Nov  6 04:27:40 UTC 2026: Unknown state: STRANGE: VIP web
`
		got := read(t, path)
		if begin := strings.Index(got, ": Agent started"); begin < 0 || !strings.HasPrefix(got[begin:], want) || !strings.HasSuffix(got, ": Agent stopped\n") {
			t.Errorf("%s", got)
		}
	})
}

// Lines wait for a disk that takes none, without anybody waiting for them.
func TestDiskThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keepalived-state.log")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		var told atomic.Value
		told.Store("")
		l := New(logfile.Options{Path: path, MaxSize: 1 << 20, Keep: 1}, func(text string) { told.Store(text) })
		go func() { _ = l.Run(t.Context()) }()
		for range 3 * maxWaiting {
			l.Note("x", time.Now())
		}
		synctest.Wait()
		if said := told.Load().(string); !strings.Contains(said, path) {
			t.Errorf("told %q", said)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * retryEvery) // by the clock of the test
		synctest.Wait()
		said := told.Load()
		if n := strings.Count(read(t, path), "\n"); n < maxWaiting || n > 2*maxWaiting+1 || said != "" {
			t.Errorf("%d lines, told %q", n, said)
		}
	})
}
