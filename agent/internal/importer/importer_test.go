package importer

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/importer/haproxycfg"
)

var update = flag.Bool("update", false, "write the golden files")

// The hand-written files that the lab runs too.
const (
	guideFiles    = "../../../e2e/bench/guide/files/"
	handmadeFiles = "../../../e2e/internal/handmade/files/"
)

func read(t testing.TB, path string) Source {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Source{filepath.Base(path), string(text)}
}

func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		name, haproxy, keepalived, peer string
	}{
		{"guide", guideFiles + "haproxy.cfg", guideFiles + "keepalived-master.conf", guideFiles + "keepalived-backup.conf"},
		{"handmade", handmadeFiles + "haproxy.cfg", handmadeFiles + "keepalived-lb-master.conf", handmadeFiles + "keepalived-lb-backup.conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i, err := Read(Node{ID: "lb-master", HAProxy: read(t, tt.haproxy), Keepalived: read(t, tt.keepalived)})
			if err != nil {
				t.Fatal(err)
			}
			if err := i.Merge(Peer{"lb-backup", read(t, tt.peer)}, nil); err != nil {
				t.Fatal(err)
			}
			notes := strings.Join(i.FitPriorities(), "\n") + "\n"
			manifest, err := Manifest(i.Config)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name+".report", append(i.Report(), notes...))
			golden(t, tt.name+".yaml", manifest)
			golden(t, tt.name+".kept", kept(&i.Kept))
			everyLine(t, &i.HAProxy)
			everyLine(t, &i.Keepalived)
			if bytes.Contains(i.Report(), []byte("mypass")) || bytes.Contains(i.Report(), []byte("password123")) {
				t.Error("the report holds a password")
			}
		})
	}
}

// kept is a file with nothing but what is kept.
func kept(k *Kept) []byte {
	var w bytes.Buffer
	section := func(head string, lines []string) {
		if len(lines) > 0 {
			w.WriteString(head + strings.Join(lines, "\n") + "\n")
		}
	}
	section("global\n", k.Global)
	section("defaults\n", k.Defaults)
	for _, s := range k.Sections {
		section("", s.Lines)
	}
	return w.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("differs from %s (see go test -update):\n%s", path, got)
	}
}

// everyLine holds that each line of a file is there once, as written, and that
// nothing but comments and empty lines says nothing.
func everyLine(t *testing.T, f *File) {
	t.Helper()
	var back strings.Builder
	for n, l := range f.Lines {
		back.WriteString(l.Text + "\n")
		text := strings.TrimSpace(l.Text)
		comment := text == "" || text[0] == '#' || text[0] == '!'
		if l.Number != n+1 || (l.Fate == Blank) != comment && text != "{" {
			t.Errorf("%s:%d: %q has number %d and is %s", f.Path, n+1, l.Text, l.Number, l.Fate)
		}
	}
	if back.String() != f.Text {
		t.Errorf("%s: the lines are not the file", f.Path)
	}
}

