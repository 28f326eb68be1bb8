package keepalived

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// A holder whose proxy dies gives its VIPs up for a moment, and is a candidate
// again as soon as they are gone.
func TestADeadProxyReleasesForAMoment(t *testing.T) {
	start := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		holds     bool
		after     time.Duration
		do        func(*scores, time.Time)
		first, at int
	}{
		"a standby releases nothing":       {false, 0, func(*scores, time.Time) {}, -100, -100},
		"until keepalived has given up":    {true, 3 * time.Millisecond, func(s *scores, _ time.Time) { s.released() }, -254, -100},
		"not longer than the limit":        {true, releaseLimit, func(*scores, time.Time) {}, -254, -100},
		"until then":                       {true, releaseLimit - time.Millisecond, func(*scores, time.Time) {}, -254, -254},
		"told twice that it is dead":       {true, releaseLimit, func(s *scores, now time.Time) { s.setHealth(false, time.Time{}, true, now) }, -254, -100},
		"not when the proxy is well again": {true, time.Millisecond, func(s *scores, now time.Time) { s.setHealth(true, time.Time{}, true, now) }, -254, 0},
		"not beyond the end of keepalived": {true, time.Millisecond, func(s *scores, now time.Time) { s.forget(now) }, -254, -100},
	} {
		dir := t.TempDir()
		s, err := newScores(paths{trackDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.setHealth(true, time.Time{}, false, start)
		s.setHealth(false, time.Time{}, test.holds, start)
		if err := s.write(start); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "score"); got != test.first {
			t.Errorf("%s: begins with %d, want %d", name, got, test.first)
		}
		if due := s.next(start); test.holds != due.Equal(start.Add(releaseLimit)) {
			t.Errorf("%s: the next change is due at %v", name, due)
		}
		now := start.Add(test.after)
		test.do(s, now)
		if err := s.write(now); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "score"); got != test.at {
			t.Errorf("%s: then %d, want %d", name, got, test.at)
		}
		if s.total(now) == releaseScore {
			t.Errorf("%s: the node's score is shown as %d", name, s.total(now))
		}
	}
}

// I8: both proxies die at the same moment. Both nodes give up, and one of them has
// the VIP again.
func TestI8BothProxiesDieAtOnce(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	a.setHealth(false)
	b.setHealth(false) // the new holder perhaps, or not yet
	took := waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	t.Logf("the better node holds the VIP again after %v", took)
	for _, n := range []*node{a, b} {
		if got := n.known().Score; got != unhealthyScore {
			t.Errorf("%s: score %d, want %d", n.name, got, unhealthyScore)
		}
	}
}

