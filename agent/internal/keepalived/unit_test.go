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
			Extra: []string{"10.9.0.101/24 dev eth0 scope global set"}, Count: Count{Sent: 27}},
		{Name: "web-v6", Interface: "eth0", Version: 3, VRID: 51, BasePriority: 230, Priority: 230, Advert: 0.1, State: 1,
			LastTransition: "1795387020.123495", Anchors: []string{"fd09::100/64 dev eth0 scope global preferred_lft forever"}, Count: Count{Sent: 27}},
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
	on := same()
	on.Anchors[0] = "10.9.0.100/24 dev eth0@eth1 scope global"
	if said := on.differs(i); said != "" {
		t.Errorf("an interface on top of another differs: %s", said)
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

func TestNotesAreLimited(t *testing.T) {
	dir := t.TempDir()
	s, err := newScores(paths{trackDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{log: hclog.NewNullLogger(), scores: s, wake: func() {}, noted: make(map[string]time.Time)}
	o.watched = []watched{{instance: instance{name: "web", iface: "lo"}, InstanceStatus: InstanceStatus{Name: "web"}}}
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
	o.watched = []watched{{instance: instance{name: "web", iface: "lo", over: "lo"}, InstanceStatus: InstanceStatus{Name: "web"}}}
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