// The daemons themselves read the files that the tests are about.
func TestHandmadeFilesAreReal(t *testing.T) {
	binary, err := exec.LookPath("keepalived")
	if err != nil {
		t.Skip("keepalived is not installed")
	}
	for _, path := range []string{guideFiles + "keepalived-master.conf", handmadeFiles + "keepalived-lb-master.conf"} {
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "-t", "-f", path).CombinedOutput()
		if err != nil && bytes.Contains(out, []byte("Unknown keyword")) {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
}

// importProxy reads one haproxy.cfg and nothing else.
func importProxy(t testing.TB, text string) *proxyReader {
	t.Helper()
	r, err := readHAProxy(Source{"haproxy.cfg", text}, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return r
}

const minimal = `defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
`

// What is shown of a line ends where a secret may begin.
func TestI10NoSecretIsShown(t *testing.T) {
	for _, line := range []string{
		"auth_pass canary", "authentication { auth_type PASS auth_pass canary }", "stats auth admin:canary", "user bob insecure-password canary",
		"user bob password $5$canary", "dynamic-cookie-key canary", "setenv REDIS canary", "presetenv REDIS canary",
		`http-request set-header Authorization "Basic canary"`, `http-check send hdr authorization "Bearer canary"`,
		`http-check send meth GET uri / hdr X-Api-Key canary`, `option httpchk GET /?token=canary HTTP/1.1\r\nAuthorization:\ Basic\ canary`,
		`tcp-check send AUTH\ canary\r\n`, "tcp-check send-binary canary", "http-request set-header X-Client-Secret canary",
	} {
		if shown := (&Line{Text: "    " + line}).Shown(); strings.Contains(shown, "canary") || len(shown) < 10 {
			t.Errorf("%s is shown as %s", line, shown)
		}
	}
	for _, line := range []string{"bind *:443 ssl crt /etc/haproxy/site.pem", "http-request set-header X-Forwarded-Proto https", "cookie SRV insert indirect"} {
		if shown := (&Line{Text: line}).Shown(); shown != line {
			t.Errorf("%s is shown as %s", line, shown)
		}
	}
}

// One line that the model lacks keeps its whole section, with the reason.
func TestOneLineKeepsItsProxy(t *testing.T) {
	for line, want := range map[string]string{
		"frontend f\n bind :80 ssl crt /x\n default_backend b\n":                      "line 7: the model lacks the bind option ssl",
		"frontend f\n bind :80\n acl a path /x\n default_backend b\n":                 "line 8: the model lacks it",
		"frontend f\n bind :80\n":                                                     "it has no default_backend",
		"frontend f\n default_backend b\n":                                            "it has no bind",
		"frontend f\n bind [::]:80\n default_backend b\n":                             "the model lacks binds of every IPv6 address alone",
		"frontend f\n bind /run/x.sock\n default_backend b\n":                         "line 7: the model has binds of IP addresses and ports",
		"frontend f\n bind :80\n mode tcp\n default_backend b\n":                      "its backend b is kept as written",
		"frontend f\n bind :80\n default_backend none\n":                              "its backend none is kept as written",
		"frontend f\n bind \"$X\"\n default_backend b\n":                              "line 7: HAProxy fills in the variable X from its environment, which Tandem's HAProxy does not have: write its value",
		"frontend f\n bind :80\n default_backend \"${HAPROXY_LOCALPEER}\"\n":          "line 8: the model lacks variables",
		"frontend f\n bind :80\n timeout tarpit 1s\n default_backend b\n":             "line 8: the model lacks it",
		"frontend a:b\n bind :80\n default_backend b\n":                               "the model has names of 1 to 63 letters, digits, _, . or -",
		"backend f\n server a www.example.com:80\n":                                   "line 7: the model has servers by IP address and port",
		"backend f\n server a 192.0.2.1:80 check ssl verify none\n":                   "line 7: the model lacks ssl",
		"backend f\n server a 192.0.2.1:80 check\n server b 192.0.2.2:80\n":           "the model has one health check for all servers of a pool",
		"backend f\n server a 192.0.2.1:80\n server a 192.0.2.2:80\n":                 "line 8: the model has each name, and each address with its port, once in a pool",
		"backend f\n balance url_param x\n":                                           "line 7: the model lacks this way of balancing",
		"backend f\n default-server ssl verify none\n server a 192.0.2.1:443\n":       "line 7: the model lacks ssl",
		"backend f\n option httpchk POST /x\n":                                        "line 7: the model has checks by GET, HEAD and OPTIONS",
		"backend f\n timeout connect 0\n":                                             "line 7: the model has timeouts from 1ms to 24h",
		"listen f\n bind :80\n stats enable\n stats uri /s\n":                         "the model shows the statistics page to named users only",
		"listen f\n bind :80\n stats uri /s\n stats auth a:b\n stats admin if TRUE\n": "line 10: the model lacks it",
	} {
		text := minimal + line + "backend b\n server s 192.0.2.9:80\n"
		r := importProxy(t, text)
		if r.proxies[0].why != want {
			t.Errorf("%q: kept because %q, want %q", line, r.proxies[0].why, want)
		}
		if l := r.lines.list[5]; l.Fate != Verbatim || !strings.HasPrefix(l.Reason, "kept whole: ") {
			t.Errorf("%q: its first line is %s, %q", line, l.Fate, l.Reason)
		}
		if k := r.kept.Sections; len(k) != 2 || k[0].Kind != "defaults" || k[1].Name != r.proxies[0].section.Name {
			t.Errorf("%q: kept %+v, want the defaults and the proxy", line, k)
		}
		if len(r.config.Pools) != 1 || len(r.config.Listeners) != 0 {
			t.Errorf("%q: managed %v", line, r.config)
		}
	}
}

// A port belongs to one listener in the model, to the more precise address in
// HAProxy.
func TestPortOfEveryAddress(t *testing.T) {
	r := importProxy(t, minimal+"frontend a\n bind :80\n default_backend b\nfrontend c\n bind 192.0.2.1:80\n default_backend b\nbackend b\n")
	if want := "the model gives port 80 of every address to a"; r.proxies[1].why != want {
		t.Errorf("kept because %q, want %q", r.proxies[1].why, want)
	}
}

// Lines of the only defaults section that the model lacks are kept for all; with
// several such sections their proxies are.
func TestKeptDefaults(t *testing.T) {
	one := importProxy(t, minimal+"  http-reuse always\nbackend b\n")
	if len(one.kept.Sections) != 0 || len(one.kept.Defaults) != 1 || len(one.config.Pools) != 1 {
		t.Errorf("kept %+v, managed %v", one.kept, one.config.Pools)
	}
	two := importProxy(t, minimal+"  http-reuse always\nbackend b\n"+minimal+"backend c\n")
	if len(two.kept.Defaults) != 0 || len(two.kept.Sections) != 3 || len(two.config.Pools) != 1 || two.config.Pools[0].GetName() != "c" {
		t.Errorf("kept %+v, managed %v", two.kept, two.config.Pools)
	}
}

// Whatever the file, it is read to the last line or refused, and what is kept
// is what was written.
func FuzzHAProxy(f *testing.F) {
	for _, path := range []string{guideFiles + "haproxy.cfg", handmadeFiles + "haproxy.cfg"} {
		f.Add(read(f, path).Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readHAProxy(Source{"f", text}, nil)
		if err != nil {
			return
		}
		for _, l := range r.lines.list {
			words, _, err := haproxycfg.Words(l.Text)
			if err != nil || (len(words) == 0) != (l.Fate == Blank) {
				t.Fatalf("line %d %q is %s", l.Number, l.Text, l.Fate)
			}
		}
		if _, err := Manifest(r.config); err != nil {
			t.Skip(err) // no UTF-8
		}
	})
}
