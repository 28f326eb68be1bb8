package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/client"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// expect checks an exit code and what must be in the output.
func expect(t *testing.T, got result, code int, stdout, stderr string) {
	t.Helper()
	if got.code != code || !strings.Contains(got.stdout, stdout) || !strings.Contains(got.stderr, stderr) {
		t.Errorf("want exit %d, stdout with %q, stderr with %q; got %s", code, stdout, stderr, got)
	}
}

func TestMistypedCommandLines(t *testing.T) {
	r := newRecorder(t)
	tests := []struct{ line, want string }{
		{"pool ad web", `unknown command "ad" for "lbctl pool": did you mean add?`},
		{"stauts", `unknown command "stauts" for "lbctl": did you mean status?`},
		{"nonsense", "unknown command \"nonsense\" for \"lbctl\"\nsee \"lbctl --help\"\n"},
		{"node token creat x", `did you mean create?`},
		{"history shwo 3", `did you mean show?`},
		{"", `a command is missing after "lbctl"`},
		{"pool", `a command is missing after "lbctl pool"`},
		{"pool add x --blance first", "unknown flag: --blance: did you mean --balance?"},
		{"pool add x --zzzzzz", "unknown flag: --zzzzzz\nsee \"lbctl pool add --help\"\n"},
		{"pool add", "POOL is missing"},
		{"pool add a b", `only POOL is taken (got "b" beside it)`},
		{"pool list x", `no arguments are taken here (got "x")`},
		{"pool add x --rise two", `invalid argument "two" for "--rise" flag: must be a whole number`},
		{"pool add x --interval 2", "must be a duration such as 500ms, 2s or 1m30s"},
		{"pool add x --check 'GET a b'", "must be a request such as 'GET /health', or tcp, or none"},
		{"pool set x", "nothing to change: give a flag, or --unset"},
		{"pool set x --unset nonsense", "--unset must name one of"},
		{"pool list -o xml", "must be one of table, wide, json, yaml, name"},
		{"backend add web1 192.168.1.20:80", "name must be POOL/BACKEND, such as web_servers/web1"},
		{"backend add p/web1 192.168.1.20", "server must be ADDRESS:PORT, such as 192.168.1.20:80"},
		{"backend add p/web1 192.168.1.20:http", "port must be a number"},
		{"backend drain p/web1 --for -1m", "--for must be a time to come"},
		{"vip add web 192.168.1.100/24", "--vrid is missing"},
		{"vip add web", "ADDRESS/PREFIX... is missing"},
		{"vip set web --track router", "for \"--track\" flag: must begin with gateway, ping, url or network"},
		{"vip set web --track network", "network needs a network of the nodes"},
		{"vip set web --track ping", "ping needs an IP address, such as 'ping 192.168.1.1'"},
		{"vip set web --track 'gateway 192.168.1.300'", "gateway needs an IP address"},
		{"vip set web --track url", "url needs a URL"},
		{"vip set web --track 'gateway wieght=-4'", `"wieght=" is none of interval=, timeout=`},
		{"vip set web --track 'gateway weight=-20 192.168.1.1'", `"192.168.1.1" is no option: a target comes first, and options such as weight=-20 behind it`},
		{"vip set web --track 'gateway interval=1'", "interval must be a duration such as 500ms"},
		{"vip set web --track 'gateway weight=heavy'", "weight must be a whole number, -56 to -1"},
		{"vip set web --track gateway --unset track", "--unset track and --track contradict each other"},
		{"listener add l --pool p", "--port is missing"},
		{"listener add l --pool p --port http", "--port must be a number or a range"},
		{"cluster set --stats-password-file f", "--stats-user is missing"},
		{"cluster set --stats-user admin", "no terminal to ask on"},
		{"apply", "-f is missing"},
		{"plan", "-f is missing"},
		{"history --limit 0", "--limit must be 1 to 1000"},
		{"events --tail 2000", "--tail must be 1 to 1000"},
		{"--cluster a/b pool list", "cluster must be its id"},
		{"node token create n --ttl -1s", "--ttl must be a time to come"},
	}
	for _, tt := range tests {
		expect(t, r.run("", split(tt.line)...), 2, "", tt.want)
	}
	if calls := r.taken(); len(calls) > 0 {
		t.Errorf("calls were made: %v", calls)
	}
}

