package keepalived

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// What is added to the priorities. keepalived clamps the sum to 1..254, so a
// node never drops out by its score alone: with all proxies dead and all nodes
// drained the VIP still lives on one of them. (-254 and less is FAULT.)
//
// The values are apart so that, for priorities less than 22 apart, a healthy
// standby beats a drained holder, and anything healthy beats a node without a
// proxy, drained or not.
const (
	unhealthyScore = -100
	drainScore     = -50
	// trialScore is that of a node whose proxy serves and has ended too often to be
	// trusted yet: a healthy standby beats it, and it beats a node without a proxy.
	// Drained as well, a node has drainScore alone.
	trialScore   = -56
	standbyScore = -22
	// failoverScore is what a failover by hand takes from an instance, for a
	// while; from a sticky one standbyScore too, which its healthy standby has. So
	// that one beats it, and a drained one does not.
	failoverScore = -22
	// releaseScore makes keepalived give up what it holds, with an advertisement of
	// priority 0, after which the best standby takes over at once instead of
	// waiting for three that do not come (RFC 9568, section 6.4.2). It stands for
	// milliseconds, never longer than releaseLimit: see scores.release.
	releaseScore = -254
)

// releaseLimit is how long keepalived gets to give its VIPs up. It takes some 3 ms,
// on a busy machine 15.
const releaseLimit = 250 * time.Millisecond

// releaseKey is the guard's; no VIP is called so.
const releaseKey = " release"

// foundTrial is how long a trial that an earlier agent left goes on, unless SetHealth
// comes before, which knows better.
const foundTrial = 5 * time.Second

// scores writes the track files. keepalived sees each rename at once.
type scores struct {
	dir     string
	healthy bool
	drain   bool
	// withdrawn counts as drained, whatever is wanted of the node.
	withdrawn bool
	// proven is from when on a proxy that works counts in full; before, it is on trial.
	proven time.Time
	// release is when releaseScore gives way to unhealthyScore at the latest; zero:
	// it does not stand.
	release time.Time
	fresh   bool                  // what the files hold is of an earlier keepalived
	wasWell bool                  // at the last write
	standby map[string]*standby   // by the names of sticky instances
	away    map[string]*away      // by the names of all instances
	fences  map[string]*fence     // by the names of those that are fenced
	cuts    map[string]*cutOff    // by the names of those that are cut off
	tracks  map[string]lostTracks // what those with tracks have lost, by their names
	written map[string]int        // what the files hold
}

// standby keeps a sticky instance from taking the VIP from another holder.
type standby struct {
	delay  time.Duration // of FAIL_BACK_DELAYED
	never  bool          // FAIL_BACK_NEVER
	master bool
	ready  bool      // keepalived could hold the VIP: it is BACKUP or MASTER
	well   time.Time // since when the node could have held the VIP
}

// newScores knows nothing of an earlier keepalived: health is to be proven, and
// only a drain and a withdrawal last.
func newScores(p paths) (*scores, error) {
	drain, err := marked(p.drained)
	withdrawn, err2 := marked(p.withdrawn)
	return &scores{
		dir: p.trackDir, drain: drain, withdrawn: withdrawn, fresh: true,
		standby: make(map[string]*standby), away: make(map[string]*away), fences: make(map[string]*fence),
		cuts: make(map[string]*cutOff), tracks: make(map[string]lostTracks), written: make(map[string]int),
	}, errors.Join(err, err2)
}

// loadScores takes over what the files hold, so that an agent that comes back
// to a running keepalived moves nothing.
func loadScores(p paths) (*scores, error) {
	s, err := newScores(p)
	s.fresh = false
	score, ok := s.read(scoreFile)
	s.healthy = ok && score > unhealthyScore
	if ok && score == trialScore {
		s.proven = time.Now().Add(foundTrial)
	}
	if score != releaseScore {
		s.drain = !s.withdrawn && (score == drainScore || score == unhealthyScore+drainScore)
	}
	s.wasWell = s.well(time.Now())
	return s, errors.Join(err, s.openFences())
}

