package haproxy

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// The agent's own pauses are no silence of HAProxy's, nor is the time for which its
// worker waits for a processor.
func TestSilenceIsThatOfHAProxy(t *testing.T) {
	type look struct {
		times int
		every time.Duration
		child daemon.Child // its CPU grows by that with each look
	}
	stopped := daemon.Child{PID: 7, CPU: lookEvery}
	spins := daemon.Child{PID: 7, Runnable: true, CPU: lookEvery}
	starves := daemon.Child{PID: 7, Runnable: true, CPU: lookEvery / 10}
	for name, test := range map[string]struct {
		looks []look
		want  time.Duration
	}{
		"looked at in time":               {[]look{{1, askEvery, stopped}, {8, lookEvery, stopped}}, askEvery + 8*lookEvery},
		"silent between two looks":        {[]look{{10, lookEvery, stopped}}, 10 * lookEvery},
		"without a worker":                {[]look{{10, lookEvery, daemon.Child{}}}, 10 * lookEvery},
		"looked at late by a busy agent":  {[]look{{3, 3 * lookEvery, stopped}}, askEvery + 2*lookEvery},
		"an agent that was stopped":       {[]look{{1, time.Hour, stopped}}, 0},
		"one that was stopped in between": {[]look{{6, lookEvery, stopped}, {1, time.Minute, stopped}, {1, lookEvery, stopped}}, lookEvery},
		"a worker that spins":             {[]look{{10, lookEvery, spins}}, 9 * lookEvery},
		"one that gets no processor":      {[]look{{11, lookEvery, starves}}, lookEvery},
		"one that was stopped then":       {[]look{{11, lookEvery, starves}, {7, lookEvery, stopped}}, 8 * lookEvery},
	} {
		now := time.Unix(1000, 0)
		s := silence{looked: now}
		var got, cpu time.Duration
		for _, l := range test.looks {
			for range l.times {
				now = now.Add(l.every)
				cpu += l.child.CPU
				child := l.child
				child.CPU = cpu
				got = s.look(now, true, func() daemon.Child { return child })
			}
		}
		if got != test.want {
			t.Errorf("%s: silent for %v, want %v", name, got, test.want)
		}
		s.answered()
		if got := s.look(now.Add(lookEvery), false, func() daemon.Child { return daemon.Child{} }); got != 0 {
			t.Errorf("%s: silent for %v after an answer", name, got)
		}
	}
}

// A hang is told within a second, whenever it begins, be it that a look was late.
func TestAHangIsToldInTime(t *testing.T) {
	start := beat.From(time.Now())
	for _, test := range []struct {
		name          string
		child         daemon.Child
		after, within time.Duration
	}{
		{"a worker that was stopped", daemon.Child{PID: 7}, 500 * time.Millisecond, 750 * time.Millisecond},
		{"a worker that spins", daemon.Child{PID: 7, Runnable: true}, 750 * time.Millisecond, time.Second},
	} {
		for _, late := range []time.Duration{0, time.Millisecond, 70 * time.Millisecond} {
			for hangs := time.Duration(0); hangs < askEvery; hangs += time.Millisecond {
				begins := start.Add(late + hangs)
				told := hungAt(start, late, begins, test.child)
				if took := told.Sub(begins); took <= test.after-2*late-time.Millisecond || took > test.within+time.Millisecond {
					t.Errorf("%s, %v after a look that was %v late: told after %v", test.name, hangs, late, took)
				}
			}
		}
	}
}

// hungAt is when a worker is told to hang that has begun to at a time, where the first look
// is late; the others are by what a timer may be.
func hungAt(start time.Time, late time.Duration, begins time.Time, worker daemon.Child) time.Time {
	var s silence
	due, silent := start, false
	var open, last time.Time // questions: the oldest without an answer, and the last one
	for {
		now := due.Add(time.Millisecond)
		if due.Equal(start) {
			now = due.Add(late)
		}
		silent = !open.IsZero()
		child := worker
		child.CPU = now.Sub(begins) * 7 / 8 // not all of it
		length := s.look(now, silent, func() daemon.Child { return child })
		if length >= hungAfter {
			return now
		}
		if asksAgain(silent, now.Sub(last)) {
			last = now
			if now.After(begins) && open.IsZero() {
				open = now
			}
		}
		due = next(due, now, silent)
	}
}

// stopped stops processes until the function is called.
func (r *rig) stopped(pids ...int) (goOn func()) {
	r.t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			r.t.Fatal(err)
		}
	}
	goOn = func() {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGCONT) // perhaps it was killed
		}
	}
	r.t.Cleanup(goOn)
	return goOn
}

// toldDead is how long it may take until a hang is told: 0.5 to 0.75 s are measured, and on a
// busy machine the pauses of others are not counted.
const toldDead = 2 * time.Second

// toldWithin waits until HAProxy is told to be in a state.
func (r *rig) toldWithin(limit time.Duration, state State) {
	r.t.Helper()
	began := time.Now()
	eventually(r.t, "it is told", func() bool { return r.driver.Snapshot().State == state })
	if took := time.Since(began); took > limit {
		r.t.Errorf("told after %v, want %v at most", took, limit)
	}
}