func TestRefusalsNameFieldReasonAndCure(t *testing.T) {
	r := newRecorder(t)
	wrong, err := status.New(codes.InvalidArgument, "the change was refused").WithDetails(
		&errdetails.ErrorInfo{Reason: "FIELD_INVALID", Domain: "tandem"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "backend.address", Reason: "FIELD_INVALID", Description: "must be an IP address such as 192.168.1.20"},
			{Field: "backend.port", Reason: "FIELD_INVALID", Description: "must be at most 65535"},
		}})
	if err != nil {
		t.Fatal(err)
	}
	r.refusals["CreateBackend"] = wrong.Err()
	got := r.run("", "backend", "add", "p/web1", "192.168.1.999:99999")
	want := "error: backend.address: must be an IP address such as 192.168.1.20 (got \"192.168.1.999\") [FIELD_INVALID]\n" +
		"       backend.port: must be at most 65535 (got 99999) [FIELD_INVALID]\n"
	if got.code != 1 || got.stdout != "" || got.stderr != want {
		t.Errorf("got %s\nwant exit 1 and\n%s", got, want)
	}

	for code, exit := range map[codes.Code]int{
		codes.NotFound: 3, codes.PermissionDenied: 4, codes.Unauthenticated: 4, codes.AlreadyExists: 5, codes.Aborted: 5,
		codes.FailedPrecondition: 5, codes.DeadlineExceeded: 6, codes.Internal: 1,
	} {
		r.refusals["DeletePool"] = status.Error(code, "because \x1b[2Jso")
		want := "error: because [2Jso\n"
		if code == codes.DeadlineExceeded {
			want = "did not answer in time"
		}
		expect(t, r.run("", "pool", "remove", "p"), exit, "", want)
	}
}

func TestFormats(t *testing.T) {
	r := newRecorder(t)
	first := &tandemv1.ListPoolsResponse{Pools: []*tandemv1.Pool{{Name: "clusters/default/pools/a"}, {Name: "clusters/default/pools/b"}}}
	r.replies["ListPools"] = []proto.Message{first}
	expect(t, r.run("", "pool", "list"), 0, "NAME   PROTOCOL   BALANCE      CHECK\na      http       roundrobin   tcp\n", "")
	expect(t, r.run("", "pool", "list", "-o", "wide"), 0, "CONNECT TIMEOUT", "")
	expect(t, r.run("", "pool", "list", "-o", "name"), 0, "clusters/default/pools/a\nclusters/default/pools/b\n", "")
	expect(t, r.run("", "pool", "list", "-o", "yaml"), 0, "pools:\n", "")
	got := r.run("", "pool", "list", "-o", "json")
	var back tandemv1.ListPoolsResponse
	if err := protojson.Unmarshal([]byte(got.stdout), &back); err != nil || !proto.Equal(&back, first) {
		t.Errorf("-o json is not the API's message: %v %s", err, got)
	}

	r.replies["CreateJoinToken"] = []proto.Message{&tandemv1.JoinToken{Token: "tandem-join.abc", Node: "lb-master", Name: "clusters/default/joinTokens/1"}}
	if got := r.run("", "node", "token", "create", "lb-master", "-o", "name"); got.stdout != "tandem-join.abc\n" {
		t.Errorf("want the token alone on stdout, got %s", got)
	}

	// A change prints the resource only when asked to.
	r.replies["CreatePool"] = []proto.Message{&tandemv1.Pool{Name: "clusters/default/pools/a", Etag: "e1"}}
	if got := r.run("", "pool", "add", "a"); got.stdout != "" {
		t.Errorf("words on stdout: %s", got)
	}
	expect(t, r.run("", "pool", "add", "a", "-o", "json"), 0, `"etag": "e1"`, "pool a added\n")
}

func TestListsHaveAllPages(t *testing.T) {
	calls := 0
	all, err := allPages(func(token string) (*tandemv1.ListVipsResponse, error) {
		calls++
		next := map[string]string{"": "2", "2": "3", "3": ""}[token]
		return &tandemv1.ListVipsResponse{Vips: []*tandemv1.Vip{{Name: "after " + token}}, NextPageToken: next}, nil
	})
	if err != nil || len(all.GetVips()) != 3 || all.GetNextPageToken() != "" || calls != 3 {
		t.Errorf("got %v, %v after %d calls", all, err, calls)
	}
}

