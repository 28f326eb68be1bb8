package runtime

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

const (
	processes26 = `#<PID>          <type>          <reloads>       <uptime>        <version>      
14729           master          8 [failed: 1]   0d00h02m44s     2.6.12-1+deb12u4
# workers
27580           worker          1               1d02h00m08s     2.6.12-1+deb12u4
# old workers
23616           worker          3               0d00h00m12s     2.6.12-1+deb12u4
# programs

`
	processes24 = `#<PID>          <type>          <relative PID>  <reloads>       <uptime>        <version>      
1162            master          0               5               0d00h02m07s     2.4.0
# workers
1271            worker          1               0               0d00h00m00s     2.4.0
`
	states26 = `1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
4 be 1 web1 127.0.0.9 2 0 5 5 55 15 3 4 6 0 0 1 - 18081 - 0 0 - - 0
4 be 3 web3 ::1 0 5 1 1 1 8 2 0 14 0 0 1 - 18082 - 0 0 - - 0

`
	stats26 = `# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,act,bck,lastchg,iid,sid,type,check_status,last_chk,check_desc,addr,uweight,
be,web1,0,0,0,0,55,0,UP 1/3,4,1,0,28,3,1,2,L4CON,"Connection ""refused"", really",Layer4 connection problem,127.0.0.9:18083,4,

# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,act,bck,lastchg,iid,sid,type,check_status,last_chk,check_desc,addr,uweight,
be,web2,0,0,0,0,,0,MAINT,0,0,1,28,3,2,2,,,,[::1]:80,0,
be,web3,0,0,0,0,,0,no check,7,0,1,28,3,3,2,,,,[::1]:80,7,
be,web4,0,0,0,0,,0,NOLB 2/3,7,0,1,28,3,4,2,INI,,Initializing,[::1]:80,7,
be,BACKEND,0,0,0,0,300,0,UP,11,2,0,28,3,0,1,,,,,11,

`
)

