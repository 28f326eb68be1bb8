package scenarios

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// passwords sets and changes passwords at each door.
func (k *keeper) passwords(ctx context.Context) {
	k.site.t.Helper()
	vrrp := func() string { return k.knows("VRRP password", canary(8)) }
	stats := func() string { return k.knows("statistics password", canary(20)) }
	k.does(ctx, "cluster", "set", "--vrrp-version", "2", "--vrrp-password-file", k.file("vrrp.1", vrrp()),
		"--stats-user", "admin", "--stats-password-file", k.file("stats.1", stats()), "--log-target", "file", "--log-format", "json")
	k.does(ctx, "cluster", "set", "--stats-user", "admin", "--stats-password-file", k.file("stats.2", stats()), "-o", "json")
	k.does(ctx, "cluster", "set", "--stats-user", "another", "--stats-password-file", k.file("stats.3", stats()), "--dry-run", "-o", "yaml")

	// A file with other passwords, by way of what export prints.
	exported := k.lbctl(ctx, "export")
	k.hears("lbctl export", []byte(exported))
	with := withPassword(exported, vrrp())
	with = regexp.MustCompile(`(?m)^( *)- name: admin$`).ReplaceAllString(with,
		"${0}\n${1}  password: "+stats()+"\n${1}- name: filed\n${1}  password: "+stats())
	if strings.Count(with, "password: cny") != 3 {
		k.site.t.Fatalf("the passwords have found no place in\n%s", with)
	}
	path := k.file("cluster.yaml", with)
	k.does(ctx, "plan", "-f", path)
	k.does(ctx, "plan", "-f", path, "-o", "json")
	k.does(ctx, "apply", "-f", path, "--dry-run")
	k.does(ctx, "apply", "-f", path)
	k.does(ctx, "apply", "-f", path, "-o", "json")

	d := openDoors(ctx, k.site)
	for _, body := range []string{
		`{"vrrp": {"version": 2, "authPassword": "` + vrrp() + `"}, "stats_page": {"users": [{"name": "admin", "password": "` + stats() + `"}]}}`,
	} {
		k.heard(ctx, d, http.MethodPatch, cluster.Name+"?update_mask=vrrp.auth_password,stats_page.users", body, true)
	}
	k.inEffect(ctx, k.head(ctx))
	text, err := os.ReadFile(haproxyFile(k.Master()))
	if err != nil {
		k.site.t.Fatal(err)
	}
	hash := regexp.MustCompile(`\$2[aby]\$[0-9]+\$[./A-Za-z0-9]{53}`).FindString(string(text))
	k.knows("statistics password's hash", hash)
	k.knows("statistics password's hash", hash[7:])
}

// withPassword puts a VRRP password into a file, or another one.
func withPassword(file, password string) string {
	file = regexp.MustCompile(`(?m)^ *auth_password: .*\n`).ReplaceAllString(file, "")
	return regexp.MustCompile(`(?m)^( *)version: 2$`).ReplaceAllString(file, "${0}\n${1}auth_password: "+password)
}

// heard makes a REST call and hears the answer.
func (k *keeper) heard(ctx context.Context, d *doors, method, path, body string, works bool) {
	k.site.t.Helper()
	answer, code := d.byREST(ctx, method, path, strings.NewReader(body))
	k.hears(method+" "+path, []byte(answer.Field+"\n"+answer.Message+"\n"+answer.Reason))
	if works != (code == http.StatusOK) {
		k.site.t.Errorf("%s %s: %d %+v", method, path, code, answer)
	}
}