func TestChangesWaitUntilApplied(t *testing.T) {
	r := newRecorder(t)
	r.header = metadata.Pairs("tandem-revision", "7", "tandem-epoch", "e1")
	node := func(id string, connected bool, applied, failed uint64) proto.Message {
		return &tandemv1.WatchStatusResponse{Epoch: "e1", Change: &tandemv1.WatchStatusResponse_Node{Node: &tandemv1.NodeStatus{
			Name: "clusters/default/nodes/" + id, Connected: connected, Applied: applied, Failed: failed, Failure: "[ALERT] cannot bind"}}}
	}
	synced := &tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Synced{Synced: true}}

	r.replies["WatchStatus"] = []proto.Message{synced}
	expect(t, r.run("", "pool", "add", "p"), 0, "", "pool p added, revision 7\nno node has joined yet")

	r.replies["WatchStatus"] = []proto.Message{node("a", false, 3, 0), synced}
	expect(t, r.run("", "pool", "add", "p"), 0, "", "no node is connected: the change waits for them\nnot connected: a; applied there on return\n")

	r.replies["WatchStatus"] = []proto.Message{node("a", true, 6, 0), node("b", false, 3, 0), synced, node("a", true, 7, 0)}
	expect(t, r.run("", "pool", "add", "p"), 0, "", "applied on a after ")

	r.replies["WatchStatus"] = []proto.Message{node("a", true, 6, 7), node("b", true, 7, 0), synced}
	expect(t, r.run("", "pool", "add", "p"), 1, "", "error: a did not apply revision 7; its last good configuration keeps serving:\n           [ALERT] cannot bind\n")

	r.replies["WatchStatus"] = []proto.Message{node("a", true, 6, 0), synced}
	expect(t, r.run("", "pool", "add", "p", "--timeout", "300ms"), 6, "", "waited too long: not applied yet on a")

	r.taken()
	expect(t, r.run("", "pool", "add", "p", "--no-wait"), 0, "", "pool p added, revision 7\n")
	r.header = nil
	expect(t, r.run("", "pool", "add", "p", "--dry-run"), 0, "", "dry run: nothing was changed")
	for _, call := range r.taken() {
		if strings.HasPrefix(call, "WatchStatus") {
			t.Error("it waited all the same")
		}
	}
}

func TestApplyShowsThePlaceInTheFile(t *testing.T) {
	r := newRecorder(t)
	file := r.write("c.yaml", "pools:\n- name: p\n  retries: 500\n")
	refused, err := status.New(codes.InvalidArgument, "refused").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "config.pools[0].retries", Reason: "FIELD_INVALID", Description: "must be at most 100"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.refusals["ApplyConfig"] = refused.Err()
	expect(t, r.run("", "apply", "-f", file), 1, "", "c.yaml:3:12 pools[0].retries: must be at most 100 (FIELD_INVALID)\n          3 |   retries: 500\n          3 | ...........^\n")
	expect(t, r.run("pools: [{name: p}, {nam: q}]", "apply", "-f", "-"), 1, "", "standard input:1:")
	expect(t, r.run("", "apply", "-f", filepath.Join(r.dir, "none.yaml")), 1, "", "none.yaml: no such file")

	delete(r.refusals, "ApplyConfig")
	r.replies["ApplyConfig"] = []proto.Message{&tandemv1.ApplyConfigResponse{}}
	expect(t, r.run("", "apply", "-f", file), 0, "", "cluster default is like that already\n")
	r.replies["ApplyConfig"] = []proto.Message{&tandemv1.ApplyConfigResponse{Revision: &tandemv1.Revision{Changes: []*tandemv1.Change{
		{Name: "clusters/default/pools/p", After: &tandemv1.Resource{Kind: &tandemv1.Resource_Pool{Pool: &tandemv1.Pool{Retries: proto.Uint32(3)}}}},
	}}}}
	expect(t, r.run("", "apply", "-f", file), 0, "+ pools/p   retries", "cluster default changed\n")
}