func TestParseProcesses(t *testing.T) {
	got, err := ParseProcesses(strings.NewReader(processes26))
	if err != nil {
		t.Fatal(err)
	}
	const version = "2.6.12-1+deb12u4"
	want := &Processes{
		Master:     Process{PID: 14729, Reloads: 8, Uptime: 164 * time.Second, Version: version},
		Failed:     1,
		Workers:    []Process{{PID: 27580, Reloads: 1, Uptime: 26*time.Hour + 8*time.Second, Version: version}},
		OldWorkers: []Process{{PID: 23616, Reloads: 3, Uptime: 12 * time.Second, Version: version}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = ParseProcesses(strings.NewReader(processes24))
	if err != nil || got.Master.Reloads != 5 || got.Workers[0].PID != 1271 || len(got.OldWorkers) != 0 {
		t.Errorf("of 2.4: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "Unknown command", strings.ReplaceAll(processes26, "master", "maste"), strings.ReplaceAll(processes26, "1d02h", "1xx")} {
		if got, err := ParseProcesses(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestParseInfo(t *testing.T) {
	got, err := ParseInfo(strings.NewReader("Name: HAProxy\nVersion: 2.6.12\nPid: 42\ndescription: a b: c\nStopping: 1\n\n"))
	if want := (Info{PID: 42, Description: "a b: c", Version: "2.6.12", Stopping: true}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := ParseInfo(strings.NewReader("")); err == nil {
		t.Error("nothing was parsed")
	}
}

func TestListing(t *testing.T) {
	got, err := listed(states26)
	if err != nil {
		t.Fatal(err)
	}
	want := []State{
		{
			Key: config.Key{Backend: "be", Name: "web1"}, BackendID: 4, ID: 1, Address: netip.MustParseAddrPort("127.0.0.9:18081"),
			Op: OpRunning, Weight: 5, Since: 55 * time.Second, CheckStatus: 15, CheckResult: 3, CheckHealth: 4, CheckState: 6,
		},
		{
			Key: config.Key{Backend: "be", Name: "web3"}, BackendID: 4, ID: 3, Address: netip.MustParseAddrPort("[::1]:18082"),
			Op: OpStopped, Admin: 5, Weight: 1, Since: time.Second, CheckStatus: 8, CheckResult: 2, CheckState: 14,
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
	if got[0].Maintenance() || !got[1].Maintenance() || !got[0].Checked() {
		t.Error("maintenance or checks are wrong")
	}
	// What is written is what HAProxy prints.
	var text bytes.Buffer
	if err := WriteStates(&text, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(states26, "\n\n", "\n"), text.String()); diff != "" {
		t.Error(diff)
	}
	for bits, want := range map[int]bool{0: false, 0x01: true, 0x04: false, 0x05: true, 0x08: false, 0x20: true} {
		if got := (&State{Admin: bits}).Maintenance(); got != want {
			t.Errorf("admin state %#x: maintenance %v", bits, got)
		}
	}
	ahead, err := listed(strings.Replace(states26, " 5 5 55 ", " 5 5 -1 ", 1))
	if err != nil || ahead[0].Since != 0 {
		t.Errorf("%+v, %v", ahead, err)
	}
	for _, bad := range []string{"", "1\n", strings.ReplaceAll(states26, "srv_port", "port"), strings.ReplaceAll(states26, " - - 0", ""), strings.ReplaceAll(states26, "be 1", "be x"), states26 + states26, noTarget} {
		if got, err := listed(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestParseStats(t *testing.T) {
	got, err := ParseStats(strings.NewReader(stats26))
	if err != nil {
		t.Fatal(err)
	}
	one := netip.MustParseAddrPort("[::1]:80")
	server := Stat{IsServer: true, BackendID: 3, Checked: true, Since: 28 * time.Second, Op: OpRunning, Backup: true, Weight: 7, Address: one}
	with := func(name string, id uint32, change func(s *Stat)) Stat {
		s := server
		s.Key, s.ID = config.Key{Backend: "be", Name: name}, id
		change(&s)
		return s
	}
	want := []Stat{
		with("web1", 1, func(s *Stat) {
			s.Weight, s.MaxConnections, s.Backup = 4, 55, false
			s.Address = netip.MustParseAddrPort("127.0.0.9:18083")
			s.Reason = `Layer4 connection problem: Connection "refused", really`
		}),
		with("web2", 2, func(s *Stat) { s.Weight, s.Maintenance, s.Op = 0, true, OpStopped }),
		with("web3", 3, func(s *Stat) { s.Checked = false }),
		with("web4", 4, func(s *Stat) { s.Op, s.Reason = OpStopping, "Initializing" }),
		{Key: config.Key{Backend: "be", Name: "BACKEND"}, IsBackend: true, BackendID: 3},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "No such proxy.\n", strings.ReplaceAll(stats26, ",3,1,2,", ",x,1,2,")} {
		if got, err := ParseStats(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestParseEvent(t *testing.T) {
	const head = "<133>Nov 22 22:35:44 localhost haproxy[4873]: "
	web1 := config.Key{Backend: "be", Name: "web1"}
	for line, want := range map[string]Event{
		`Health check for server be/web1 failed, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms, status: 0/2 DOWN.`: {
			Key: web1, Kind: EventCheckFailed, Reason: `Layer4 connection problem, info: "Connection refused"`,
		},
		`Health check for backup server be/web1 succeeded, reason: Layer7 check passed, code: 200, check duration: 0ms, status: 3/3 UP.`: {
			Key: web1, Kind: EventCheckPassed, Reason: "Layer7 check passed, code: 200",
		},
		"Server be/web1 is DOWN. 0 active and 1 backup servers left. Running on backup. 0 sessions active, 0 requeued, 0 remaining in queue.": {Key: web1, Kind: EventDown},
		"Server be/web1 is DOWN, reason: Layer4 timeout, check duration: 2001ms. 1 active":                                                    {Key: web1, Kind: EventDown, Reason: "Layer4 timeout"},
		"Backup Server be/web1 is UP. 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue.":                           {Key: web1, Kind: EventUp},
		"Server be/web1 is UP/READY (leaving forced maintenance).":                                                                            {Key: web1},
		"Server be/web1 is going DOWN for maintenance. 1 active and 0 backup servers left.":                                                   {Key: web1},
		"Server be/web1 is stopping, changed from CLI. 0 active and 0 backup servers online.":                                                 {Key: web1},
	} {
		want.PID = 4873
		if got, ok := ParseEvent([]byte(head + line + "\n")); !ok || got != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
	for _, line := range []string{"", "backend be has no server available!", "Proxy be stopped (cumulated conns: FE: 0, BE: 0).", "Server be is UP.", "Server a b/c is UP."} {
		if got, ok := ParseEvent([]byte(head + line)); ok {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

// Parsers read what a daemon prints and must survive anything.
func fuzz[T any](f *testing.F, parse func(text string) (T, error), seeds ...string) {
	f.Helper()
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) { _, _ = parse(text) })
}

func FuzzParseProcesses(f *testing.F) {
	fuzz(f, func(s string) (*Processes, error) { return ParseProcesses(strings.NewReader(s)) }, processes26, processes24)
}

func FuzzParseStats(f *testing.F) {
	fuzz(f, func(s string) ([]Stat, error) { return ParseStats(strings.NewReader(s)) }, stats26)
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte("<133>Nov 22 22:35:44 localhost haproxy[4873]: Server be/web1 is UP."))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		if e, ok := ParseEvent(datagram); ok && (!config.IsToken(e.Backend) || !config.IsToken(e.Name)) {
			t.Errorf("%q names %q", datagram, e.Key)
		}
	})
}

func TestOnlyTokensAreSent(t *testing.T) {
	client := &Client{Path: "/nonexistent", Timeout: time.Second}
	for _, k := range []config.Key{{Backend: "be", Name: "a; b"}, {Backend: "be\n", Name: "a"}, {Backend: "be", Name: ""}} {
		if _, err := client.Do(t.Context(), 1, []Command{SetReady(k)}); err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("%q: %v", k, err)
		}
	}
}
