package keepalived

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// score reads a track file as keepalived does.
func score(t *testing.T, dir, name string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestScores(t *testing.T) {
	for _, test := range []struct {
		healthy, drain, withdrawn bool
		want                      int
	}{
		{false, false, false, -100}, {true, false, false, 0}, {true, true, false, -50}, {false, true, false, -150},
		{true, false, true, -50}, {false, false, true, -150},
	} {
		dir := t.TempDir()
		p := paths{trackDir: dir, drained: filepath.Join(dir, "drained"), withdrawn: filepath.Join(dir, "withdrawn")}
		s, err := newScores(p)
		if err != nil {
			t.Fatal(err)
		}
		s.healthy, s.drain, s.withdrawn = test.healthy, test.drain, test.withdrawn
		if err := s.write(time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "score"); got != test.want || s.total(time.Now()) != test.want {
			t.Errorf("%+v: wrote %d, total %d", test, got, s.total(time.Now()))
		}
		if err := errors.Join(mark(p.drained, test.drain), mark(p.withdrawn, test.withdrawn)); err != nil {
			t.Fatal(err)
		}
		// An agent that comes back knows it; one beside a new keepalived
		// believes in a drain only.
		if s, err = loadScores(p); err != nil || s.healthy != test.healthy || s.drain != test.drain || s.withdrawn != test.withdrawn {
			t.Errorf("%+v: read %+v, %v", test, s, err)
		}
		if s, err = newScores(p); err != nil || s.healthy || s.drain != test.drain || s.withdrawn != test.withdrawn {
			t.Errorf("%+v: a fresh one read %+v, %v", test, s, err)
		}
	}
}

// A trial goes on with the next agent.
func TestATrialIsKnownToTheNextAgent(t *testing.T) {
	dir := t.TempDir()
	p := paths{trackDir: dir}
	if err := os.WriteFile(filepath.Join(dir, scoreFile), []byte("-56\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := loadScores(p)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for at, want := range map[time.Time]int{now: trialScore, now.Add(foundTrial): 0} {
		if got := s.total(at); got != want || !s.healthy {
			t.Errorf("after %v: %d, want %d", at.Sub(now), got, want)
		}
	}
}

// The order that the constants promise, for priorities up to 21 apart, and
// that no score alone means FAULT (-254).
func TestScoresKeepTheirOrder(t *testing.T) {
	const gap = 21
	clamp := func(p int) int { return min(254, max(1, p)) }
	for _, base := range []int{234, 200, 150} {
		low := base - gap
		for name, pair := range map[string][2]int{
			"a sticky holder beats a better standby":             {low, base + standbyScore},
			"a healthy standby beats a drained holder":           {low + standbyScore, base + drainScore},
			"a drained node beats one without a proxy":           {low + drainScore, base + unhealthyScore},
			"a drained standby beats a holder without a proxy":   {low + drainScore + standbyScore, base + unhealthyScore},
			"the better of two nodes without a proxy is chosen":  {base + unhealthyScore, low + unhealthyScore},
			"a healthy standby beats a holder on trial":          {low + standbyScore, base + trialScore},
			"one on trial beats a holder without a proxy":        {low + trialScore + standbyScore, base + unhealthyScore},
			"the better of two on trial is chosen":               {base + trialScore, low + trialScore},
			"the better of two drained nodes is chosen":          {base + drainScore, low + drainScore},
			"a healthy standby takes over in a failover":         {low, base + failoverScore},
			"a sticky one too":                                   {low + standbyScore, base + failoverScore + standbyScore},
			"a failover goes to no node without a proxy":         {low + failoverScore + 2*standbyScore, base + unhealthyScore},
			"a failover goes to no drained node":                 {low + failoverScore, base + drainScore},
			"to no sticky one either":                            {low + failoverScore + standbyScore, base + drainScore + standbyScore},
			"drained without a proxy is worse than either alone": {low + unhealthyScore, base + unhealthyScore + drainScore},
		} {
			if clamp(pair[0]) <= clamp(pair[1]) {
				t.Errorf("base %d: not so: %s (%d, %d)", base, name, pair[0], pair[1])
			}
		}
	}
	if worst := unhealthyScore + drainScore + 2*standbyScore + failoverScore; worst <= -254 {
		t.Errorf("the worst score, %d, is FAULT", worst)
	}
}

// Stickiness is a holder's own: an agent that comes back to it finds it as it was, and
// beside a new keepalived, as after a boot, nobody has it, whatever the files say.
func TestStickinessIsNotInherited(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		scores func(paths) (*scores, error)
		want   int
	}{"the same keepalived": {loadScores, 0}, "a new one": {newScores, standbyScore}} {
		dir := t.TempDir()
		for _, file := range []string{scoreFile, standbyFile("web")} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte("0\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := test.scores(paths{trackDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.set([]instance{{name: "web", failBack: keepalivedv1.FailBack_FAIL_BACK_NEVER}}, now)
		if err := s.write(now); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, standbyFile("web")); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestStandby(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1000, 0)
	s, err := newScores(paths{trackDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.healthy = true
	s.set([]instance{
		{name: "auto", failBack: keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC},
		{name: "never", failBack: keepalivedv1.FailBack_FAIL_BACK_NEVER},
		{name: "late", failBack: keepalivedv1.FailBack_FAIL_BACK_DELAYED, delay: time.Minute},
	}, now)
	step := func(after time.Duration, do func(), never, late int) {
		t.Helper()
		now = now.Add(after)
		do()
		if err := s.write(now); err != nil {
			t.Fatal(err)
		}
		if n, l := score(t, dir, "standby.never"), score(t, dir, "standby.late"); n != never || l != late {
			t.Errorf("after %v: never %d, late %d; want %d, %d", after, n, l, never, late)
		}
	}
	role := func(state InstanceState) func() {
		return func() { s.role("never", state, now); s.role("late", state, now) }
	}
	health := func(healthy bool) func() { return func() { s.healthy = healthy } }
	step(0, role(InstanceBackup), standbyScore, standbyScore)
	if due := s.next(now); !due.Equal(now.Add(time.Minute)) {
		t.Errorf("next change %v", due)
	}
	step(59*time.Second, role(InstanceBackup), standbyScore, standbyScore)
	step(time.Second, role(InstanceBackup), standbyScore, 0)
	if due := s.next(now); !due.IsZero() {
		t.Errorf("next change %v, want none", due)
	}
	step(0, role(InstanceMaster), 0, 0)
	step(time.Hour, role(InstanceBackup), standbyScore, standbyScore) // lost
	step(30*time.Second, health(false), standbyScore, standbyScore)
	step(time.Hour, health(true), standbyScore, standbyScore)
	step(59*time.Second, role(InstanceFault), standbyScore, standbyScore)
	// It would take the VIP with the end of FAULT, before anybody could write.
	step(time.Hour, func() {}, standbyScore, standbyScore)
	if due := s.next(now); !due.IsZero() {
		t.Errorf("next change %v, want none while it is in FAULT", due)
	}
	step(0, role(InstanceBackup), standbyScore, standbyScore)
	step(59*time.Second, role(InstanceBackup), standbyScore, standbyScore)
	step(time.Second, role(InstanceBackup), standbyScore, 0)
	step(0, role(InstanceMaster), 0, 0)
	step(0, func() { s.forget(now) }, standbyScore, standbyScore) // keepalived ended
	if _, err := os.Stat(filepath.Join(dir, "standby.auto")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an automatic one has a file: %v", err)
	}
	s.set(nil, now)
	if err := s.tidy(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "standby.*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A proxy that works and is on trial counts in full when its time is over, unless it
// dies before; drained as well, a node is a drained one.
func TestTrial(t *testing.T) {
	start := time.Unix(1000, 0)
	until := start.Add(time.Minute)
	for name, test := range map[string]struct {
		after time.Duration
		do    func(*scores, time.Time)
		want  int
	}{
		"not before its time":            {time.Minute - 1, func(*scores, time.Time) {}, trialScore},
		"with its time":                  {time.Minute, func(*scores, time.Time) {}, 0},
		"it dies":                        {time.Second, func(s *scores, now time.Time) { s.setHealth(false, time.Time{}, false, now) }, unhealthyScore},
		"drained":                        {time.Second, func(s *scores, _ time.Time) { s.drain = true }, drainScore},
		"proven after all":               {time.Second, func(s *scores, now time.Time) { s.setHealth(true, time.Time{}, false, now) }, 0},
		"a longer one":                   {time.Minute, func(s *scores, now time.Time) { s.setHealth(true, now.Add(1), false, now) }, trialScore},
		"not with the end of keepalived": {time.Second, func(s *scores, now time.Time) { s.forget(now) }, trialScore},
	} {
		dir := t.TempDir()
		s, err := newScores(paths{trackDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.set([]instance{{name: "late", failBack: keepalivedv1.FailBack_FAIL_BACK_DELAYED, delay: time.Second}}, start)
		s.setHealth(true, until, false, start)
		if err := s.write(start); err != nil {
			t.Fatal(err)
		}
		if got, due := score(t, dir, "score"), s.next(start.Add(2*time.Second)); got != trialScore || !due.Equal(until) {
			t.Errorf("%s: began with %d until %v", name, got, due)
		}
		now := start.Add(test.after)
		test.do(s, now)
		if err := s.write(now); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "score"); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
		// The delay of a fail-back begins when the node is well.
		if got := score(t, dir, "standby.late"); got != standbyScore {
			t.Errorf("%s: standing back by %d", name, got)
		}
	}
}

// A delay of nothing is none: such an instance stands back for nobody, drained or
// not, and a failover from it takes no more than from an automatic one.
func TestADelayOfNothingIsAutomatic(t *testing.T) {
	s, err := newScores(paths{trackDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.set([]instance{{name: "web", failBack: keepalivedv1.FailBack_FAIL_BACK_DELAYED}}, time.Unix(1000, 0))
	if got := s.away["web"].score; got != failoverScore || len(s.standby) > 0 {
		t.Errorf("a failover takes %d, want %d; standing back are %v", got, failoverScore, s.standby)
	}
}

// A failover ends by itself: when its time is over, when this node has to hold
// the VIP again, and with keepalived.
func TestFailoverEnds(t *testing.T) {
	start := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		after time.Duration
		do    func(*scores, time.Time)
		want  int
	}{
		"not before its time":      {59 * time.Second, func(s *scores, now time.Time) { s.role("web", InstanceBackup, now) }, failoverScore},
		"with its time":            {time.Minute, func(*scores, time.Time) {}, 0},
		"not while nobody took it": {time.Second, func(s *scores, now time.Time) { s.role("web", InstanceMaster, now) }, failoverScore},
		"when the VIP comes back": {time.Second, func(s *scores, now time.Time) {
			s.role("web", InstanceBackup, now)
			s.role("web", InstanceMaster, now)
		}, 0},
		"with keepalived": {time.Second, func(s *scores, now time.Time) { s.forget(now) }, 0},
		"not with a change of another instance": {time.Second, func(s *scores, now time.Time) {
			s.set([]instance{{name: "mail"}, {name: "web", failBack: keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC}}, now)
		}, failoverScore},
	} {
		dir := t.TempDir()
		s, err := newScores(paths{trackDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.healthy = true
		s.set([]instance{{name: "web", failBack: keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC}}, start)
		s.role("web", InstanceMaster, start)
		s.away["web"].begin(start.Add(time.Minute))
		if err := s.write(start); err != nil {
			t.Fatal(err)
		}
		if got, due := score(t, dir, "away.web"), s.next(start); got != failoverScore || !due.Equal(start.Add(time.Minute)) {
			t.Errorf("%s: began with %d until %v", name, got, due)
		}
		now := start.Add(test.after)
		test.do(s, now)
		if err := s.write(now); err != nil {
			t.Fatal(err)
		}
		if got := score(t, dir, "away.web"); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
