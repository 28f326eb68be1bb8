package keepalived

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// Only a keepalived that could go on and does not stands still.
func TestStillness(t *testing.T) {
	const patience = 4 * lookEvery
	type look struct {
		times int
		every time.Duration
		is    daemon.Pulse // its Switches are those of the last look and these
		asked time.Duration
	}
	sleeps := daemon.Pulse{PID: 7}
	wakes := daemon.Pulse{PID: 7, Switches: 1}
	waits := daemon.Pulse{PID: 7, Runnable: true}
	stopped := daemon.Pulse{PID: 7, Stopped: true}
	none := daemon.Pulse{}
	for name, test := range map[string]struct {
		looks []look
		want  verdict
	}{
		"it wakes":                           {[]look{{20, lookEvery, wakes, 0}}, alive},
		"it sleeps for less than anybody":    {[]look{{4, lookEvery, sleeps, 0}}, alive},
		"it sleeps on":                       {[]look{{5, lookEvery, sleeps, 0}}, doubtful},
		"it does not answer":                 {[]look{{5, lookEvery, sleeps, 0}, {0, 0, sleeps, answerTime}, {1, lookEvery, sleeps, 0}}, hung},
		"it answers":                         {[]look{{5, lookEvery, sleeps, 0}, {0, 0, sleeps, answerTime}, {1, lookEvery, wakes, 0}}, alive},
		"it is stopped for less":             {[]look{{4, lookEvery, stopped, 0}}, alive},
		"it is stopped":                      {[]look{{5, lookEvery, stopped, 0}}, hung},
		"it has no processor":                {[]look{{50, lookEvery, waits, 0}}, alive},
		"it has not begun":                   {[]look{{50, lookEvery, daemon.Pulse{}, 0}}, alive},
		"it has ended and begins again":      {[]look{{1, lookEvery, wakes, 0}, {4, lookEvery, none, 0}, {1, lookEvery, daemon.Pulse{PID: 8}, 0}}, alive},
		"it has ended":                       {[]look{{1, lookEvery, waits, 0}, {5, lookEvery, none, 0}}, hung},
		"it has ended, the agent was paused": {[]look{{1, lookEvery, wakes, 0}, {1, time.Minute, none, 0}}, alive},
		"the agent is busy":                  {[]look{{5, 2 * lookEvery, sleeps, 0}}, doubtful},
		"the agent looks late":               {[]look{{2, 2 * lookEvery, sleeps, 0}}, alive},
		"the agent was paused with it":       {[]look{{4, lookEvery, stopped, 0}, {1, time.Minute, stopped, 0}, {3, lookEvery, stopped, 0}}, alive},
		"both were paused while it is asked": {[]look{{5, lookEvery, sleeps, 0}, {0, 0, sleeps, time.Minute}, {4, lookEvery, sleeps, 0}}, alive},
		"another one":                        {[]look{{5, lookEvery, sleeps, 0}, {1, lookEvery, daemon.Pulse{PID: 8}, 0}}, alive},
	} {
		now := time.Unix(1000, 0)
		var s stillness
		var switches uint64
		got := alive
		for _, l := range test.looks {
			for range l.times {
				now = now.Add(l.every)
				switches += l.is.Switches
				is := l.is
				is.Switches = switches
				got = s.look(now, is, patience)
			}
			if l.asked > 0 {
				began := now
				now = now.Add(l.asked)
				s.ask(began, now)
			}
		}
		if got != test.want {
			t.Errorf("%s: verdict %v, want %v", name, got, test.want)
		}
	}
}

