package scenarios

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// requests sends secrets through the VIP, to the statistics page and to the API.
func (k *keeper) requests(ctx context.Context) {
	k.site.t.Helper()
	secret := func() string { return k.knows("request's secret", canary(20)) }
	k.does(ctx, "cluster", "set", "--log-target", "file", "--log-format", "json")
	k.request(ctx, "192.168.1.100:80", "/canary-path?token="+secret(), "Bearer "+secret(), "id="+secret(), http.StatusOK)
	k.request(ctx, "192.168.1.10:8080", "/stats", "Basic "+base64.StdEncoding.EncodeToString([]byte("admin:"+secret())), "", http.StatusUnauthorized)
	k.until(20*time.Second, "the request is in the access log", func(context.Context) error { return k.logHas("access.log", "canary-path") })
	client := k.https()
	for _, r := range []struct{ path, authorization string }{
		{"/v1/clusters?access_token=" + secret(), "Bearer " + secret()}, {"/v1/clusters", "Basic " + secret()}, {"/v1/" + cluster.Name, "Bearer tandem-operator." + secret() + "." + secret()},
	} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+k.Controller.HTTPAddress()+r.path, nil)
		if err != nil {
			k.site.t.Fatal(err)
		}
		request.Header.Set("Authorization", r.authorization)
		k.answer(client, request, http.StatusUnauthorized)
	}
}

// https is a client at the controller's host.
func (k *keeper) https() *http.Client {
	k.site.t.Helper()
	text, err := os.ReadFile(k.Controller.CAFile())
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		k.site.t.Fatal("no CA", err)
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: k.Controller.Host.Dial, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
	}}
}

// answer hears what is answered, of a stream what comes within a second.
func (k *keeper) answer(client *http.Client, request *http.Request, want int) {
	k.site.t.Helper()
	ctx, cancel := context.WithTimeout(request.Context(), 10*time.Second)
	defer cancel()
	response, err := client.Do(request.WithContext(ctx))
	if err != nil {
		k.site.t.Fatal(err)
	}
	defer response.Body.Close()
	if strings.Contains(request.URL.Path, ":watch") {
		time.AfterFunc(time.Second, cancel)
	}
	text, _ := io.ReadAll(response.Body)
	k.hears(request.Method+" "+request.URL.Path, text)
	if response.StatusCode != want || len(text) == 0 {
		k.site.t.Errorf("%s %s: %s: %s", request.Method, request.URL.Path, response.Status, text)
	}
}

// onTheNode does what operators do at the machine.
func (k *keeper) onTheNode(ctx context.Context) {
	k.site.t.Helper()
	n := k.Backup()
	for _, args := range [][]string{
		{"drain", "--reason", "canary test"}, {"status"}, {"status", "-o", "json"}, {"backend", "drain", "web_servers/web1"}, {"failover", "nope"},
		{"discard", "--all"}, {"undrain"}, {"adopt"}, {"adopt", "--yes"}, {"release", "--yes"}, {"version"},
	} {
		cmd := n.Host.Command(ctx, k.Programs.Agent, append(slices.Clone(args), "--config", n.Config)...)
		out, _ := cmd.CombinedOutput() // right or wrong
		k.hears("lb-agent "+strings.Join(args, " "), out)
	}
	// Hand-written files with a secret in every place for one.
	proxy, vrrp := k.file("haproxy.cfg", k.planted(handProxy)), k.file("keepalived.conf", k.planted(handVRRP))
	output := filepath.Join(k.dir, "adopted.yaml")
	// As somebody may have left it.
	if err := os.WriteFile(output+".2", nil, 0o644); err != nil {
		k.site.t.Fatal(err)
	}
	for _, args := range [][]string{{"--peer", cluster.Backup + "=" + vrrp, "--output", output}, {"--output", output + ".2"}, {"--yes"}} {
		args = append([]string{"adopt", "--node", cluster.Master, "--haproxy-file", proxy, "--keepalived-file", vrrp}, args...)
		out, _ := n.Host.Command(ctx, k.Programs.Agent, append(args, "--config", n.Config)...).CombinedOutput() // right or wrong
		k.hears("lb-agent "+strings.Join(args, " "), out)
	}
	if info, err := os.Stat(output + ".2"); err != nil || info.Mode().Perm() != 0o600 {
		k.site.t.Errorf("what adopt has written: %v, %v; want a file for its owner alone", info, err)
	}
	k.does(ctx, "node", "drift")
	k.does(ctx, "node", "drift", "discard", cluster.Backup)
}

