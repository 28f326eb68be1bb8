package keepalived

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

func TestParseNotice(t *testing.T) {
	for line, want := range map[string]notice{
		`INSTANCE "web" MASTER 230`:              {"web", "MASTER", 230},
		`INSTANCE "web-v6" BACKUP_PRIORITY 1`:    {"web-v6", "BACKUP_PRIORITY", 1},
		`INSTANCE "web" MASTER_RX_LOWER_PRI 254`: {"web", "MASTER_RX_LOWER_PRI", 254},
		`GROUP "all" MASTER 230`:                 {},
		`INSTANCE "web" MASTER`:                  {},
		`INSTANCE "web" MASTER x`:                {},
		`INSTANCE "web" MASTER 300`:              {},
		`INSTANCE "web" MASTER 230 9`:            {},
		`INSTANCE web MASTER 230`:                {},
		`INSTANCE "web"  230`:                    {},
		``:                                       {},
	} {
		got, err := parseNotice(line)
		if got != want || (err != nil) != (want == notice{}) {
			t.Errorf("parseNotice(%q) = %+v, %v; want %+v", line, got, err, want)
		}
	}
}

func readAll(input []byte) (got []notice, bad int, err error) {
	out := make(chan notice, len(input)+1)
	err = readNotices(context.Background(), bytes.NewReader(input), out, func(error) { bad++ })
	close(out)
	for n := range out {
		got = append(got, n)
	}
	return got, bad, err
}

func TestReadNoticesSkipsWhatItCannotRead(t *testing.T) {
	input := "INSTANCE \"a\" MASTER 1\nrubbish\n" + strings.Repeat("x", 3*maxNotice) + "\nINSTANCE \"b\" BACKUP 2\nINSTANCE \"c\" FAU"
	got, bad, err := readAll([]byte(input))
	want := []notice{{"a", "MASTER", 1}, {"b", "BACKUP", 2}}
	if !slices.Equal(got, want) || bad != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v, %d bad, %v; want %+v, 3 bad, EOF", got, bad, err, want)
	}
}

func FuzzReadNotices(f *testing.F) {
	f.Add([]byte("INSTANCE \"web\" MASTER 230\n"))
	f.Add([]byte("INSTANCE \"\" \x00 0\n\n\r\n\"\" \"\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		got, _, err := readAll(input)
		if !errors.Is(err, io.EOF) {
			t.Fatalf("ended with %v", err)
		}
		for _, n := range got {
			line := `INSTANCE "` + n.instance + `" ` + n.word + " " + strconv.Itoa(n.priority)
			if again, err := parseNotice(line); err != nil || again != n {
				t.Errorf("%+v is read as %+v, %v", n, again, err)
			}
		}
	})
}

