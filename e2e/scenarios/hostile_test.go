package scenarios

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// hostile are texts that would do harm where one is taken for syntax.
var hostile = []string{
	"a\nserver evil 192.0.2.6:80", "a\r\n\r\nglobal", "a\x00b", "a\tb", "a\x7fb", "a\u0085b", "\x1b[2J",
	"a'; stats auth evil:evil #", `a" evil "b`, `a\`, `a\ b`, "a # b", "a ! b", "#", "!", "{", "}", "a b",
	"$HOME", "${PATH}", "@evil b", "%[env(HOME)]", "%n", "`id`", "$(id)", "ünïcode ☃", "\u202eevil",
	"/../../etc/passwd", "-evil", "=evil", "'", `"`, strings.Repeat("x", 3000),
}

// textField is a field of the API that holds text, and how each door is given
// a value of it.
type textField struct {
	field  string // as refusals name it
	prefix string // what a value must begin with
	lbctl  []string
	rest   string // with %s for the value in JSON
	body   string
	grpc   string
	json   string
}

// at begins a request about a resource that exists.
const (
	toCluster = `{"validate_only": true, "cluster": {"name": "clusters/default", %s}, "update_mask": {"paths": ["%s"]}}`
	toPool    = `{"validate_only": true, "pool": {"name": "clusters/default/pools/web_servers", %s}, "update_mask": {"paths": ["%s"]}}`
)

func clusterField(path, flag, body, mask string) textField {
	return textField{
		field: "cluster." + path, lbctl: []string{"cluster", "set", flag},
		rest: "PATCH " + inDefault + "?validate_only=true", body: "{" + body + "}",
		grpc: "UpdateCluster", json: fmt.Sprintf(toCluster, body, mask),
	}
}

func poolField(path, flag, body, mask string) textField {
	return textField{
		field: "pool." + path, lbctl: []string{"pool", "set", "web_servers", flag},
		rest: "PATCH " + inDefault + "/pools/web_servers?validate_only=true", body: "{" + body + "}",
		grpc: "UpdatePool", json: fmt.Sprintf(toPool, body, mask),
	}
}

func created(noun, field, method, parent, plural, fixed, body string, lbctl ...string) textField {
	if fixed != "" && body != "" {
		fixed = ", " + fixed
	}
	return textField{
		field: field, lbctl: lbctl,
		rest: "POST " + parent + "/" + plural + "?validate_only=true&" + noun + "_id=new", body: "{" + body + fixed + "}",
		grpc: method, json: fmt.Sprintf(`{"validate_only": true, "parent": "%s", "%s_id": "new", "%s": {%s}}`, parent, noun, noun, body+fixed),
	}
}

