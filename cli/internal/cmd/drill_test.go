package cmd

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// standing is a recorder whose VIP web can be moved, with a listener on a port of this
// machine.
func standing(t *testing.T, port uint16, obstacles ...string) *recorder {
	t.Helper()
	r := newRecorder(t)
	d := &tandemv1.Diagnosis{Name: "clusters/default", Vips: []*tandemv1.VipDiagnosis{{
		Name: "clusters/default/vips/web", Holder: "lb-master",
		Standbys: []*tandemv1.StandbyDiagnosis{{Node: "lb-backup", Ready: len(obstacles) == 0, Priority: 220, Obstacles: obstacles}},
	}}}
	if len(obstacles) == 0 {
		d.Vips[0].Taker = "lb-backup"
	}
	for _, reason := range obstacles {
		d.Findings = append(d.Findings, &tandemv1.DiagnosisFinding{Reason: reason, Stops: true, Message: "lb-backup is ill", Cure: "heal it"})
	}
	r.replies["Diagnose"] = []proto.Message{d}
	r.replies["GetVip"] = []proto.Message{&tandemv1.Vip{Name: "clusters/default/vips/web", Addresses: []string{"127.0.0.1/8"}}}
	r.replies["ListListeners"] = []proto.Message{&tandemv1.ListListenersResponse{Listeners: []*tandemv1.Listener{
		{Name: "clusters/default/listeners/other", Binds: []*tandemv1.Bind{{Vip: "other", Port: 1}}},
		{Name: "clusters/default/listeners/web", Binds: []*tandemv1.Bind{{Vip: "web", Port: uint32(port)}}, Probe: &tandemv1.Probe{Path: "/health"}},
	}}}
	r.replies["FailoverVip"] = []proto.Message{&tandemv1.FailoverVipResponse{From: "lb-master", To: "lb-backup", Duration: durationpb.New(300 * time.Millisecond)}}
	return r
}

// hide has nothing known of whether lb-backup would take VIP web.
func hide(r *recorder) {
	d := r.replies["Diagnose"][0].(*tandemv1.Diagnosis)
	d.Findings = []*tandemv1.DiagnosisFinding{{Reason: "AGENT_SILENT", Message: "no answer", Cure: "ask again"}}
	v := d.GetVips()[0]
	v.Taker, v.Standbys[0].Ready, v.Standbys[0].Unknowns = "", false, []string{"AGENT_SILENT"}
}

func serve(t *testing.T, handle http.HandlerFunc) uint16 {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
}

func TestADrillMovesMeasuresAndMovesBack(t *testing.T) {
	port := serve(t, func(http.ResponseWriter, *http.Request) {})
	r := standing(t, port)
	got := r.run("", "drill", "failover", "web", "--yes", "-o", "json")
	report := &tandemv1.DrillReport{}
	if err := protojson.Unmarshal([]byte(got.stdout), report); err != nil || got.code != 0 {
		t.Fatalf("%v: %v", got, err)
	}
	if len(report.GetMoves()) != 2 || report.GetTarget() != fmt.Sprintf("http://127.0.0.1:%d/health", port) || report.GetVip() != "clusters/default/vips/web" {
		t.Errorf("reported %v", report)
	}
	for _, m := range report.GetMoves() {
		if m.GetRequests() < 50 || m.GetFailed() != 0 || m.GetBlackout().AsDuration() <= 0 || m.GetDuration().AsDuration() != 300*time.Millisecond {
			t.Errorf("a move: %v", m)
		}
	}
	var moves []string
	for _, call := range r.taken() {
		if strings.HasPrefix(call, "FailoverVip ") {
			moves = append(moves, call)
		}
	}
	if len(moves) != 2 || !strings.Contains(moves[0], `"to":"lb-backup"`) || !strings.Contains(moves[1], `"to":"lb-master"`) {
		t.Errorf("it moved %v", moves)
	}
	if got := r.run("", "drill", "failover", "web", "--yes"); got.code != 0 || !strings.Contains(got.stdout, "BLACKOUT") || !strings.Contains(got.stderr, "VIP web moved from lb-master to lb-backup in 300ms") {
		t.Errorf("for people: %v", got)
	}
}