// I8: an agent that dies while its node gives the VIP up leaves keepalived in
// FAULT. Whoever comes next ends that, before anything is applied.
func TestI8AReleaseOutlivesNoAgent(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	file := filepath.Join("keepalived", "track", scoreFile)
	for _, n := range []*node{b, a} {
		n.killAgent()
		if err := os.WriteFile(filepath.Join(n.options.RunDir, file), []byte("-254\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 5*time.Second, "nobody holds the VIP", func() bool { return !a.has("10.9.0.100") && !b.has("10.9.0.100") })
	a.startAgent()
	within(t, 5*time.Second, "the VIP is up", func() bool { return a.has("10.9.0.100") })
	h, err := NewHooks(b.options.StateDir, b.options.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetHealth(false); err != nil {
		t.Fatal(err)
	}
	b.startAgent()
	b.mustApply(web("lb-backup", 220))
	a.mustApply(web("lb-master", 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if got := score(t, filepath.Join(b.options.RunDir, "keepalived", "track"), scoreFile); got != unhealthyScore {
		t.Errorf("%s: score %d", b.name, got)
	}
}

// I8: an agent that ends in these milliseconds leaves no FAULT behind. A keepalived that
// does not say that it has let go makes them as long as they may be.
func TestI8AReleaseEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	a, _ := newCluster(t)
	a.signal(unix.SIGSTOP)
	a.setHealth(false)
	a.endAgent()
	if got := score(t, filepath.Join(a.options.RunDir, "keepalived", "track"), scoreFile); got != unhealthyScore {
		t.Errorf("score %d, want %d", got, unhealthyScore)
	}
}

// I8: the same of a proxy that hangs, which nobody beside the agent sees: whether the
// agent is killed or hangs in these milliseconds, a guard makes the node stand by again.
func TestI8AReleaseForAProxyThatHangsOutlivesNoAgent(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]unix.Signal{"killed": unix.SIGKILL, "hangs": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newCluster(t)
			for n, priority := range map[*node]uint32{a: 230, b: 220} {
				n.mustApply(webOf(n.name, priority, time.Second))
			}
			waitMaster(t, 20*time.Second, "web", "10.9.0.100", a, b)
			a.signal(unix.SIGSTOP)
			if err := a.stdin.Encode(request{Hung: true}); err != nil {
				t.Fatal(err)
			}
			track := filepath.Join(a.options.RunDir, "keepalived", "track")
			within(t, 5*time.Second, "the release", func() bool { return score(t, track, scoreFile) == releaseScore })
			if err := unix.Kill(a.agentPID(), sig); err != nil {
				t.Fatal(err)
			}
			took := within(t, 10*time.Second, "it stands by again", func() bool { return score(t, track, scoreFile) == unhealthyScore })
			t.Logf("it stands by again after %v", took)
			within(t, 10*time.Second, "no guard is left", func() bool { return len(a.releaseGuards()) == 0 })
			a.signal(unix.SIGCONT)
			within(t, 20*time.Second, "the VIP is with the other one", func() bool { return b.has("10.9.0.100") && !a.has("10.9.0.100") })
			b.killAgent()
			b.signal(unix.SIGKILL)
			within(t, 20*time.Second, "the VIP is where the proxy hangs", func() bool { return a.has("10.9.0.100") })
		})
	}
}

// releaseGuards are the processes that guard a release of this node.
func (n *node) releaseGuards() []int { return n.processes(releaseGuard, n.options.StateDir) }

// A proxy that hangs has the VIP given up at once, time and again, and leaves no guard.
func TestAProxyThatHangsReleasesForAMoment(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	const given = "web=fault/130(HAProxy does not work), web=backup/130"
	for round := range 2 {
		if r := a.ask(request{Hung: true}); r.Error != "" {
			t.Fatal(r.Error)
		}
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
		if got := a.steps(); strings.Count(got, given) != round+1 {
			t.Errorf("round %d: %s", round, got)
		}
		if got := a.known().Score; got != unhealthyScore {
			t.Errorf("score %d, want %d", got, unhealthyScore)
		}
		within(t, 10*time.Second, "no guard is left", func() bool { return len(a.releaseGuards()) == 0 })
		a.setHealth(true)
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	}
}

// I8: where no guard can be had the VIP is not given up at once: it leaves by the lower
// score.
func TestI8WithoutAGuardAProxyThatHangsReleasesNothing(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	a.restartAgent(withoutGuards)
	a.setHealth(true)
	a.mustApply(web(a.name, 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if r := a.ask(request{Hung: true}); r.Error != "" {
		t.Fatal(r.Error)
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", b, a)
	if got := a.steps(); strings.Contains(got, "web=fault") || !strings.HasSuffix(got, "web=backup/130(HAProxy does not work)") {
		t.Errorf("it went by %s", got)
	}
}

// Nobody waits for the guard with the lower score: one that hangs keeps no VIP.
func TestI8AGuardThatHangsKeepsNoVIP(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	a.restartAgent(func(o *Options) { o.ReleaseGuard = []string{"sleep", "60"} })
	a.setHealth(true)
	a.mustApply(web(a.name, 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if err := a.stdin.Encode(request{Hung: true}); err != nil {
		t.Fatal(err)
	}
	track := filepath.Join(a.options.RunDir, "keepalived", "track")
	took := within(t, 5*time.Second, "the lower score", func() bool { return score(t, track, scoreFile) == unhealthyScore })
	if took >= guardPatience {
		t.Errorf("the score is lower after %v only", took)
	}
	waitMaster(t, 10*time.Second, "web", "10.9.0.100", b, a)
	if got := a.steps(); strings.Contains(got, "web=fault") {
		t.Errorf("it went by %s", got)
	}
}

// Without another node that could take the VIP it stays where it is.
func TestADeadProxyReleasesNothingAlone(t *testing.T) {
	t.Parallel()
	first, _ := newPair(t)
	a := newNode(t, "lb-master", first)
	a.setHealth(true)
	c := web(a.name, 230)
	c.Global.Peers = nil
	c.Instances[0].Network = "" // front
	a.mustApply(c)
	within(t, 5*time.Second, "the VIP is up", func() bool { return a.instance("web").Holds })
	before := len(a.seen())
	a.setHealth(false)
	within(t, 5*time.Second, "the score counts", func() bool { return a.instance("web").Priority == 130 })
	for _, e := range a.seen()[before:] {
		if i := e.Instance; i != nil && !i.Holds {
			t.Errorf("the VIP was away: %+v", i)
		}
	}
	a.setHealth(true)
	c.Global.Peers = peersOf("10.9.0.3")
	a.mustApply(c)
	a.setHealth(false)
	within(t, 5*time.Second, "the VIP is let go", func() bool { return !a.has("10.9.0.100") })
	within(t, 5*time.Second, "the VIP is up again", func() bool { return a.has("10.9.0.100") })
}

// VRRPv2 with whole seconds: the standby does not wait for three advertisements.
func TestADeadProxyReleasesWithSlowAdverts(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		c := web(n.name, priority)
		c.Instances[0].Version, c.Instances[0].AuthPassword = 2, "Secret01"
		c.Instances[0].AdvertInterval = durationpb.New(2 * time.Second)
		n.setHealth(true)
		n.mustApply(c)
	}
	waitMaster(t, 15*time.Second, "web", "10.9.0.100", a, b)
	a.setHealth(false)
	// Without a release it takes two more adverts and the skew, 4.1 s.
	took := waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	t.Logf("the VIP moved in %v", took)
}

// A drain is known beside a release, too.
func TestADrainIsKnownInARelease(t *testing.T) {
	for _, drained := range []bool{true, false} {
		dir := t.TempDir()
		p := paths{trackDir: dir, drained: filepath.Join(dir, "drained")}
		if err := mark(p.drained, drained); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, scoreFile), []byte("-254\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := loadScores(p)
		if err != nil || s.drain != drained || s.healthy {
			t.Errorf("drained %v: read %+v, %v", drained, s, err)
		}
	}
}

// Two VIPs of which each node holds one: a dead proxy costs its own alone.
func TestADeadProxyLeavesThePeersVIPAlone(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	a, b := newNode(t, "lb-master", first), newNode(t, "lb-backup", second)
	for n, priorities := range map[*node][2]uint32{a: {230, 220}, b: {220, 230}} {
		c := web(n.name, priorities[0])
		mail := base(func(i *keepalivedv1.Instance) {
			i.Name, i.Vip, i.Vrid, i.Anchor, i.Priority = "mail", "mail", 52, "10.9.0.200/24", priorities[1]
		})
		c.Instances = append(c.Instances, mail)
		n.setHealth(true)
		n.mustApply(c)
	}
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	waitMaster(t, 5*time.Second, "mail", "10.9.0.200", b, a)
	before := len(b.seen())
	a.setHealth(false)
	waitMaster(t, 2*time.Second, "web", "10.9.0.100", b, a)
	for _, e := range b.seen()[before:] {
		if e.Transition != nil && e.Transition.Name == "mail" {
			t.Errorf("mail: %+v", e.Transition)
		}
	}
	if !b.has("10.9.0.200") || a.has("10.9.0.200") {
		t.Error("mail has moved")
	}
}
