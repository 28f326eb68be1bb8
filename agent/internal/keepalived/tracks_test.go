package keepalived

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/track"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// aTrack is one that is quick to notice.
func aTrack(kind keepalivedv1.TrackKind, target string, weight int32) *keepalivedv1.Track {
	return &keepalivedv1.Track{
		Kind: kind, Target: target, LowestStatus: 200, HighestStatus: 399,
		Interval: durationpb.New(100 * time.Millisecond), Timeout: durationpb.New(50 * time.Millisecond),
		Rise: 2, Fall: 3, Weight: weight,
	}
}

func pinged(address string, weight int32) *keepalivedv1.Track {
	return aTrack(keepalivedv1.TrackKind_TRACK_KIND_PING, address, weight)
}

// trackOf changes an instance's only track.
func trackOf(change func(*keepalivedv1.Track)) func(*keepalivedv1.Instance) {
	return func(i *keepalivedv1.Instance) {
		i.Tracks = []*keepalivedv1.Track{pinged("10.9.0.2", -44)}
		change(i.Tracks[0])
	}
}

// what tracks add on a healthy node leaves it better than one without a proxy, and a
// default weight moves a VIP whatever the priorities and the fail-back policy are.
func TestTracksKeepTheOrderOfScores(t *testing.T) {
	const gap, weight = 21, -44
	now := time.Now()
	lost := func(healthy, drain, trial bool, sum int) int {
		s := &scores{healthy: healthy, drain: drain, tracks: map[string]lostTracks{"web": {asked: sum}}}
		if trial {
			s.proven = now.Add(time.Minute)
		}
		return s.total(now) + s.tracked("web", now)
	}
	const base, low = 230, 230 - gap
	for name, pair := range map[string][2]int{
		"a standby takes over":                            {low, base + lost(true, false, false, weight)},
		"a sticky one, too":                               {low + standbyScore, base + lost(true, false, false, weight)},
		"whatever is lost is better than no proxy":        {low + standbyScore + lost(true, false, false, -200), base + unhealthyScore},
		"so it is when drained":                           {low + standbyScore + lost(true, true, false, -200), base + unhealthyScore},
		"so it is on trial":                               {low + standbyScore + lost(true, false, true, -200), base + unhealthyScore},
		"of two with the same loss the better one is it":  {base + lost(true, false, false, weight), low + lost(true, false, false, weight)},
		"of two without a proxy the one with the gateway": {low + unhealthyScore, base + lost(false, false, false, weight)},
	} {
		if pair[0] <= pair[1] {
			t.Errorf("not so: %s (%d, %d)", name, pair[0], pair[1])
		}
	}
	for links := 0; links >= trialScore; links-- {
		s := &scores{healthy: true, tracks: map[string]lostTracks{"web": {asked: -200, links: links}}}
		if got := s.total(now) + s.tracked("web", now) + links; got != trialScore {
			t.Errorf("with networks of %d lost: %d", links, got)
		}
	}
	if got := lost(false, true, false, -500); got < unhealthyScore*2+drainScore {
		t.Errorf("a node without a proxy has %d", got)
	}
}