// Whatever is not as it should be is told, with its exit code, and moves nothing before
// it has to.
func TestADrillThatFails(t *testing.T) {
	port := serve(t, func(http.ResponseWriter, *http.Request) {})
	var asked atomic.Int64
	flaky := serve(t, func(http.ResponseWriter, *http.Request) {
		if asked.Add(1)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
	})
	ill := func(from int64) uint16 {
		var asked atomic.Int64
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) >= from {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
	}
	turns := func(all ...any) func(*recorder) {
		return func(r *recorder) { r.turns = map[string][]any{"FailoverVip": all} }
	}
	moved := func(from, to string) *tandemv1.FailoverVipResponse {
		return &tandemv1.FailoverVipResponse{From: from, To: to, Duration: durationpb.New(300 * time.Millisecond)}
	}
	at := func(binds ...*tandemv1.Bind) func(*recorder) {
		return func(r *recorder) {
			r.replies["ListListeners"] = []proto.Message{&tandemv1.ListListenersResponse{Listeners: []*tandemv1.Listener{
				{Name: "clusters/default/listeners/web", Binds: binds, Protocol: "tcp"},
			}}}
		}
	}
	third := status.Error(codes.FailedPrecondition, "VIP web: node lb-third would take it from lb-backup, with a higher priority than lb-master")
	for name, test := range map[string]struct {
		recorder *recorder
		spoil    func(*recorder)
		args     []string
		code     int
		says     string
		moves    int
		prints   string
	}{
		"no failover would work": {recorder: standing(t, port, "PROXY_DEAD"), args: []string{"--yes"}, code: 1,
			says: "VIP web is not moved: the failover would not work (see \"lbctl doctor web\")\n       PROXY_DEAD: lb-backup is ill; cure: heal it"},
		"it would not work there": {recorder: standing(t, port, "PROXY_DEAD"), args: []string{"--yes", "--to", "lb-backup"}, code: 1, says: "PROXY_DEAD"},
		"it is not known": {recorder: standing(t, port), spoil: hide, args: []string{"--yes"}, code: 1,
			says: "VIP web is not moved: it is not known whether lb-backup would take it; --force moves it all the same (see \"lbctl doctor web\")\n       AGENT_SILENT: no answer; cure: ask again"},
		"it is not known there":        {recorder: standing(t, port), spoil: hide, args: []string{"--yes", "--to", "lb-backup"}, code: 1, says: "it is not known whether lb-backup would take it"},
		"it is not known, and forced":  {recorder: standing(t, port), spoil: hide, args: []string{"--yes", "--force"}, code: 0, says: "VIP web moved from lb-master to lb-backup", moves: 2},
		"it would not work, if forced": {recorder: standing(t, port, "PROXY_DEAD"), args: []string{"--yes", "--force"}, code: 1, says: "the failover would not work"},
		"nobody to ask":                {recorder: standing(t, port), code: failure.ExitUsage, says: "give --yes to go on"},
		"where it is":                  {recorder: standing(t, port), args: []string{"--yes", "--to", "lb-master"}, code: failure.ExitUsage, says: "holds VIP web already"},
		"to nobody":                    {recorder: standing(t, port), spoil: func(r *recorder) { r.refusals["GetNode"] = status.Error(codes.NotFound, "node nobody does not exist") }, args: []string{"--yes", "--to", "nobody"}, code: failure.ExitNotFound, says: "nobody does not exist"},
		"the move fails": {recorder: standing(t, port), spoil: func(r *recorder) {
			r.refusals["FailoverVip"] = status.Error(codes.FailedPrecondition, "VIP web: it stays")
		}, args: []string{"--yes"}, code: failure.ExitConflict, says: "it stays", moves: 1},
		"the move is interrupted": {recorder: standing(t, port), spoil: func(r *recorder) {
			r.refusals["FailoverVip"] = status.Error(codes.Canceled, "canceled")
		}, args: []string{"--yes"}, code: 1, says: "VIP web may be on lb-backup by now (see \"lbctl status\"): canceled\n       bring it back with \"lbctl vip failover web --to lb-master\"", moves: 1},
		"the way back is interrupted": {recorder: standing(t, port), spoil: turns(moved("lb-master", "lb-backup"), status.Error(codes.Unavailable, "gone")),
			args: []string{"--yes"}, code: 1, says: "VIP web is on lb-backup, or on lb-master by now", moves: 2},
		"the way back is refused": {recorder: standing(t, port), spoil: turns(moved("lb-master", "lb-backup"), status.Error(codes.NotFound, "no such node")),
			args: []string{"--yes"}, code: failure.ExitNotFound, says: "VIP web stays on lb-backup: no such node", moves: 2},
		"it goes back by itself": {recorder: standing(t, port), spoil: turns(moved("lb-master", "lb-backup"), moved("lb-master", "lb-master")),
			args: []string{"--yes"}, code: 0, says: "VIP web had gone back from lb-backup to lb-master by itself", moves: 2, prints: "by itself"},
		"somebody else moves it": {recorder: standing(t, port), spoil: turns(moved("lb-backup", "lb-backup")),
			args: []string{"--yes"}, code: 1, says: "VIP web was on lb-backup already", moves: 1},
		"a third node would take it on the way back": {recorder: standing(t, port), spoil: turns(moved("lb-master", "lb-backup"), third, third, moved("lb-backup", "lb-master")),
			args: []string{"--yes"}, code: 0, says: "VIP web moved from lb-backup to lb-master", moves: 4},
		"answers are errors": {recorder: standing(t, ill(20)), args: []string{"--yes"}, code: 1,
			says: "requests were answered with an error of the server, the first with 503 Service Unavailable", moves: 2},
		"answers are errors before, too": {recorder: standing(t, ill(0)), args: []string{"--yes"}, code: 0,
			says: "answers 503 Service Unavailable before anything is moved: such answers count", moves: 2},
		"its listener is on every address": {recorder: standing(t, port), spoil: at(&tandemv1.Bind{Address: "127.0.0.1", Port: 1}, &tandemv1.Bind{Port: uint32(port)}),
			args: []string{"--yes", "-o", "json"}, code: 0, moves: 2, prints: fmt.Sprintf("tcp://127.0.0.1:%d", port)},
		"its own listener goes first": {recorder: standing(t, port), spoil: at(&tandemv1.Bind{Port: 1}, &tandemv1.Bind{Vip: "web", Port: uint32(port)}),
			args: []string{"--yes", "-o", "json"}, code: 0, moves: 2, prints: fmt.Sprintf("tcp://127.0.0.1:%d", port)},
		"requests are lost":  {recorder: standing(t, flaky), args: []string{"--yes"}, code: 1, says: "requests got no answer", moves: 2},
		"it is not reached":  {recorder: standing(t, 1), args: []string{"--yes"}, code: 0, says: "nothing is measured: http://127.0.0.1:1/health does not answer where lbctl runs", moves: 2},
		"it has no listener": {recorder: standing(t, port), spoil: func(r *recorder) { delete(r.replies, "ListListeners") }, args: []string{"--yes"}, code: 0, says: "nothing is measured: no listener is on the VIP", moves: 2},
	} {
		if test.spoil != nil {
			test.spoil(test.recorder)
		}
		got := test.recorder.run("", append([]string{"drill", "failover", "web"}, test.args...)...)
		moves := 0
		for _, call := range test.recorder.taken() {
			if strings.HasPrefix(call, "FailoverVip ") {
				moves++
			}
		}
		if got.code != test.code || !strings.Contains(got.stderr, test.says) || !strings.Contains(got.stdout, test.prints) || moves != test.moves {
			t.Errorf("%s: %v and %d moves, want code %d, %q, %d", name, got, moves, test.code, test.says+test.prints, test.moves)
		}
	}
}