func TestSettingsPrecedence(t *testing.T) {
	r := newRecorder(t)
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "lbctl")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	config := "server: " + r.address + "\nca: " + filepath.Join(r.dir, "ca.pem") + "\ntoken_file: " + filepath.Join(r.dir, "token") + "\ncluster: fromfile\n"
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HOME": home}
	tests := []struct {
		env  string
		args []string
		want string
	}{
		{"", []string{"export"}, `ExportConfig {"parent":"clusters/fromfile"}`},
		{"fromenv", []string{"export"}, `ExportConfig {"parent":"clusters/fromenv"}`},
		{"fromenv", []string{"export", "--cluster", "fromflag"}, `ExportConfig {"parent":"clusters/fromflag"}`},
	}
	for _, tt := range tests {
		env[client.EnvCluster] = tt.env
		got := r.runEnv(env, "", tt.args...)
		if calls := r.taken(); len(calls) != 1 || calls[0] != tt.want {
			t.Errorf("%v with %q: %v, want %s; %s", tt.args, tt.env, calls, tt.want, got)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("sever: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, r.runEnv(env, "", "export"), 1, "", "config.yaml must hold server, token_file, ca and cluster")
	expect(t, r.runEnv(nil, "", "export"), 1, "", "no CA of the controller is known: run \"lbctl login\"")
	expect(t, r.runEnv(nil, "", "vip", "set", "web", "--track", "pin 192.0.2.1"), 2, "", "must begin with gateway, ping, url or network")
	expect(t, r.run("", "export", "--server", "127.0.0.1:1"), 1, "", "cannot reach the controller at 127.0.0.1:1: ")
	expect(t, r.run("", "export", "--server", "a b"), 1, "", "server must be HOST or HOST:PORT")
	expect(t, r.run("", "export", "--token-file", r.write("two", "two words\n")), 1, "", "must hold the token alone")
	expect(t, r.run("", "export", "--token-file", r.write("wrong", "wrong\n")), 4, "", "the token is not known")
	other := newRecorder(t)
	expect(t, r.run("", "export", "--ca", filepath.Join(other.dir, "ca.pem")), 1, "", "it is not the controller whose CA is configured")
}

func TestLogin(t *testing.T) {
	r := newRecorder(t)
	r.replies["GetCaller"] = []proto.Message{&tandemv1.Caller{Operator: "admin", ControllerVersion: "v9"}}
	home := t.TempDir()
	env := map[string]string{"HOME": home}
	dir := filepath.Join(home, ".config", "lbctl")
	token, ca := filepath.Join(r.dir, "token"), filepath.Join(r.dir, "ca.pem")
	fingerprint := client.Fingerprint(r.ca)

	expect(t, r.runEnv(env, "", "login", r.address, "--token-file", token), 2, "", fingerprint)
	expect(t, r.runEnv(env, "", "login", r.address, "--token-file", token, "--fingerprint", "00:11"), 1, "", "another fingerprint")
	if calls := r.taken(); len(calls) > 0 {
		t.Errorf("the token was sent before the CA was accepted: %v", calls)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a failed login left something behind")
	}
	expect(t, r.runEnv(env, "wrong\n", "login", r.address, "--token-file", "-", "--ca", ca), 4, "", "the token is not known")
	expect(t, r.runEnv(env, "", "login", r.address, "--token-file", token, "--fingerprint", "sha256:"+strings.ToLower(fingerprint), "--cluster", "shop"), 0, "", "logged in to "+r.address+" as admin")

	for _, file := range []string{"token", "config.yaml", "ca.pem"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", file, info.Mode())
		}
	}
	r.taken()
	expect(t, r.runEnv(env, "", "export"), 0, "", "")
	if calls := r.taken(); len(calls) != 1 || calls[0] != `ExportConfig {"parent":"clusters/shop"}` {
		t.Errorf("after the login: %v", calls)
	}
	expect(t, r.runEnv(env, "", "version"), 0, "lbctl v-test\nlb-controller v9\n", "")

	// Another controller at the same place is noticed.
	other := newRecorder(t)
	expect(t, r.runEnv(env, "", "login", other.address), 2, "", "WARNING: this is NOT the CA that was accepted before")
}

func TestCompletion(t *testing.T) {
	r := newRecorder(t)
	r.replies["ListPools"] = []proto.Message{&tandemv1.ListPoolsResponse{Pools: []*tandemv1.Pool{{Name: "clusters/default/pools/web_servers"}}}}
	r.replies["ListBackends"] = []proto.Message{&tandemv1.ListBackendsResponse{Backends: []*tandemv1.Backend{{Name: "clusters/default/pools/web_servers/backends/web1"}}}}
	r.replies["ListNodes"] = []proto.Message{&tandemv1.ListNodesResponse{Nodes: []*tandemv1.Node{{Name: "clusters/default/nodes/lb-master"}}}}
	r.replies["ListVips"] = []proto.Message{&tandemv1.ListVipsResponse{Vips: []*tandemv1.Vip{{Name: "clusters/default/vips/web"}}}}
	tests := []struct {
		words []string
		want  string
	}{
		{[]string{"pool", "show", ""}, "web_servers\n:4\n"},
		{[]string{"backend", "drain", ""}, "web_servers/\n:6\n"},
		{[]string{"backend", "drain", "web_servers/"}, "web_servers/web1\n:4\n"},
		{[]string{"backend", "drain", "web_servers/web1", ""}, ":4\n"},
		{[]string{"node", "drain", "lb"}, "lb-master\n:4\n"},
		{[]string{"listener", "add", "x", "--vip", ""}, "web\n:4\n"},
		{[]string{"listener", "add", "x", "--pool", ""}, "web_servers\n:4\n"},
		{[]string{"vip", "set", "web", "--priority", ""}, "lb-master=\n:6\n"},
		{[]string{"pool", "add", "x", "--balance", "least"}, "roundrobin\nleastconn\nfirst\nrandom\nsource\nuri\n:4\n"},
		{[]string{"pool", "list", "-o", ""}, "table\nwide\njson\nyaml\nname\n:4\n"},
		{[]string{"pool", "set", "x", "--unset", "connect"}, "connect-timeout"},
	}
	for _, tt := range tests {
		got := r.run("", append([]string{"__complete"}, tt.words...)...)
		if !strings.Contains(got.stdout, tt.want) {
			t.Errorf("%q completes to %q, want %q", tt.words, got.stdout, tt.want)
		}
	}
	expect(t, r.run("", "__complete", "--server", "127.0.0.1:1", "pool", "show", ""), 0, ":4\n", "")
	expect(t, r.run("", "completion", "bash"), 0, "bash completion V2 for lbctl", "")
}

func TestPlanShowsWhatTheNodesSay(t *testing.T) {
	r := newRecorder(t)
	file := r.write("c.yaml", "pools:\n- name: p\n  retries: 3\n")
	check := func(node string, verdict tandemv1.NodeVerdict, message string) *tandemv1.NodeCheck {
		return &tandemv1.NodeCheck{Node: "clusters/default/nodes/" + node, Verdict: verdict, Message: message}
	}
	reply := &tandemv1.ApplyConfigResponse{
		Revision: &tandemv1.Revision{Changes: []*tandemv1.Change{
			{Name: "clusters/default/pools/p", After: &tandemv1.Resource{Kind: &tandemv1.Resource_Pool{Pool: &tandemv1.Pool{Retries: proto.Uint32(3)}}}},
		}},
		NodeChecks: []*tandemv1.NodeCheck{
			check("a", tandemv1.NodeVerdict_NODE_VERDICT_ACCEPTED, ""),
			check("b", tandemv1.NodeVerdict_NODE_VERDICT_UNKNOWN, "its agent is not connected"),
		},
	}
	r.replies["ApplyConfig"] = []proto.Message{reply}
	want := "+ pools/p   retries            3\n\nNODE   VERDICT    MESSAGE\na      accepted\nb      unknown    its agent is not connected\n"
	expect(t, r.run("", "plan", "-f", file), 0, want, "")
	reply.NodeChecks[0] = check("a", tandemv1.NodeVerdict_NODE_VERDICT_REFUSED, "[ALERT] one\n[ALERT] two\n")
	expect(t, r.run("", "plan", "-f", file), 1, "a      refused   [ALERT] one\n                 [ALERT] two\nb ", "error: refused by a\n")
	expect(t, r.run("", "plan", "-f", file, "-o", "json"), 1, `"verdict": "NODE_VERDICT_REFUSED"`, "error: refused by a\n")
	reply.Revision, reply.NodeChecks = nil, nil
	expect(t, r.run("", "plan", "-f", file), 0, "", "cluster default is like that already\nno node has joined yet, so none was asked\n")
}