// A better node that gets back what it had lost waits for its delay from then on.
func TestADelayBeginsWhenATrackIsBack(t *testing.T) {
	now := time.Unix(1000, 0)
	s, err := newScores(paths{trackDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	delayed := instance{name: "web", failBack: keepalivedv1.FailBack_FAIL_BACK_DELAYED, delay: time.Minute, tracks: []tracked{{weight: -44}}}
	s.healthy = true
	s.set([]instance{delayed}, now)
	s.role("web", InstanceBackup, now)
	for _, step := range []struct {
		after time.Duration
		lost  int
		value int
	}{{0, 0, standbyScore}, {61 * time.Second, 0, 0}, {62 * time.Second, -44, standbyScore}, {200 * time.Second, 0, standbyScore}, {259 * time.Second, 0, standbyScore}, {260 * time.Second, 0, 0}} {
		at := now.Add(step.after)
		s.track("web", lostTracks{asked: step.lost}, at)
		if err := s.write(at); err != nil {
			t.Fatal(err)
		}
		if got := score(t, s.dir, "standby.web"); got != step.value || score(t, s.dir, "track.web") != step.lost {
			t.Errorf("after %v: %d, track %d; want %d, %d", step.after, got, score(t, s.dir, "track.web"), step.value, step.lost)
		}
	}
}

// needing is a pair whose nodes each ping an address of their own, which drop removes
// and back brings back.
func needing(t *testing.T) (a, b *node, drop, back func(*node)) {
	t.Helper()
	a, b = newCluster(t)
	do := func(verb string) func(*node) {
		return func(n *node) {
			t.Helper()
			ip(t, "-n", n.namespace, "address", verb, "10.99.0.1/32", "dev", "lo")
		}
	}
	drop, back = do("delete"), do("add")
	for n, priority := range map[*node]uint32{a: 230, b: 220} {
		back(n)
		c := web(n.name, priority)
		c.Instances[0].Tracks = []*keepalivedv1.Track{pinged("10.99.0.1", -44)}
		n.mustApply(c)
	}
	within(t, 5*time.Second, "both are asked for", func() bool { return isFound(a) && isFound(b) })
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	return a, b, drop, back
}

func isFound(n *node) bool {
	tracks := n.instance("web").Tracks
	return len(tracks) == 1 && !tracks[0].Since.IsZero() && !tracks[0].Lost
}

func isLost(n *node) bool {
	tracks := n.instance("web").Tracks
	return len(tracks) == 1 && tracks[0].Lost && n.instance("web").TrackScore == -44
}

func trackFileOf(n *node) int { return score(n.t, n.options.RunDir+"/keepalived/track", "track.web") }

// The VIP leaves the node that has lost what it needs, comes back with it, and stays
// with one of two that have both lost it.
func TestATrackMovesTheVIP(t *testing.T) {
	t.Parallel()
	a, b, drop, back := needing(t)
	drop(a)
	took := waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	t.Logf("moved in %v", took)
	within(t, time.Second, "it is told", func() bool { return isLost(a) && a.instance("web").Priority == 186 })
	said := false
	for _, e := range a.seen() {
		said = said || strings.HasPrefix(e.Note, "VIP web: ping 10.99.0.1 is lost: ")
		if e.Transition != nil && e.Transition.State == InstanceBackup && e.Transition.Reason != "" {
			if !strings.HasPrefix(e.Transition.Reason, "ping 10.99.0.1 is lost (") {
				t.Errorf("the reason is %q", e.Transition.Reason)
			}
		}
	}
	if !said {
		t.Error("nobody was told")
	}
	drop(b)
	took = waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b) // I8: it has to live somewhere
	t.Logf("lost on both, it is back in %v", took)
	back(b)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	back(a)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	if !isFound(a) || trackFileOf(a) != 0 {
		t.Errorf("%+v", a.instance("web"))
	}
	// And it goes with its configuration.
	a.mustApply(web(a.name, 230))
	if i := a.instance("web"); len(i.Tracks) != 0 || i.State != InstanceMaster {
		t.Errorf("%+v", i)
	}
}

// I8: where no guard can be had what is lost is told, and takes nothing off.
func TestI8WithoutAGuardTracksAddNothing(t *testing.T) {
	t.Parallel()
	a, _, drop, _ := needing(t)
	a.restartAgent(withoutGuards)
	c := web(a.name, 230)
	c.Instances[0].Tracks = []*keepalivedv1.Track{pinged("10.99.0.1", -44)}
	a.mustApply(c)
	within(t, 5*time.Second, "it is asked for", func() bool { return isFound(a) })
	drop(a)
	within(t, 5*time.Second, "it is told", func() bool {
		tracks := a.instance("web").Tracks
		return len(tracks) == 1 && tracks[0].Lost
	})
	told := time.Now()
	within(t, 5*time.Second, "twice the time in which it would be renewed", func() bool {
		if trackFileOf(a) != 0 || !a.has("10.9.0.100") {
			t.Fatalf("its file says %d: %+v", trackFileOf(a), a.instance("web"))
		}
		return time.Since(told) > 2*trackRenew
	})
}

// I8: what tracks add does not outlive an agent that is killed or hangs, and one that is
// started again in time moves nothing.
func TestI8TracksEndWithTheAgent(t *testing.T) {
	t.Parallel()
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		a, b, drop, _ := needing(t)
		drop(a)
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
		a.killAgent()
		took := within(t, trackLease+2*time.Second, "its score is over", func() bool { return trackFileOf(a) == 0 })
		within(t, 2*time.Second, "it holds the VIP alone", func() bool { return a.has("10.9.0.100") && !b.has("10.9.0.100") })
		t.Logf("over in %v", took)
		if took < trackLease-2*trackRenew {
			t.Errorf("over after %v: a restart would move the VIP", took)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		a, b, drop, _ := needing(t)
		drop(a)
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
		if err := unix.Kill(a.agentPID(), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		within(t, trackLease+2*time.Second, "its score is over", func() bool { return trackFileOf(a) == 0 })
		within(t, 2*time.Second, "it holds the VIP alone", func() bool { return a.has("10.9.0.100") && !b.has("10.9.0.100") })
		if err := unix.Kill(a.agentPID(), unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	})
	for name, end := range map[string]func(*node){"killed and started": (*node).killAgent, "ended and started": (*node).endAgent} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, drop, back := needing(t)
			drop(a)
			waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
			end(a)
			a.startAgent()
			c := web(a.name, 230)
			c.Instances[0].Tracks = []*keepalivedv1.Track{pinged("10.99.0.1", -44)}
			a.mustApply(c)
			for began := time.Now(); time.Since(began) < trackLease+2*time.Second; {
				within(t, time.Second, "a moment has passed", func() bool { return true })
				if a.has("10.9.0.100") || trackFileOf(a) != -44 {
					t.Fatalf("after %v the file says %d, held: %v", time.Since(began), trackFileOf(a), a.has("10.9.0.100"))
				}
			}
			back(a)
			waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
		})
	}
}