func TestParseDump(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "dump.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseDump(data)
	if err != nil {
		t.Fatal(err)
	}
	want := []dumped{
		{Name: "web", Interface: "eth0", Version: 3, VRID: 51, BasePriority: 230, Priority: 130, Advert: 0.1, State: 2,
			LastTransition: "1795387020.123233", Anchors: []string{"10.9.0.100/24 dev eth0 scope global set"},
			Extra: []string{"10.9.0.101/24 dev eth0 scope global set"}},
		{Name: "web-v6", Interface: "eth0", Version: 3, VRID: 51, BasePriority: 230, Priority: 230, Advert: 0.1, State: 1,
			LastTransition: "1795387020.123495", Anchors: []string{"fd09::100/64 dev eth0 scope global preferred_lft forever"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for end := range data[:len(data)-1] {
		if _, err := parseDump(data[:end]); err == nil {
			t.Fatalf("the first %d bytes pass for a whole dump", end)
		}
	}
}

// Every difference that a dump can show is seen.
func TestDumpDiffers(t *testing.T) {
	in, err := resolve(goldens["two-families-sorted"], testNetworks)
	if err != nil {
		t.Fatal(err)
	}
	i := &in.instances[0]
	same := func() dumped {
		return dumped{Name: "web", Interface: "eth0", Version: 3, VRID: 51, BasePriority: 230, Advert: 0.1,
			Anchors: []string{"10.9.0.100/24 dev eth0 scope global"},
			Extra:   []string{"172.16.0.1 dev eth0 scope global", "10.9.0.102/24 dev eth0 scope global set"}}
	}
	if d := same(); d.differs(i) != "" {
		t.Errorf("the same differs: %s", d.differs(i))
	}
	for name, change := range map[string]func(*dumped){
		"interface": func(d *dumped) { d.Interface = "eth1" },
		"version":   func(d *dumped) { d.Version = 2 },
		"vrid":      func(d *dumped) { d.VRID = 52 },
		"priority":  func(d *dumped) { d.BasePriority = 220 },
		"advert":    func(d *dumped) { d.Advert = 0.11 },
		"anchor":    func(d *dumped) { d.Anchors = []string{"10.9.0.100/32 dev eth0"} },
		"anchors":   func(d *dumped) { d.Anchors = append(d.Anchors, "10.9.0.9/24") },
		"addresses": func(d *dumped) { d.Extra = d.Extra[:1] },
		"rubbish":   func(d *dumped) { d.Extra[0] = "x" },
	} {
		d := same()
		change(&d)
		if d.differs(i) == "" {
			t.Errorf("%s: no difference seen", name)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add([]byte(`[{"data":{"iname":"web","state":2,"vips":["10.0.0.1/24 dev eth0"]}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		instances, err := parseDump(data)
		if err != nil {
			return
		}
		i := instance{name: "web", anchor: netip.MustParsePrefix("10.0.0.1/24")}
		for n := range instances {
			instances[n].differs(&i)
			instances[n].state()
		}
	})
}

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
		if got := score(t, dir, "score"); got != test.want || s.total() != test.want {
			t.Errorf("%+v: wrote %d, total %d", test, got, s.total())
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
	step(time.Hour, role(InstanceBackup), standbyScore, standbyScore)
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

func TestNotesAreLimited(t *testing.T) {
	dir := t.TempDir()
	s, err := newScores(paths{trackDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{log: hclog.NewNullLogger(), scores: s, wake: func() {}, noted: make(map[string]time.Time)}
	o.watched = []watched{{instance{name: "web", iface: "lo"}, InstanceStatus{Name: "web"}}}
	now := time.Unix(1000, 0)
	for range 300 { // thirty seconds of adverts
		o.notice(notice{"web", "MASTER_RX_LOWER_PRI", 220}, now)
		now = now.Add(100 * time.Millisecond)
	}
	if len(o.notes) != 3 {
		t.Errorf("%d notes in 30 s, want 3: %q", len(o.notes), o.notes)
	}
}

func TestOldDumpDoesNotWinOverANotice(t *testing.T) {
	s, err := newScores(paths{trackDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{log: hclog.NewNullLogger(), scores: s, wake: func() {}, noted: make(map[string]time.Time)}
	o.watched = []watched{{instance{name: "web", iface: "lo"}, InstanceStatus{Name: "web"}}}
	asked := o.notices
	o.notice(notice{"web", "MASTER", 230}, time.Now())
	old := []dumped{{Name: "web", State: 1, Priority: 230}}
	if o.merge(old, asked, time.Now()) || o.watched[0].State != InstanceMaster {
		t.Errorf("an old dump was taken: %+v", o.watched[0].InstanceStatus)
	}
	if !o.merge(old, o.notices, time.Now()) || o.watched[0].State != InstanceBackup {
		t.Errorf("a new dump was not taken: %+v", o.watched[0].InstanceStatus)
	}
}

func TestChanges(t *testing.T) {
	at := time.Unix(1000, 0)
	base := func() *Snapshot {
		return &Snapshot{State: StateRunning, StartTime: at, Instances: []InstanceStatus{
			{Name: "mail", VIP: "mail", State: InstanceBackup}, {Name: "web", VIP: "web", State: InstanceBackup}}}
	}
	for name, test := range map[string]struct {
		change func(*Snapshot)
		want   string
	}{
		"nothing":  {func(*Snapshot) {}, ""},
		"state":    {func(s *Snapshot) { s.State = StateStopped }, "daemon "},
		"started":  {func(s *Snapshot) { s.StartTime = at.Add(1) }, "daemon "},
		"version":  {func(s *Snapshot) { s.Version = "2.3.4" }, "daemon "},
		"message":  {func(s *Snapshot) { s.Message = "killed" }, "daemon "},
		"score":    {func(s *Snapshot) { s.Score = -100 }, "daemon "},
		"removed":  {func(s *Snapshot) { s.Instances = s.Instances[1:] }, "daemon "},
		"added":    {func(s *Snapshot) { s.Instances = append(s.Instances, InstanceStatus{Name: "x"}) }, "daemon x "},
		"instance": {func(s *Snapshot) { s.Instances[1].Holds = true }, "web "},
		"both":     {func(s *Snapshot) { s.Instances[1].Priority, s.Score = 1, -50 }, "daemon web "},
	} {
		now := base()
		test.change(now)
		got := ""
		for _, e := range changes(base(), now, at) {
			if e.Daemon != nil {
				got += "daemon "
			}
			if e.Instance != nil {
				got += e.Instance.Name + " "
			}
		}
		if got != test.want {
			t.Errorf("%s: events %q, want %q", name, got, test.want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]int{
		"Keepalived v2.2.7 (01/16,2022)\n\nCopyright": 20207,
		"Keepalived v2.3.4 (06/10,2025)":              20304,
		"Keepalived v2.1.5 (07/13,2020)":              0,
		"Keepalived v10.0.0":                          100000,
		"HAProxy version 2.6.12":                      0,
		"":                                            0,
	} {
		_, got, err := parseVersion(said)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("parseVersion(%q) = %d, %v; want %d", said, got, err, want)
		}
	}
}