// openFences ends the fences of an earlier agent.
func (s *scores) openFences() error {
	files, err := filepath.Glob(filepath.Join(s.dir, fenceFile("*")))
	failed := []error{err}
	for _, file := range files {
		failed = append(failed, atomicfile.WriteVolatile(file, []byte("0\n"), 0o644))
	}
	return errors.Join(failed...)
}

// marked tells whether there is a mark, such as that the node was drained when it
// was last configured.
func marked(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// mark makes a mark durable, or its absence: the hooks need it at the next boot,
// before any agent.
func mark(path string, set bool) error {
	was, err := marked(path)
	switch {
	case err != nil || was == set:
		return err
	case set:
		return atomicfile.WriteFile(path, nil, 0o600)
	default:
		return atomicfile.Remove(path)
	}
}

// read returns what a track file holds.
func (s *scores) read(name string) (int, bool) {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return 0, false
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, false
	}
	s.written[name] = score
	return score, true
}

// setHealth notes whether the proxy works, and from when on that is proven. handsOn tells that this node holds a VIP
// that another one may take: it gives that up at once when the proxy has died. Where
// no other node is known that would only leave the VIP nowhere for a while.
func (s *scores) setHealth(healthy bool, proven time.Time, handsOn bool, now time.Time) {
	s.proven = proven
	switch {
	case healthy:
		s.release = time.Time{}
	case s.healthy && handsOn:
		s.release = now.Add(releaseLimit)
	}
	s.healthy = healthy
}

// giveUp is what setHealth does for a proxy that has died, once its score stands.
func (s *scores) giveUp(handsOn bool, now time.Time) {
	if !s.healthy && handsOn {
		s.release = now.Add(releaseLimit)
	}
}

// released ends releaseScore: keepalived has given up what it held.
func (s *scores) released() { s.release = time.Time{} }

// total is the node's own score.
func (s *scores) total(now time.Time) int { return s.health(now) + s.drained() }

// health is the proxy's part of total.
func (s *scores) health(now time.Time) int {
	switch {
	case !s.healthy:
		return unhealthyScore
	case s.onTrial(now) && s.drained() == 0:
		return trialScore
	default:
		return 0
	}
}

// onTrial tells whether the proxy works, and is not trusted yet.
func (s *scores) onTrial(now time.Time) bool { return s.healthy && now.Before(s.proven) }

// drained is the drain's part of total.
func (s *scores) drained() int {
	if s.drain || s.withdrawn {
		return drainScore
	}
	return 0
}

// well tells whether the node as a whole could hold a VIP.
func (s *scores) well(now time.Time) bool {
	return s.healthy && !s.onTrial(now) && !s.drain && !s.withdrawn
}

// set makes the scores those of the instances: one away each, one standby a sticky one,
// and one for tracks where there are any. An instance that was there before keeps its
// time, and what its tracks have found.
func (s *scores) set(instances []instance, now time.Time) {
	old, left := s.standby, s.away
	s.standby, s.away = make(map[string]*standby), make(map[string]*away)
	s.setTracks(instances)
	for _, i := range instances {
		s.away[i.name] = cmp.Or(left[i.name], &away{})
		s.away[i.name].score = failoverScore
		if !i.sticky() {
			continue
		}
		s.away[i.name].score += standbyScore
		b := old[i.name]
		if b == nil {
			b = &standby{well: now}
			// An agent that comes back takes it for the holder, as which it
			// was left, until keepalived says what it is.
			if score, ok := s.read(standbyFile(i.name)); ok && score == 0 && !s.fresh {
				b.master, b.ready = true, true
			}
		}
		b.delay, b.never = i.delay, i.failBack == keepalivedv1.FailBack_FAIL_BACK_NEVER
		s.standby[i.name] = b
	}
	// Nobody would end those of an instance that is no more.
	maps.DeleteFunc(s.fences, func(name string, _ *fence) bool { return s.away[name] == nil })
	maps.DeleteFunc(s.cuts, func(name string, _ *cutOff) bool { return s.away[name] == nil })
}