// A keepalived that has nothing to take sleeps, and is not woken all the time.
func TestWhoIsAttendedTo(t *testing.T) {
	peered := func(state InstanceState) watched {
		return watched{instance: instance{peered: true, advert: 100 * time.Millisecond}, InstanceStatus: InstanceStatus{State: state}}
	}
	alone := peered(InstanceMaster)
	alone.peered = false
	for name, test := range map[string]struct {
		watched []watched
		want    time.Duration // 0: nobody
	}{
		"a holder":                       {[]watched{peered(InstanceMaster)}, 400 * time.Millisecond},
		"a standby":                      {[]watched{peered(InstanceBackup)}, 400 * time.Millisecond},
		"one that has said nothing":      {[]watched{peered(InstanceUnknown)}, 400 * time.Millisecond},
		"one in fault":                   {[]watched{peered(InstanceFault)}, resyncEvery},
		"one in fault and a standby":     {[]watched{peered(InstanceFault), peered(InstanceBackup)}, 400 * time.Millisecond},
		"one in fault and one alone":     {[]watched{peered(InstanceFault), alone}, resyncEvery},
		"one without a peer":             {[]watched{alone}, 0},
		"one without anything to be for": {nil, 0},
	} {
		o := &observer{process: &daemon.Process{}, watched: test.watched}
		o.attend()
		var got time.Duration
		if s := o.subject.Load(); s != nil {
			got = s.patience
		}
		if got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	// Whoever comes out of it is attended to at once.
	o := &observer{
		log: hclog.NewNullLogger(), process: &daemon.Process{}, watched: []watched{peered(InstanceFault)},
		scores: &scores{dir: t.TempDir(), written: make(map[string]int)},
	}
	o.change(&o.watched[0], InstanceBackup, 200, time.Now())
	if s := o.subject.Load(); s == nil || s.patience != 400*time.Millisecond {
		t.Errorf("one that comes out of fault: %+v", s)
	}
}

// freezer makes a control group whose processes get no turn while a file of it has a text.
// The kernel does not let those of version 1 end before they thaw; those of version 2, all
// that a newer machine has, it does.
func freezer(t *testing.T, name string) (dir, file, frozen, thawed string) {
	t.Helper()
	dir = filepath.Join("/sys/fs/cgroup/freezer", name)
	if os.Mkdir(dir, 0o755) == nil {
		return dir, "freezer.state", "FROZEN", "THAWED"
	}
	mounted := t.TempDir()
	if err := unix.Mount("none", mounted, "cgroup2", 0, ""); err != nil {
		t.Fatalf("neither a control group freezer of version 1 nor control groups of version 2: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	})
	dir = filepath.Join(mounted, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, "cgroup.freeze", "1", "0"
}

// freeze has the kernel give processes no turn until thaw, by a control group; they are
// not stopped by a signal.
func freeze(t *testing.T, pids ...int) (thaw func()) {
	t.Helper()
	dir, file, frozen, thawed := freezer(t, "tdm-ka-"+strconv.Itoa(pids[0]))
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	for _, pid := range pids {
		write("cgroup.procs", strconv.Itoa(pid))
	}
	write(file, frozen)
	var done bool
	thaw = func() {
		t.Helper()
		if done {
			return
		}
		done = true
		write(file, thawed)
		within(t, 5*time.Second, "its processes have ended", func() bool { return os.Remove(dir) == nil })
	}
	t.Cleanup(thaw)
	return thaw
}

// I7: a keepalived that hangs keeps no VIP that its peer has taken, and another one is
// there soon.
func TestI7AHungKeepalivedIsReplaced(t *testing.T) {
	t.Parallel()
	child := func(pids []int) []int { return pids[1:] }
	all := func(pids []int) []int { return pids }
	stop := func(t *testing.T, pids []int) func() {
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		return func() {}
	}
	for name, test := range map[string]struct {
		hang func(*testing.T, []int) (end func())
		of   func([]int) []int
	}{
		"all stopped":       {stop, all},
		"the child stopped": {stop, child},
		"all without turns": {func(t *testing.T, pids []int) func() { return freeze(t, pids...) }, all},
		"the child without": {func(t *testing.T, pids []int) func() { return freeze(t, pids...) }, child},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newCluster(t)
			old := a.keepalived()
			if len(old) != 2 {
				t.Fatalf("keepalived has the processes %v", old)
			}
			end := test.hang(t, test.of(old))
			alone := within(t, 10*time.Second, "the peer holds the VIP alone", func() bool { return b.has("10.9.0.100") && !a.has("10.9.0.100") })
			end()
			within(t, 10*time.Second, "keepalived is replaced", func() bool {
				now := a.keepalived()
				return len(now) == 2 && now[0] != old[0]
			})
			waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
			t.Logf("the peer held it alone after %v", alone)
			for _, pid := range old {
				within(t, 5*time.Second, "the old one is gone", func() bool { return !isKeepalived(pid) })
			}
			if !slices.ContainsFunc(a.seen(), func(e Event) bool { return strings.Contains(e.Note, "keepalived hangs") }) {
				t.Error("nobody was told")
			}
		})
	}
}

// I7: keepalived waits before it starts a VRRP process again that has ended twice in a
// minute. It keeps no VIP meanwhile that its peer has taken.
func TestI7AKeepalivedWithoutItsVRRPProcessIsReplaced(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	old := a.keepalived()
	for range 2 {
		before := a.keepalived()
		if len(before) != 2 {
			t.Fatalf("keepalived has the processes %v", before)
		}
		if err := unix.Kill(before[1], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		again := within(t, 5*time.Second, "another VRRP process is there", func() bool {
			now := a.keepalived()
			return len(now) == 2 && now[1] != before[1]
		})
		t.Logf("another VRRP process was there after %v", again)
	}
	within(t, 5*time.Second, "one node holds the VIP", func() bool { return a.has("10.9.0.100") != b.has("10.9.0.100") })
	if now := a.keepalived(); now[0] == old[0] {
		t.Error("keepalived was not replaced")
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", a, b)
	if !slices.ContainsFunc(a.seen(), func(e Event) bool { return strings.Contains(e.Note, "its VRRP process has ended") }) {
		t.Error("nobody was told")
	}
}

// A keepalived that hangs alone keeps what nobody else can have.
func TestALoneHungKeepalivedKeepsItsVIP(t *testing.T) {
	t.Parallel()
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	c := web(a.name, 230)
	c.Global.Peers = nil
	a.setHealth(true)
	a.mustApply(c)
	within(t, 5*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") })
	old := a.keepalived()
	a.signal(unix.SIGSTOP)
	stopped := time.Now()
	within(t, 5*time.Second, "a while has passed", func() bool {
		if !a.has("10.9.0.100") || !slices.Equal(a.keepalived(), old) {
			t.Fatal("it was killed")
		}
		return time.Since(stopped) > 1500*time.Millisecond
	})
}

// Nobody can ask a keepalived while its next configuration is checked. One that has
// nothing to do meanwhile does not hang.
func TestAKeepalivedThatNobodyAsksIsNotKilled(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	b.restartAgent(func(o *Options) {
		o.Binary = executable(t, `case "$*" in *--config-test*) sleep 7;; esac; exec keepalived "$@"`)
	})
	b.setHealth(true)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		n.mustApply(webOf(n.name, priority, 50*time.Millisecond))
	}
	old := b.keepalived()
	ip(t, "-n", b.namespace, "link", "set", "eth0", "down")
	within(t, 5*time.Second, "it has nothing to do", func() bool { return b.instance("web").State == InstanceFault })
	b.mustApply(webOf(b.name, 210, 50*time.Millisecond)) // which takes longer than it may sleep
	if now := b.keepalived(); !slices.Equal(now, old) {
		t.Errorf("its processes are %v, and were %v", now, old)
	}
	if slices.ContainsFunc(b.seen(), func(e Event) bool { return strings.Contains(e.Note, "keepalived hangs") }) {
		t.Error("it is said to hang")
	}
}