var textFields = []textField{
	clusterField("stats_page.realm", "--stats-realm", `"stats_page": {"realm": %s}`, "stats_page.realm"),
	clusterField("stats_page.path", "--stats-path", `"stats_page": {"path": %s}`, "stats_page.path"),
	clusterField("stats_page.address", "--stats-address", `"stats_page": {"address": %s}`, "stats_page.address"),
	clusterField("logging.target", "--log-target", `"logging": {"target": %s}`, "logging.target"),
	clusterField("logging.facility", "--log-facility", `"logging": {"facility": %s}`, "logging.facility"),
	poolField("balance", "--balance", `"balance": %s`, "balance"),
	poolField("protocol", "--protocol", `"protocol": %s`, "protocol"),
	poolField("check.http.host", "--check-host", `"check": {"http": {"host": %s}}`, "check.http.host"),
	poolField("check.http.expected_status", "--check-status", `"check": {"http": {"expected_status": %s}}`, "check.http.expected_status"),
	created("vip", "vip.network", "CreateVip", inDefault, "vips", `"addresses": ["192.168.1.101/24"], "vrid": 60`, `"network": %s`,
		"vip", "add", "new", "192.168.1.101/24", "--vrid", "60", "--network"),
	created("vip", "vip.fail_back", "CreateVip", inDefault, "vips", `"addresses": ["192.168.1.101/24"], "vrid": 60`, `"fail_back": %s`,
		"vip", "add", "new", "192.168.1.101/24", "--vrid", "60", "--fail-back"),
	created("listener", "listener.pool", "CreateListener", inDefault, "listeners", `"binds": [{"vip": "web", "port": 81}]`, `"pool": %s`,
		"listener", "add", "new", "--vip", "web", "--port", "81", "--pool"),
	created("listener", "listener.binds[0].vip", "CreateListener", inDefault, "listeners", `"pool": "web_servers"`, `"binds": [{"port": 81, "vip": %s}]`,
		"listener", "add", "new", "--port", "81", "--pool", "web_servers", "--vip"),
	created("listener", "listener.probe.host", "CreateListener", inDefault, "listeners", `"pool": "web_servers", "binds": [{"vip": "web", "port": 81}]`, `"probe": {"host": %s}`,
		"listener", "add", "new", "--vip", "web", "--port", "81", "--pool", "web_servers", "--probe-host"),
	{
		field: "message", lbctl: []string{"pool", "set", "web_servers", "--retries", "5", "--message"},
		grpc: "UpdatePool", json: `{"validate_only": true, "message": %s, "pool": {"name": "clusters/default/pools/web_servers", "retries": 5}, "update_mask": {"paths": ["retries"]}}`,
	},
	{
		field: "override.reason", lbctl: []string{"backend", "drain", "web_servers/web1", "--reason"},
		rest: "PATCH " + inDefault + "/pools/web_servers/backends/web1/override?validate_only=true", body: `{"state": "drain", "reason": %s}`,
		grpc: "UpdateOverride", json: `{"validate_only": true, "override": {"name": "clusters/default/pools/web_servers/backends/web1/override", "state": "drain", "reason": %s}}`,
	},
	{
		field: "override.state",
		rest:  "PATCH " + inDefault + "/pools/web_servers/backends/web1/override?validate_only=true", body: `{"state": %s}`,
		grpc: "UpdateOverride", json: `{"validate_only": true, "override": {"name": "clusters/default/pools/web_servers/backends/web1/override", "state": %s}}`,
	},
	{
		field: "backend.address",
		rest:  "POST " + inDefault + "/pools/web_servers/backends?validate_only=true&backend_id=new", body: `{"port": 80, "address": %s}`,
		grpc: "CreateBackend", json: `{"validate_only": true, "parent": "clusters/default/pools/web_servers", "backend_id": "new", "backend": {"port": 80, "address": %s}}`,
	},
	{
		field: "pool.check.http.path", prefix: "/",
		rest: "PATCH " + inDefault + "/pools/web_servers?validate_only=true", body: `{"check": {"http": {"path": %s}}}`,
		grpc: "UpdatePool", json: fmt.Sprintf(toPool, `"check": {"http": {"path": %s}}`, "check.http.path"),
	},
	{field: "pool_id", lbctl: []string{"pool", "add", "--"}, grpc: "CreatePool", json: `{"validate_only": true, "parent": "clusters/default", "pool_id": %s, "pool": {}}`},
	{
		field: "backend_id", grpc: "CreateBackend",
		json: `{"validate_only": true, "parent": "clusters/default/pools/web_servers", "backend_id": %s, "backend": {"address": "192.168.1.30", "port": 80}}`,
	},
	{
		field: "vip_id", grpc: "CreateVip",
		json: `{"validate_only": true, "parent": "clusters/default", "vip_id": %s, "vip": {"addresses": ["192.168.1.101/24"], "vrid": 60}}`,
	},
	{
		field: "listener_id", grpc: "CreateListener",
		json: `{"validate_only": true, "parent": "clusters/default", "listener_id": %s, "listener": {"binds": [{"vip": "web", "port": 81}], "pool": "web_servers"}}`,
	},
	{field: "cluster_id", grpc: "CreateCluster", json: `{"validate_only": true, "cluster_id": %s, "cluster": {}}`},
}

// I6: no text from a user can become a directive. Each hostile text is refused
// with the name of its field, alike at each door, or it is a value in the files
// and nothing else in them changes.
func TestI6NoTextBecomesADirective(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	d := openDoors(ctx, s)
	before := s.head(ctx)
	accepted := map[string][]string{}
	for i, f := range textFields {
		t.Run(f.field, func(t *testing.T) {
			d := d.in(t)
			for j, value := range hostile {
				// lbctl and curl are processes: each gets every text of some fields.
				if d.verdict(ctx, f, f.prefix+value, (i+j)%8 == 0) {
					accepted[f.field] = append(accepted[f.field], value)
				}
			}
		})
	}
	if after := s.head(ctx); after != before {
		t.Errorf("validate_only made revisions %d to %d", before+1, after)
	}
	// Some fields take any text that is one line, the others none of these.
	oneLine := []string{"cluster.stats_page.realm", "pool.check.http.path", "message", "override.reason"}
	for _, f := range textFields {
		for _, value := range accepted[f.field] {
			control := strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f })
			if control || !slices.Contains(oneLine, f.field) && !slices.Contains(plain[f.field], value) {
				t.Errorf("%s accepts %.60q", f.field, value)
			}
		}
	}

	for _, tt := range []struct {
		field, value string
		args         []string
	}{
		{"realm", "x'; stats auth evil:evil # ! $HOME ${PATH} @e %[env(H)] }{ ☃", []string{"cluster", "set", "--stats-realm"}},
		{"check path", "/x';stats#!$HOME${PATH}@e%[env(H)]%n}{`id`\\\"|&", []string{"pool", "set", "web_servers", "--check"}},
	} {
		t.Run(tt.field+" in the files", func(t *testing.T) {
			s := s.in(t)
			value := tt.value
			if tt.field == "check path" {
				value = "GET " + value
			}
			was := s.files()
			s.lbctl(ctx, append(tt.args, value)...)
			for name, now := range s.files() {
				onlyValue(t, name, was[name], now, tt.value)
			}
		})
	}
}