// forget makes the node a newcomer in every instance: keepalived has ended.
func (s *scores) forget(now time.Time) {
	for _, b := range s.standby {
		b.master, b.ready, b.well = false, false, now
	}
	for _, a := range s.away {
		a.end()
	}
	clear(s.fences)
	clear(s.cuts)
	s.released()
}

// role notes what an instance is now. Whoever was no holder must be well for
// the whole delay, from the last time that it was not; one that is in FAULT is not,
// however long that lasts.
func (s *scores) role(name string, state InstanceState, now time.Time) {
	if a := s.away[name]; a != nil {
		a.role(state)
	}
	b := s.standby[name]
	if b == nil {
		return
	}
	master := state == InstanceMaster
	ready := master || state == InstanceBackup
	if !b.ready || (b.master && !master) {
		b.well = now
	}
	b.master, b.ready = master, ready
}

// value of an instance's own file.
func (b *standby) value(now time.Time) int {
	if b.master || b.failsBack() && now.Sub(b.well) >= b.delay {
		return 0
	}
	return standbyScore
}

// failsBack tells whether the delay passes.
func (b *standby) failsBack() bool { return b.ready && !b.never }

// next is when a value changes by time alone; zero when none will.
func (s *scores) next(now time.Time) time.Time {
	var next time.Time
	sooner := func(due time.Time) {
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	for _, b := range s.standby {
		if b.failsBack() && b.value(now) != 0 {
			sooner(b.well.Add(b.delay))
		}
	}
	for _, a := range s.away {
		if a.value(now) != 0 {
			sooner(a.until)
		}
	}
	for _, f := range s.fences {
		sooner(f.until)
	}
	for _, c := range s.cuts {
		sooner(c.until)
	}
	if now.Before(s.release) {
		sooner(s.release)
	}
	if s.onTrial(now) {
		sooner(s.proven)
	}
	return next
}

// write brings the files up to date. It writes those only that change.
func (s *scores) write(now time.Time) error {
	want := map[string]int{scoreFile: s.total(now)}
	if now.Before(s.release) {
		want[scoreFile] = releaseScore
	}
	recovered := s.well(now) && !s.wasWell
	s.wasWell = s.well(now)
	for name, b := range s.standby {
		if recovered || !s.well(now) || s.tracks[name] != (lostTracks{}) {
			b.well = now
		}
		want[standbyFile(name)] = b.value(now)
	}
	for name, a := range s.away {
		want[awayFile(name)], want[fenceFile(name)] = a.value(now), 0
		if s.fenced(name, now) {
			want[fenceFile(name)] = fenceScore
		}
	}
	for name := range s.tracks {
		want[trackFile(name)] = s.tracked(name, now)
	}
	var failed []error
	for name, score := range want {
		if old, ok := s.written[name]; ok && old == score {
			continue
		}
		text := strconv.Itoa(score) + "\n"
		if err := atomicfile.WriteVolatile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			failed = append(failed, err)
			continue
		}
		s.written[name] = score
	}
	return errors.Join(failed...)
}

// fenced tells whether an instance is kept off by the controller or by this node.
func (s *scores) fenced(name string, now time.Time) bool {
	f, c := s.fences[name], s.cuts[name]
	return f != nil && now.Before(f.until) || c != nil && now.Before(c.until)
}

// renew writes every file, whatever was known of it. keepalived takes a missing
// file for a healthy one, so this comes before keepalived is started or told of
// a new configuration.
func (s *scores) renew(now time.Time) error {
	clear(s.written)
	return s.write(now)
}

// tidy removes the files of instances that are no more, once keepalived does
// not read them.
func (s *scores) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		standby, isStandby := strings.CutPrefix(e.Name(), standbyFile(""))
		away, isAway := strings.CutPrefix(e.Name(), awayFile(""))
		if fence, isFence := strings.CutPrefix(e.Name(), fenceFile("")); isFence {
			away, isAway = fence, true
		}
		track, isTrack := strings.CutPrefix(e.Name(), trackFile(""))
		if _, has := s.tracks[track]; isTrack && has {
			continue
		}
		if !isStandby && !isAway && !isTrack || isStandby && s.standby[standby] != nil || isAway && s.away[away] != nil {
			continue
		}
		delete(s.written, e.Name())
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