// wrongPasswords gives passwords that are refused, in every way to do it wrongly.
func (k *keeper) wrongPasswords(ctx context.Context) {
	k.site.t.Helper()
	wrong := func() string { return k.knows("refused password", canary(20)) }
	long := k.knows("refused password", canary(20)) + strings.Repeat("x", 80)
	for name, value := range map[string]string{"long": wrong(), "sign": wrong()[:6] + "-" + wrong(), "line": wrong() + "\n" + wrong(), "control": wrong() + "\x01"} {
		k.fails(ctx, "cluster", "set", "--vrrp-password-file", k.file("wrong."+name, value))
	}
	for name, value := range map[string]string{"long": long, "line": wrong() + "\n" + wrong(), "control": "\x1b[31m" + wrong()} {
		k.fails(ctx, "cluster", "set", "--stats-user", "admin", "--stats-password-file", k.file("wrong-stats."+name, value))
	}
	k.fails(ctx, "cluster", "set", "--stats-password-file", k.file("nobody", wrong()))
	for name, text := range map[string]string{
		"refused":  "cluster:\n  vrrp: {version: 2, auth_password: " + wrong() + "}\n",
		"list":     "cluster:\n  vrrp:\n    auth_password: [" + wrong() + "]\n",
		"below":    "cluster:\n  stats_page:\n    users:\n    - name: admin\n      password:\n        - " + wrong() + "\n",
		"beside":   "cluster:\n  vrrp: {auth_password: " + wrong() + ", versio: 2}\n",
		"twice":    "cluster:\n  vrrp:\n    auth_password: " + wrong() + "\n    auth_password: " + wrong() + "\n",
		"quote":    "cluster:\n  vrrp:\n    auth_password: \"" + wrong() + "\n",
		"long":     "cluster:\n  stats_page:\n    users: [{name: admin, password: " + long + "}]\n",
		"no name":  "cluster:\n  stats_page:\n    users: [{name: \"\", password: " + wrong() + "}]\n",
		"same one": "cluster:\n  stats_page:\n    users: [{name: a, password: " + wrong() + "}, {name: a, password: " + wrong() + "}]\n",
		"json":     `{"cluster": {"vrrp": {"authPassword": {"x": "` + wrong() + `"}}}}`,
	} {
		k.fails(ctx, "apply", "-f", k.file("wrong "+name+".yaml", text))
	}
	d := openDoors(ctx, k.site)
	for _, body := range []string{
		`{"vrrp": {"authPassword": "` + wrong() + `"}}`, `{"vrrp": {"auth_password": ["` + wrong() + `"]}}`, `{"vrrp": {"auth_password": "` + wrong() + ``,
		`{"vrrp": {"auth_password": {"` + wrong() + `": 1}}}`, `{"vrrp": {"auth_password": "a", "auth_password": "` + wrong() + `"}}`,
		`{"vrrp": {"auth_password": ` + wrong() + `}}`, `{"vrrp": "` + wrong() + `"}`, `{"vrrp": {"auth_password": "` + wrong() + `\u0000"}}`,
		`{"statsPage": {"users": [{"name": "admin", "password": "` + long + `"}]}}`, `{"statsPage": {"users": {"password": "` + wrong() + `"}}}`,
		`{"statsPage": {"users": [{"password": "` + wrong() + `"}]}}`,
	} {
		k.heard(ctx, d, http.MethodPatch, cluster.Name, body, false)
		k.heard(ctx, d, http.MethodPost, cluster.Name+":apply", `{"config": {"cluster": `+body+`}}`, false)
	}
	for _, c := range []*tandemv1.Cluster{
		{Name: cluster.Name, Vrrp: &tandemv1.Vrrp{AuthPassword: wrong()}},
		{Name: cluster.Name, Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(3), AuthPassword: k.knows("refused password", canary(8))}},
		{Name: cluster.Name, StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Name: "admin", Password: long}}}},
	} {
		_, err := k.config.UpdateCluster(ctx, &tandemv1.UpdateClusterRequest{Cluster: c})
		if err == nil {
			k.site.t.Errorf("%v is accepted", c.GetName())
			continue
		}
		k.hears("UpdateCluster", []byte(err.Error()+prototext.Format(status.Convert(err).Proto())))
	}
}

// refusedByANode lets a node's own daemon refuse changes that hold passwords.
func (k *keeper) refusedByANode(ctx context.Context) {
	k.site.t.Helper()
	password := func() string { return k.file("vrrp.refused", k.knows("VRRP password", canary(8))) }
	for _, tt := range []struct {
		cause         func(context.Context, *site, *cluster.Node) func() error
		change, after []string
	}{
		{groupGone, []string{"cluster", "set", "--client-timeout", "45s", "--vrrp-password-file", password()}, []string{"cluster", "set", "--client-timeout", "46s"}},
		{portTaken, []string{"listener", "set", "web_frontend", "--vip", "web", "--port", "80", "--port", "9090"}, []string{"listener", "set", "web_frontend", "--vip", "web", "--port", "80"}},
	} {
		undo := tt.cause(ctx, k.site, k.Backup())
		k.fails(ctx, append(tt.change, "--timeout", "5s")...)
		k.fails(ctx, "cluster", "set", "--vrrp-password-file", password(), "--timeout", "5s")
		k.does(ctx, "status", "-o", "json")
		if err := undo(); err != nil {
			k.site.t.Fatal(err)
		}
		k.does(ctx, tt.after...)
		k.healthy(ctx)
	}
}