// plain are texts of the list that are right where only names belong.
var plain = map[string][]string{
	"cluster.stats_page.path": {"/../../etc/passwd"}, "vip.network": {"-evil"},
}

// verdict gives a text to a field and tells whether it was accepted.
func (d *doors) verdict(ctx context.Context, f textField, value string, everywhere bool) bool {
	d.t.Helper()
	fill := func(template string) string { return strings.Replace(template, "%s", text(value), 1) }
	got, st := d.byGRPC(ctx, f.grpc, fill(f.json))
	if got != (refusal{}) && (got.Field != f.field || got.Reason == "") {
		d.t.Errorf("%.60q: gRPC answers %v (%+v), want field %s", value, st, got, f.field)
	}
	if !everywhere {
		return got == refusal{}
	}
	if f.rest != "" {
		method, path, _ := strings.Cut(f.rest, " ")
		if byREST, _ := d.byREST(ctx, method, path, strings.NewReader(fill(f.body))); byREST != got {
			d.t.Errorf("%.60q: REST answers %+v and gRPC %+v", value, byREST, got)
		}
	}
	// No argument of a program can hold a NUL.
	if f.lbctl != nil && !strings.Contains(value, "\x00") {
		args := append([]string{f.lbctl[0], f.lbctl[1], "--dry-run"}, f.lbctl[2:]...)
		if byLbctl := d.byLbctl(ctx, append(args, value)...); byLbctl != got {
			d.t.Errorf("%.60q: lbctl answers %+v and gRPC %+v", value, byLbctl, got)
		}
	}
	return got == refusal{}
}

// files reads what both nodes' daemons are configured with.
func (s *site) files() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, name := range clustertest.Both {
		n := s.Nodes[name]
		for _, path := range []string{haproxyFile(n), filepath.Join(n.StateDir, "keepalived", "keepalived.conf")} {
			text, err := os.ReadFile(path)
			if err != nil {
				s.t.Fatal(err)
			}
			all[name+" "+filepath.Base(path)] = string(text)
		}
	}
	return all
}

// onlyValue checks that two files differ in nothing but one word of one line,
// which is the value. The mark of the structure differs, too.
func onlyValue(t *testing.T, name, was, now, value string) {
	t.Helper()
	if strings.HasSuffix(name, "keepalived.conf") {
		if was != now {
			t.Errorf("%s changed:\n%s", name, now)
		}
		return
	}
	before, after := strings.Split(was, "\n"), strings.Split(now, "\n")
	if len(before) != len(after) {
		t.Fatalf("%s had %d lines and has %d:\n%s", name, len(before), len(after), now)
	}
	found := 0
	for i := range before {
		old, fresh := words(before[i]), words(after[i])
		if slices.Equal(old, fresh) || len(old) > 0 && old[0] == "description" {
			continue
		}
		different := 0
		for j := range min(len(old), len(fresh)) {
			if old[j] != fresh[j] {
				different++
				if fresh[j] == value {
					found++
				}
			}
		}
		if len(old) != len(fresh) || different != 1 {
			t.Errorf("%s: line %d was\n%s\nand is\n%s", name, i+1, before[i], after[i])
		}
	}
	if found != 1 {
		t.Errorf("%s has %q %d times as a value, want once:\n%s", name, value, found, now)
	}
}

// words splits a line as HAProxy does: quotes, backslashes, environment
// variables within double quotes or none, and comments. A variable stays as
// "\x00NAME", which is no value.
func words(line string) []string {
	var out []string
	var word strings.Builder
	begun, quote := false, rune(0)
	escaped := false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case quote == '\'' && c != '\'':
			word.WriteRune(c)
		case c == '\\':
			begun, escaped = true, true
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			begun, quote = true, c
		case c == '$':
			begun = true
			word.WriteString("\x00")
		case quote == 0 && c == '#':
			if begun || word.Len() > 0 {
				out = append(out, word.String())
			}
			return out
		case quote == 0 && (c == ' ' || c == '\t'):
			if begun || word.Len() > 0 {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
		}
	}
	if begun || word.Len() > 0 {
		out = append(out, word.String())
	}
	return out
}
