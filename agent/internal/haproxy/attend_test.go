package haproxy

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	stopped := daemon.Child{PID: 7, CPU: askEvery}
	spins := daemon.Child{PID: 7, Runnable: true, CPU: askEvery}
	starves := daemon.Child{PID: 7, Runnable: true, CPU: askEvery / 10}
	for name, test := range map[string]struct {
		never bool // has it never answered
		looks []look
		want  time.Duration
	}{
		"looked at in time":               {false, []look{{10, askEvery, stopped}}, 10 * askEvery},
		"without a worker":                {false, []look{{10, askEvery, daemon.Child{}}}, 10 * askEvery},
		"never heard":                     {true, []look{{10, askEvery, stopped}}, 0},
		"looked at late by a busy agent":  {false, []look{{3, 2 * askEvery, stopped}}, 3 * askEvery},
		"an agent that was stopped":       {false, []look{{1, time.Hour, stopped}}, 0},
		"one that was stopped in between": {false, []look{{6, askEvery, stopped}, {1, time.Minute, stopped}, {1, askEvery, stopped}}, askEvery},
		"a worker that spins":             {false, []look{{10, askEvery, spins}}, 9 * askEvery},
		"one that gets no processor":      {false, []look{{11, askEvery, starves}}, askEvery},
		"one that was stopped then":       {false, []look{{11, askEvery, starves}, {7, askEvery, stopped}}, 8 * askEvery},
	} {
		now := time.Unix(1000, 0)
		s := silence{looked: now, heard: !test.never}
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
		if got := s.look(now.Add(askEvery), false, func() daemon.Child { return daemon.Child{} }); got != 0 {
			t.Errorf("%s: silent for %v after an answer", name, got)
		}
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

// toldDead is how long it may take until a hang is told: 0.9 s are measured, and on a
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