// Hand-written files; each CANARY is a secret.
const (
	handProxy = `global
    setenv REDIS_PASS CANARY
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
userlist ops
    user alice insecure-password CANARY
    user bob password $5$CANARY
frontend web
    bind *:80
    http-request set-header Authorization "Basic CANARY"
    default_backend servers
backend servers
    option httpchk GET /health?token=CANARY HTTP/1.1\r\nAuthorization:\ Basic\ CANARY
    http-check send hdr Authorization "Bearer CANARY"
    http-check send meth GET uri /h hdr X-Api-Key CANARY
    cookie SRV insert dynamic
    dynamic-cookie-key CANARY
    server web1 192.168.1.20:80 check
backend redis
    mode tcp
    option tcp-check
    tcp-check send AUTH\ CANARY\r\n
    server r1 192.168.1.21:6379 check
listen stats
    bind *:8404
    stats enable
    stats uri /stats
    stats auth admin:CANARY
`
	handVRRP = `vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    priority 101
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass CANARY
    }
    virtual_ipaddress {
        192.168.1.100/24
    }
}
`
)

// planted puts a canary into each place for one.
func (k *keeper) planted(text string) string {
	return regexp.MustCompile("CANARY").ReplaceAllStringFunc(text, func(string) string { return k.knows("secret in a hand-written file", canary(20)) })
}

// joins lets agents join with tokens that are good for nothing.
func (k *keeper) joins(ctx context.Context) {
	k.site.t.Helper()
	good := strings.TrimSpace(k.lbctl(ctx, "node", "token", "create", "lb-third", "-o", "name"))
	k.knows("join token", afterDot(good))
	replacing := strings.TrimSpace(k.lbctl(ctx, "node", "replace", cluster.Backup, "-o", "name"))
	k.knows("join token", afterDot(replacing))
	n := k.Backup()
	text, err := os.ReadFile(n.Config)
	if err != nil {
		k.site.t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"used for another node": good,
		"not known":             strings.Join(parts[:3], ".") + "." + k.knows("wrong token", canary(24)),
		"of another CA":         parts[0] + "." + strings.Repeat("A", len(parts[1])) + "." + parts[2] + "." + k.knows("wrong token", canary(24)),
		"cut off":               strings.Join(parts[:2], ".") + "." + k.knows("wrong token", canary(24)),
		"no token":              k.knows("wrong token", canary(24)),
		"two lines":             good + "\n" + k.knows("wrong token", canary(24)),
	} {
		dir := filepath.Join(k.dir, name)
		config := strings.NewReplacer(n.StateDir, dir+"/state", n.RunDir, dir+"/run", n.LogDir(), dir+"/log",
			filepath.Join(n.Host.Dir(), "join.token"), k.file(name+".token", token), "node: "+cluster.Backup, "node: lb-fourth").Replace(string(text))
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		out, err := n.Host.Command(short, k.Programs.Agent, "run", "--config", k.file(name+".agent.yaml", config)).CombinedOutput()
		cancel()
		if err == nil || len(out) == 0 {
			k.site.t.Errorf("a join token that is %s: %v: %s", name, err, out)
		}
		k.hears("lb-agent run with a token that is "+name, out)
	}
}