// What an earlier agent has left counts until everything was asked for once, and what it
// had found of an instance without tracks never does.
func TestALeftTrackScoreCountsUntilAllIsAsked(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"score": "0\n", "track.web": "-44\n", "track.mail": "-44\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := loadScores(paths{trackDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{log: hclog.NewNullLogger(), scores: s, tracks: track.New()}
	web, mail := instance{name: "web", tracks: []tracked{{weight: -44}}}, instance{name: "mail"}
	o.watched = []watched{{instance: web}, {instance: mail}}
	s.set([]instance{web, mail}, time.Now())
	for range 2 {
		if err := o.weigh(true, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "track.web"); got != -44 {
			t.Errorf("not asked for yet: %d", got)
		}
	}
	if err := s.tidy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "track.mail")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other file: %v", err)
	}
	// Without a guard nothing may stand.
	if err := o.weigh(false, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := score(t, dir, "track.web"); got != 0 {
		t.Errorf("without a guard: %d", got)
	}
}

// A network that one node has lost moves the VIP, without the agent too; lost on both,
// one of them holds it, whether keepalived starts with it or not.
func TestI8ANetworkMovesTheVIP(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	var nodes []*node
	link := func(n *node, state string) { t.Helper(); ip(t, "-n", n.namespace, "link", "set", "eth1", state) }
	for _, namespace := range []string{first, second} {
		ip(t, "-n", namespace, "link", "add", "eth1", "type", "veth", "peer", "name", "switch")
		ip(t, "-n", namespace, "link", "set", "switch", "up")
	}
	for n, namespace := range []string{first, second} {
		x := newNode(t, []string{"lb-master", "lb-backup"}[n], namespace)
		x.endAgent()
		x.options.Networks = map[string]string{"front": "eth0", "back": "eth1"}
		x.startAgent()
		link(x, "up")
		x.setHealth(true)
		nodes = append(nodes, x)
	}
	a, b := nodes[0], nodes[1]
	with := func(n *node, priority uint32) *keepalivedv1.Config {
		c := web(n.name, priority)
		c.Instances[0].Tracks = []*keepalivedv1.Track{{Kind: keepalivedv1.TrackKind_TRACK_KIND_NETWORK, Target: "back", Weight: -44}}
		return c
	}
	a.mustApply(with(a, 230))
	b.mustApply(with(b, 220))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	within(t, time.Second, "it is there", func() bool { return isFound(a) })

	link(a, "down")
	took := waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	t.Logf("moved in %v", took)
	within(t, time.Second, "it is told", func() bool {
		return isLost(a) && a.instance("web").Priority == 186 && a.instance("web").Tracks[0].Reason == "interface eth1 is down"
	})
	if trackFileOf(a) != 0 {
		t.Errorf("the file says %d, too", trackFileOf(a))
	}
	link(b, "down")
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	link(b, "up")
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	link(a, "up")
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)

	// Carrier, and no agent.
	a.killAgent()
	ip(t, "-n", first, "link", "set", "switch", "down")
	within(t, 5*time.Second, "it moves without an agent", func() bool { return b.has("10.9.0.100") && !a.has("10.9.0.100") })
	a.startAgent()
	a.mustApply(with(a, 230))
	within(t, 5*time.Second, "it is told", func() bool { return isLost(a) && a.instance("web").Tracks[0].Reason == "interface eth1 has no carrier" })
	if a.has("10.9.0.100") {
		t.Error("it came back with the agent")
	}
	// Lost before keepalived reads that it needs it.
	a.mustApply(web(a.name, 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", a, b)
	a.mustApply(with(a, 230))
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
	if r := a.apply(func() *keepalivedv1.Config {
		c := with(a, 230)
		c.Instances[0].Tracks[0].Target = "storage"
		return c
	}()); r.Kind != "failed" || !strings.Contains(r.Error, "networks: {storage: eth0}") {
		t.Errorf("a network that is not mapped: %s %q", r.Kind, r.Error)
	}
}
