package report

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// start starts an agent's report; the function returned ends it, as a clean
// stop does.
func start(t *testing.T, boot, path string) (r *Report, stop func()) {
	t.Helper()
	r = Open(boot, path)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return r, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// told returns the events that a session gets now, as "boot number".
func told(r *Report) (out []string) {
	for {
		_, batch := r.Next()
		if batch == nil {
			return out
		}
		for _, e := range batch.GetEvents() {
			text := fmt.Sprint(batch.GetBootId(), " ", e.GetSequence())
			if e.GetGap() > 0 {
				text += fmt.Sprint(" gap ", e.GetGap())
			}
			out = append(out, text)
		}
	}
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// What the controller does not have safe when the agent ends is told by the
// next start, before its own events and once.
func TestEventsOutliveTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.pb")
	r, stop := start(t, "a", path)
	for range 4 {
		r.Note("something")
	}
	r.Begin(nil)
	check(t, "the first start", told(r), "a 1", "a 2", "a 3", "a 4")
	stop()

	r, stop = start(t, "b", path)
	r.Note("something")
	r.Begin(&agentv1.EventAck{BootId: "a", Sequence: 2}) // it came, its ack did not
	check(t, "the second start", told(r), "a 3", "a 4", "b 1")
	r.Begin(nil) // a controller that has lost its log
	check(t, "a controller that has nothing", told(r), "a 1", "a 2", "a 3", "a 4", "b 1")
	r.Ack("a", 4)
	r.Ack("nonsense", 99)
	r.Begin(&agentv1.EventAck{BootId: "a", Sequence: 4})
	check(t, "after an ack", told(r), "b 1")
	stop()

	r, stop = start(t, "c", path)
	r.Begin(&agentv1.EventAck{BootId: "a", Sequence: 4})
	check(t, "the third start", told(r), "b 1")
	r.Note("something")
	check(t, "a new event", told(r), "c 1")
	r.Ack("c", 1<<63)
	stop()
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("with nothing waiting the file is %v, %v", info, err)
	}
	r, stop = start(t, "d", path)
	r.Note("something")
	r.Begin(&agentv1.EventAck{BootId: "c", Sequence: 1})
	check(t, "the fourth start", told(r), "d 1")
	stop()
}

// A file that the machine's end cut off counts as far as it goes.
func TestADamagedSpool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.pb")
	r, stop := start(t, "a", path)
	r.Note("one")
	r.Note("two")
	stop()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data[:len(data)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	r, stop = start(t, "b", path)
	r.Note("three")
	r.Begin(nil)
	check(t, "events", told(r), "a 1", "b 1", "b 2") // b 1 tells of the damage
	stop()
	r, stop = start(t, "c", path)
	r.Begin(nil)
	check(t, "events of the next start", told(r), "a 1", "b 1", "b 2")
	stop()
}

// The spool is bounded in bytes, in memory and on disk, and what it drops is a
// gap, also across starts of the agent.
func TestSpoolIsBoundedInBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.pb")
	note := strings.Repeat("x", maxWords)
	r, stop := start(t, "a", path)
	for range 2 * maxSpoolBytes / maxWords {
		r.Note(note)
	}
	if got := r.spool.bytes; got > maxSpoolBytes || got < maxSpoolBytes/2 {
		t.Errorf("the spool has %d bytes, want at most %d", got, maxSpoolBytes)
	}
	last := r.spool.last
	stop()
	r, stop = start(t, "b", path)
	kept := len(r.spool.waiting)
	for range 2 * maxSpoolBytes / maxWords {
		r.Note(note)
	}
	r.Begin(&agentv1.EventAck{BootId: "a", Sequence: last - uint64(kept)})
	all := told(r)
	waiting := len(all) - 1
	gap := fmt.Sprintf("b %d gap %d", int(r.spool.last)-waiting, kept+int(r.spool.last)-waiting)
	check(t, "the first", all[:1], gap)
	stop()
	if info, err := os.Stat(path); err != nil || info.Size() > maxFile+maxSpoolBytes {
		t.Errorf("the file is %v, %v", info, err)
	}
	r, stop = start(t, "c", path)
	r.Begin(nil)
	if all := told(r); len(all) != waiting+1 {
		t.Errorf("the next start has %d events, want the same %d", len(all)-1, waiting)
	}
	stop()
}

// A disk that takes nothing is a problem of the node; the file is whole again
// when it does.
func TestSpoolThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	path := filepath.Join(dir, "events.pb")
	synctest.Test(t, func(t *testing.T) {
		r, stop := start(t, "a", path)
		r.Note("one")
		synctest.Wait()
		r.Begin(nil)
		o, _ := r.Next()
		if p := o.GetProblems().GetProblems(); len(p) != 1 || !strings.Contains(p[0], "events.pb") {
			t.Errorf("problems %v, want one about the file", p)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		<-time.After(retryKeep)
		synctest.Wait()
		if o, _ := r.Next(); o.GetProblems() == nil || len(o.GetProblems().GetProblems()) != 0 {
			t.Errorf("the problem outlives its cause: %v", o)
		}
		r.Note("two")
		stop()
	})
	r, stop := start(t, "b", path)
	r.Begin(nil)
	check(t, "events", told(r), "a 1", "a 2")
	stop()
}

// One word of a daemon that is no text must not keep all messages from being
// sent.
func TestWordsAreText(t *testing.T) {
	r := New("boot")
	bad := "\xff" + strings.Repeat("é", maxWords)
	r.HAProxy(&agentv1.DaemonObservation{State: 1, Message: bad})
	r.Keepalived(&agentv1.DaemonObservation{State: 1, Version: bad})
	r.Backend(&agentv1.BackendObservation{Pool: "p", Backend: "b", State: 1, Reason: bad})
	r.Problem("p", bad)
	r.Note(bad)
	o, events := r.Next()
	for _, m := range []proto.Message{o, events} {
		if data, err := proto.Marshal(m); err != nil || len(data) > 5*maxWords {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
}

// A disk that cannot be read is told, and keeps no event from being told.
func TestAFileThatCannotBeReadIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.pb")
	if err := os.Symlink(path, path); err != nil { // whoever opens it gets ELOOP
		t.Fatal(err)
	}
	r, stop := start(t, "a", path)
	r.Note("something")
	r.Begin(nil)
	check(t, "told", told(r), "a 1", "a 2")
	stop()
	r, stop = start(t, "b", path)
	defer stop()
	r.Begin(nil)
	check(t, "kept", told(r), "a 1", "a 2")
}
