package haproxy

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// worker gives the newest worker a command, as a stranger would.
func (r *rig) worker(command string) string {
	r.t.Helper()
	c, err := net.Dial("unix", r.driver.paths.stats)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	text, err := io.ReadAll(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func TestObservation(t *testing.T) {
	r := newRig(t)
	web1, web2 := newWeb(t, "web1"), newWeb(t, "web2")
	c := r.config(web1.backend(1), web2.backend(2))
	c.Backends[0].Check.Interval = durationpb.New(50 * time.Millisecond)
	r.apply(c)
	eventually(t, "both are up", func() bool { return r.server("web1").State == Up && r.server("web2").State == Up })
	logged := r.heard()
	web2.sick.Store(true)
	eventually(t, "web2 is down", func() bool { return r.server("web2").State == Down })
	if got := r.server("web2"); !strings.Contains(got.Reason, "503") || time.Since(got.Since) > time.Minute {
		t.Errorf("%+v", got)
	}
	web2.sick.Store(false)
	eventually(t, "web2 is up", func() bool { return r.server("web2").State == Up })
	if r.heard() < logged+2 {
		t.Error("that was not told by the log")
	}
	// A stranger's hand is seen, also where the log says nothing of it.
	r.worker("set weight pool/web1 3")
	eventually(t, "the weight is seen", func() bool { return r.server("web1").Weight == 3 })
	r.worker("set server pool/web1 state maint")
	eventually(t, "maintenance is seen", func() bool { return r.server("web1").State == Maintenance })
	// And undone by the next apply, also when it comes before the next poll.
	for _, command := range []string{"show info", "set weight pool/web2 77", "set server pool/web2 state maint"} {
		r.worker(command)
		if result := r.apply(c); result.Reloaded || result.Operations > 1 {
			t.Errorf("%+v", result)
		}
	}
}

// heard counts what the log said.
func (r *rig) heard() uint64 { return r.driver.board.now() }

// While someone else reloads HAProxy it answers nobody for a moment, and is not
// dead for that.
func TestForeignReloadIsNoDeath(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	for range 10 {
		before := r.processes()
		if _, err := r.driver.client.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the reload is done", func() bool {
			r.driver.kick <- struct{}{} // a poll as often as can be
			found, err := r.driver.client.Processes(t.Context())
			return err == nil && len(found.Workers) > 0 && hasNew(before, found)
		})
	}
	if result := r.apply(c); result.Reloaded || result.Operations != 0 {
		t.Errorf("%+v", result)
	}
	if told := r.toldDead(); told != "" {
		t.Errorf("told dead: %s", told)
	}
}

// toldDead is with which words HAProxy was told dead; empty: it was not.
func (r *rig) toldDead() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if change, ok := e.(DaemonChanged); ok && change.State == Stopped {
			return change.Message
		}
	}
	return ""
}

// A master with much to read is silent for seconds while its worker serves, and may
// be so while one worker gives way to the next.
func TestSilentMasterIsNoDeathWhileAWorkerServes(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	found := r.processes()
	send := func(pid int, sig unix.Signal) {
		if err := unix.Kill(pid, sig); err != nil {
			t.Error(err)
		}
	}
	master, worker := found.Master.PID, found.Workers[0].PID
	t.Cleanup(func() { send(worker, unix.SIGCONT); send(master, unix.SIGCONT) })
	send(master, unix.SIGSTOP)
	poll := func(during time.Duration) {
		for end := time.After(during); ; {
			select {
			case <-end:
				return
			case r.driver.kick <- struct{}{}:
			}
		}
	}
	poll(pollInterval + answerTimeout + 2*grace)
	stats := r.driver.paths.stats
	for range 8 {
		if err := os.Rename(stats, stats+".away"); err != nil {
			t.Fatal(err)
		}
		poll(grace / 2)
		if err := os.Rename(stats+".away", stats); err != nil {
			t.Fatal(err)
		}
		poll(grace / 4)
	}
	if told := r.toldDead(); told != "" {
		t.Errorf("told dead: %s", told)
	}
	if got := r.get(); got != "web1" {
		t.Errorf("got %q", got)
	}
	send(worker, unix.SIGSTOP)
	eventually(t, "it is told that nobody answers", func() bool { return r.toldDead() != "" })
	send(worker, unix.SIGCONT)
	send(master, unix.SIGCONT)
	eventually(t, "it runs again", func() bool { return r.driver.Snapshot().State == Running })
}

// HAProxy runs for months, and so its output must not grow for ever.
func TestOutputIsCutWhileHAProxyRuns(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	log := r.driver.paths.log
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, maxLog)); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	eventually(t, "the output is cut", func() bool { return size() < maxLog })
	before := size()
	r.apply(with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries++ })) // a reload
	if after := size(); after <= before {
		t.Errorf("%d bytes after a reload, and %d before", after, before)
	}
}

// A list that says what it said before changes nothing, and so nothing is done about it.
// What the log has told wrongly, since a line of it was lost, it puts right.
func TestAnUnchangedList(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	eventually(t, "it is up", func() bool { return r.server("web1").State == Up })
	for range 3 {
		eventually(t, "looks leave the board alone", func() bool {
			before := r.driver.board.sets()
			r.polled()
			return r.driver.board.sets() == before
		})
		lost := runtime.Event{Key: config.Key{Backend: "pool", Name: "web1"}, Kind: runtime.EventDown}
		if !r.driver.board.hear(lost, time.Now()) {
			t.Fatal("nobody knows the server")
		}
		if r.server("web1").State != Down {
			t.Fatal("the log is not believed")
		}
		eventually(t, "it is up again", func() bool { return r.server("web1").State == Up })
	}
}

// sets is how often what was read was put on the board.
func (b *board) sets() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.round
}

// polled has the driver look.
func (r *rig) polled() {
	for range 3 { // of which the last one may wait
		r.driver.kick <- struct{}{}
	}
}