// A worker that answers nobody counts as dead within a second, with and without its
// master, and as living when it goes on: it keeps its connections.
func TestAHungHAProxyCountsAsDead(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	found := r.processes()
	master, worker := found.Master.PID, found.Workers[0].PID
	for name, pids := range map[string][]int{"worker": {worker}, "master and worker": {worker, master}} {
		t.Run(name, func(t *testing.T) {
			goOn := r.stopped(pids...)
			r.toldWithin(toldDead, Stopped)
			if r.driver.Snapshot().Ended {
				t.Error("it is told to have ended")
			}
			goOn()
			eventually(t, "it runs again", func() bool { return r.driver.Snapshot().State == Running })
			if now := r.processes(); now.Master.PID != master || now.Workers[0].PID != worker {
				t.Errorf("it runs as %+v, was %d and %d", now, master, worker)
			}
		})
	}
}

// One that never goes on is replaced, and nothing of it is left: a worker that is
// stopped would keep a share of all new connections.
func TestAHungHAProxyIsReplaced(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	found := r.processes()
	r.stopped(found.Workers[0].PID, found.Master.PID)
	r.toldWithin(toldDead, Stopped)
	began := time.Now()
	eventually(t, "it runs again", func() bool { return r.driver.Snapshot().State == Running })
	if took := time.Since(began); took < replaceAfter-2*time.Second {
		t.Errorf("it was replaced after %v, want %v", took, replaceAfter)
	}
	for _, pid := range []int{found.Master.PID, found.Workers[0].PID} {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %d is left: %s", pid, stat)
		}
	}
	if got := r.answers(20); got["web1"] != 20 {
		t.Errorf("got %v", got)
	}
}

// One that hangs when the agent starts is told and replaced as well.
func TestAHAProxyThatHungBeforeTheAgentIsReplaced(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	found := r.processes()
	r.stop()
	r.stopped(found.Workers[0].PID)
	r.startDriver(Options{})
	eventually(t, "it is replaced", func() bool {
		return r.driver.Snapshot().State == Running && r.processes().Master.PID != found.Master.PID
	})
	if got := r.answers(20); got["web1"] != 20 {
		t.Errorf("got %v", got)
	}
}

// slow makes the way to the worker's socket one that takes a while, as with a worker
// that has much to do at a stretch.
func (r *rig) slow(by time.Duration) {
	r.t.Helper()
	path := r.driver.paths.stats
	if err := os.Rename(path, path+".1"); err != nil {
		r.t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { listener.Close() })
	go func() { // ends with the listener
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			time.AfterFunc(by, func() {
				defer from.Close()
				to, err := net.Dial("unix", path+".1")
				if err != nil {
					return
				}
				defer to.Close()
				text := make([]byte, 64)
				n, _ := from.Read(text)
				_, _ = to.Write(text[:n])
				n, _ = to.Read(text)
				_, _ = from.Write(text[:n])
			})
		}
	}()
}

// goesOn looks for a while that the same HAProxy runs, and is told to.
func (r *rig) goesOn(length time.Duration) {
	r.t.Helper()
	before := r.processes()
	end := time.Now().Add(length)
	eventually(r.t, "it has been looked at", func() bool {
		if now := r.driver.Snapshot(); now.State != Running {
			r.t.Fatalf("it is told to be %v: %s", now.State, now.Message)
		}
		return time.Now().After(end)
	})
	if now := r.processes(); now.Master.PID != before.Master.PID || now.Workers[0].PID != before.Workers[0].PID {
		r.t.Errorf("it runs as %+v, was %+v", now, before)
	}
}

// A HAProxy that serves is not one that hangs: neither when it is slow, nor when the
// agent cannot ask it, nor when others ask it too.
func TestASlowHAProxyIsNotReplaced(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	before := r.processes()
	const slow = hungAfter + 2*lookEvery
	r.slow(slow)
	// That it has become slow may count as a hang, once.
	settled := time.Now().Add(3 * slow)
	eventually(t, "its first answers are there", func() bool {
		return time.Now().After(settled) && r.driver.Snapshot().State == Running
	})
	r.goesOn(replaceAfter)
	if now := r.processes(); now.Master.PID != before.Master.PID {
		t.Errorf("it runs as %+v, was %+v", now, before)
	}
}

func TestAHAProxyThatCannotBeAskedIsNotHung(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	r.goesOn(time.Second) // has answered
	if err := os.Remove(r.driver.paths.stats); err != nil {
		t.Fatal(err)
	}
	r.goesOn(2 * time.Second)
}

func TestOthersMayAskHAProxy(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	for range 30 {
		session, err := net.Dial("unix", r.driver.paths.stats)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if _, err := session.Write([]byte("prompt\n")); err != nil {
			t.Fatal(err)
		}
	}
	r.goesOn(2 * time.Second)
}

// One that keeps dying is started after growing delays.
func TestACrashLoopIsSlowedDown(t *testing.T) {
	r := newRig(t)
	r.apply(r.config(newWeb(t, "web1").backend(1)))
	var took time.Duration
	for range 4 {
		pid := r.processes().Master.PID
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is told", func() bool { return r.driver.Snapshot().State == Stopped })
		eventually(t, "it runs again", func() bool { return r.driver.Snapshot().State == Running })
		took = time.Since(began)
	}
	// The first one is a second, give or take a half; the fourth is 1.7 s at least.
	if took < 1600*time.Millisecond {
		t.Errorf("the fourth start came after %v", took)
	}
}