// rotationAndBackup saves the controller in the middle of a rotation of its CA.
func (k *keeper) rotationAndBackup(ctx context.Context) {
	k.site.t.Helper()
	k.does(ctx, "ca", "begin")
	k.knowsKey("next CA key", filepath.Join(k.Controller.DataDir(), "ca-next-key.pem"))
	for _, args := range [][]string{{"ca", "status"}, {"ca", "status", "-o", "json"}, {"ca", "show"}} {
		k.does(ctx, args...)
	}
	k.authority(ctx, "trust in the new CA", (*tandemv1.NodeTrust).GetTrusts)
	for _, n := range k.Nodes {
		k.knowsKey("agent's key", filepath.Join(n.StateDir, "identity", "identity.pem"))
	}
	pass := k.file("backup.pass", k.knows("backup's passphrase", canary(20)))
	saved := filepath.Join(k.Controller.Host.Dir(), "saved")
	k.does(ctx, "backup", saved, "--passphrase-file", pass)
	k.fails(ctx, "backup", saved, "--passphrase-file", pass) // it is there
	text, err := os.ReadFile(saved)
	if err != nil {
		k.site.t.Fatal(err)
	}
	k.hears("the backup", text)
	for _, args := range [][]string{
		{"restore", "--data-dir", filepath.Join(k.dir, "r1"), "--passphrase-file", k.file("wrong.pass", k.knows("backup's passphrase", canary(20))), saved},
		{"restore", "--data-dir", filepath.Join(k.Controller.Host.Dir(), "restored"), "--passphrase-file", pass, saved},
	} {
		out, _ := k.Controller.Host.Command(ctx, k.Programs.Controller, args...).CombinedOutput() // right or wrong
		k.hears("lb-controller "+args[0], out)
	}
	k.does(ctx, "ca", "cancel")
}

// reads reads all that can be read: every method that reads, over REST and as
// lbctl shows it.
func (k *keeper) reads(ctx context.Context) {
	k.site.t.Helper()
	client := k.https()
	token, err := os.ReadFile(k.Controller.TokenFile())
	if err != nil {
		k.site.t.Fatal(err)
	}
	paths := []string{"/openapi.json", "/metrics", "/v1/" + cluster.Name + "/events:watch?tail=1000"}
	names := map[string]string{"clusters": "default", "vips": "web", "pools": "web_servers", "backends": "web1", "listeners": "web_frontend", "nodes": cluster.Master}
	collection := regexp.MustCompile(`(\w+)/\*`)
	protoregistry.GlobalFiles.RangeFilesByPackage("tandem.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				rule, _ := proto.GetExtension(file.Services().Get(i).Methods().Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				path := regexp.MustCompile(`\{[^}=]*=?([^}]*)\}`).ReplaceAllString(rule.GetGet(), "$1")
				if path == "" || strings.Contains(path, "revisions/") {
					continue
				}
				paths = append(paths, collection.ReplaceAllStringFunc(path, func(part string) string {
					return strings.TrimSuffix(part, "*") + names[strings.TrimSuffix(part, "/*")]
				}))
			}
		}
		return true
	})
	if len(paths) < 20 {
		k.site.t.Fatalf("only %d paths: %v", len(paths), paths)
	}
	for _, path := range paths {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+k.Controller.HTTPAddress()+path, nil)
		if err != nil {
			k.site.t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		request.Header.Set("Accept", "text/event-stream")
		k.answer(client, request, http.StatusOK)
	}
	for _, args := range [][]string{
		{"status"}, {"events", "--limit", "1000"}, {"export"}, {"history"}, {"cluster", "show"}, {"cluster", "list"}, {"vip", "list"}, {"vip", "show", "web"},
		{"pool", "list"}, {"pool", "show", "web_servers"}, {"listener", "list"}, {"backend", "list", "web_servers"}, {"node", "list"}, {"node", "show", cluster.Master}, {"ca", "status"}, {"version"},
	} {
		for _, form := range []string{"json", "wide"} {
			_ = k.tries(ctx, append(args, "-o", form)...) // not each has each form
		}
	}
	// Every revision, before and after.
	for number := k.head(ctx); number > 0; number-- {
		revision, err := k.config.GetRevision(ctx, &tandemv1.GetRevisionRequest{Name: fmt.Sprintf("%s/revisions/%d", cluster.Name, number)})
		if err != nil {
			k.site.t.Fatal(err)
		}
		k.hears(revision.GetName(), []byte(prototext.Format(revision)))
	}
	all, err := k.events.ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1000})
	if err != nil || len(all.GetEvents()) < 20 {
		k.site.t.Fatalf("%d events: %v", len(all.GetEvents()), err)
	}
	k.hears("events", []byte(prototext.Format(all)))
}
