package api_test

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// route is one that REST has.
type route struct{ verb, path string }

// actual are ids of resources that seed and join make, by their collections.
var actual = map[string]string{
	"clusters": "default", "vips": "web", "pools": "web_servers", "backends": "web1", "listeners": "web_frontend",
	"nodes": "lb-master", "revisions": "1", "tokens": "x",
}

// routes are those of every method, with names of resources that exist, and our
// own.
func routes(t *testing.T) []route {
	t.Helper()
	variable, collection := regexp.MustCompile(`\{[^}=]*=?([^}]*)\}`), regexp.MustCompile(`(\w+)/\*`)
	all := []route{{"GET", "/openapi.json"}, {"GET", "/metrics"}, {"GET", "/v1/clusters/default/events:watch"}}
	for _, method := range methods(t) {
		rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		for verb, path := range map[string]string{"GET": rule.GetGet(), "POST": rule.GetPost(), "PATCH": rule.GetPatch(), "DELETE": rule.GetDelete(), "PUT": rule.GetPut()} {
			if path == "" {
				continue
			}
			path = collection.ReplaceAllStringFunc(variable.ReplaceAllString(path, "$1"), func(part string) string {
				id, ok := actual[strings.TrimSuffix(part, "/*")]
				if !ok {
					t.Fatalf("%s: no resource of %s exists", path, part)
				}
				return strings.TrimSuffix(part, "*") + id
			})
			all = append(all, route{verb, path})
		}
	}
	if len(all) < 40 {
		t.Fatalf("only %d routes", len(all))
	}
	return all
}

// wire speaks HTTP/1.1 as it is told: Go's client would mend what is wrong.
type wire struct {
	t      *testing.T
	c      *controller
	config *tls.Config
	conn   *tls.Conn
	reader *bufio.Reader
}

func (c *controller) wire(t *testing.T, certificates ...tls.Certificate) *wire {
	t.Helper()
	w := &wire{t: t, c: c, config: &tls.Config{RootCAs: c.authority.Pool(), Certificates: certificates, ServerName: "localhost"}}
	t.Cleanup(func() {
		if w.conn != nil {
			w.conn.Close()
		}
	})
	return w
}

// say makes one request and returns the answer's status.
func (w *wire) say(verb, target string, headers ...string) int {
	w.t.Helper()
	answer, err := w.try(verb, target, headers)
	if err != nil { // the server has closed the one before
		w.conn.Close()
		w.conn = nil
		answer, err = w.try(verb, target, headers)
	}
	must(w.t, err)
	return answer
}

func (w *wire) try(verb, target string, headers []string) (int, error) {
	if w.conn == nil {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(w.c.url, "https://"), w.config)
		must(w.t, err)
		must(w.t, conn.SetDeadline(time.Now().Add(time.Minute)))
		w.conn, w.reader = conn, bufio.NewReader(conn)
	}
	text := verb + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(headers, "", ""), "\r\n")
	if _, err := io.WriteString(w.conn, text); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(w.reader, &http.Request{Method: verb})
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	stream := answer.ContentLength < 0 // perhaps without an end
	if !stream {
		_, err = io.Copy(io.Discard, answer.Body)
	}
	if stream || answer.Close {
		err = errors.Join(err, w.conn.Close())
		w.conn = nil
	}
	return answer.StatusCode, err
}

// free is what anyone may ask for, and what is answered.
var free = map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusOK}

var verbs = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"}

// Every route with every verb, against what each caller shows. Who has no
// operator's token learns nothing, not even which routes there are.
func TestRESTAuthorizationMatrix(t *testing.T) {
	c := start(t)
	removed := c.join(t, "lb-removed")
	_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-removed"})
	must(t, err)
	node := c.join(t, "lb-master")
	seed(t, c)
	join := "tandem-join.AAAA." + c.joinToken(t, "lb-backup")
	callers := map[string]struct {
		wire  *wire
		token string
	}{
		"nobody":                       {c.wire(t), ""},
		"wrong token":                  {c.wire(t), c.token + "A"},
		"join token":                   {c.wire(t), join},
		"node":                         {c.wire(t, node), ""},
		"node with a wrong token":      {c.wire(t, node), c.token + "A"},
		"another node":                 {c.wire(t, c.join(t, "lb-other")), ""},
		"node of another cluster":      {c.wire(t, c.joinIn(t, "other", "lb-master")), ""},
		"removed node":                 {c.wire(t, removed), ""},
		"node of another controller":   {c.wire(t, start(t).join(t, "lb-master")), ""},
		"node that shows a join token": {c.wire(t, node), join},
	}
	// Certificates are for the other port: this one does not ask for any.
	for _, caller := range callers {
		caller.wire.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			t.Error("the HTTPS port asks for a certificate")
			return &tls.Certificate{}, nil
		}
	}
	all := append(routes(t), route{"GET", "/nope"}, route{"GET", "/"}, route{"POST", "/healthz"}, route{"DELETE", "/readyz"}, route{"OPTIONS", "*"})
	for _, r := range all {
		for name, caller := range callers {
			if got := caller.wire.say(r.verb, r.path, bearer(caller.token)...); got != http.StatusUnauthorized {
				t.Errorf("%s %s by %s: %d; want 401", r.verb, r.path, name, got)
			}
		}
		for _, verb := range verbs {
			want := http.StatusUnauthorized
			if verb == "GET" || verb == "HEAD" {
				want = cmp.Or(free[r.path], want)
			}
			if got := callers["nobody"].wire.say(verb, r.path); got != want {
				t.Errorf("%s %s by nobody: %d; want %d", verb, r.path, got, want)
			}
		}
	}
	got := c.restAs(t, "", http.MethodGet, "/v1/clusters", "")
	if got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%d %v; want 401 and what would be right", got.status, got.header)
	}
	operator := c.wire(t)
	for _, r := range routes(t) {
		if strings.HasSuffix(r.path, ":watch") || r.verb == "DELETE" {
			continue // the one would never end, the other take away what is asked for next
		}
		if got := operator.say(r.verb, r.path, bearer(c.token)...); got == http.StatusUnauthorized || got == http.StatusForbidden || got == http.StatusMethodNotAllowed {
			t.Errorf("%s %s by the operator: %d", r.verb, r.path, got)
		}
	}
}

func bearer(token string) []string {
	if token == "" {
		return nil
	}
	return []string{"Authorization: Bearer " + token}
}

// notAuthorized are headers that hold an operator's token, and yet not as they
// should.
func notAuthorized(token string) [][]string {
	basic := base64.StdEncoding.EncodeToString([]byte("admin:" + token))
	return [][]string{
		{"authorization: Bearer " + token, "authorization: Bearer " + token},
		{"authorization: Bearer " + token, "authorization: Bearer nobody"},
		{"authorization: Bearer nobody", "authorization: Bearer " + token},
		{"authorization: Bearer " + token + ", Bearer " + token},
		{"authorization: " + token}, {"authorization: Bearer" + token}, {"authorization: Bearer, " + token},
		{"authorization: Basic " + basic}, {"authorization: Basic " + token}, {"authorization: Token " + token},
		{"authorization: Bearer Bearer " + token}, {"authorization: Bearer\t" + token}, {`authorization: Bearer "` + token + `"`},
		{"authorization: Bearer " + token + " x"}, {"authorization: Bearer " + token[:len(token)-1]}, {"authorization: Bearer " + strings.ToUpper(token)},
		{"authorization: Bearer " + strings.Replace(token, ".", " ", 1)}, {"authorization: Bearer"}, {"authorization:  "},
		{"grpc-metadata-authorization: Bearer " + token}, {"proxy-authorization: Bearer " + token}, {"x-authorization: Bearer " + token},
		{"grpc-metadata-authorization: Bearer " + token, "authorization: Bearer nobody"},
		{"cookie: authorization=" + token + "; token=" + token}, {"x-api-key: " + token}, {"x-forwarded-user: admin"},
		{"x-forwarded-client-cert: Subject=CN=lb-master"}, {"x-original-url: /healthz"}, {"x-rewrite-url: /healthz"},
	}
}

// The one way to show a token is the one authorization header, on each route.
func TestRESTTakesATokenInOneFormOnly(t *testing.T) {
	c := start(t)
	w := c.wire(t)
	for _, r := range routes(t) {
		for _, headers := range notAuthorized(c.token) {
			if got := w.say(r.verb, r.path, headers...); got != http.StatusUnauthorized {
				t.Errorf("%s %s with %q: %d; want 401", r.verb, r.path, headers, got)
			}
		}
		for _, query := range []string{"access_token=" + c.token, "authorization=Bearer%20" + c.token, "token=" + c.token, "$.xgafv=2&bearer_token=" + c.token} {
			if got := w.say(r.verb, r.path+"?"+query); got != http.StatusUnauthorized {
				t.Errorf("%s %s with a token in its query: %d; want 401", r.verb, r.path, got)
			}
		}
	}
	if got := w.say("GET", "/v1/clusters", "authorization: bearer "+c.token); got != http.StatusOK {
		t.Errorf("a scheme in lower case: %d; want 200 (RFC 9110, section 11.1)", got)
	}
}

// disguised are paths that are no route, though somebody may take them for r's.
func disguised(path string) []string {
	_, last, _ := strings.Cut(path[1:], "/")
	return []string{
		"/" + path, path + "/", path + "//", path + "/.", path + "/x/..", path + ";x", path + "%00", path + "%20", path + "%0a", path + ":", path + "%3f",
		strings.Replace(path, "/v1", "/v1/", 1), strings.Replace(path, "/v1", "/V1", 1), strings.Replace(path, "/v1", "/v1;x", 1),
		strings.Replace(path[1:], "/", "%2f", 1), "/" + strings.ReplaceAll(path[1:], "/", "%2F"), "/" + strings.ReplaceAll(path[1:], "/", `\`),
		"/%2e" + path, "/%2e%2e" + path, "/.." + path, "/x/.." + path, "/x/%2e%2e" + path, "/x%2f.." + path, "/./" + path[1:],
		"/healthz" + path, "/healthz/.." + path, "/healthz/%2e%2e" + path, "/healthz%2f.." + path, "/healthz/..;" + path, "/readyz//.." + path,
		"/healthz?" + path, "/healthz#" + path, "/openapi.json/.." + path, "/v1/v1/" + last, strings.ToUpper(path), "/tandem.v1.ConfigService" + path,
		"http://localhost/healthz/.." + path, "https://localhost" + "/" + path, "*", "/%", "/%zz" + path,
	}
}

// A path that is nearly a route leads nobody anywhere: a stranger is told to show
// a token, an operator that there is no such path, and nothing changes.
func TestDisguisedPathsLeadNowhere(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	seed(t, c)
	before := c.everything(t)
	stranger, operator := c.wire(t), c.wire(t)
	open := regexp.MustCompile(`^/(healthz|readyz)[?#]`)
	for _, r := range routes(t) {
		for _, path := range disguised(r.path) {
			if path == r.path {
				continue
			}
			got := stranger.say(r.verb, path)
			if free := open.MatchString(path) && r.verb == "GET" && got == http.StatusOK; !free && got != http.StatusUnauthorized && got != http.StatusBadRequest {
				t.Errorf("%s %s by a stranger: %d; want 401", r.verb, path, got)
			}
			got = operator.say(r.verb, path, bearer(c.token)...)
			if free := open.MatchString(path) && r.verb == "GET" && got == http.StatusOK; !free && got != http.StatusNotFound && got != http.StatusMethodNotAllowed && got != http.StatusBadRequest {
				t.Errorf("%s %s by an operator: %d; want 404", r.verb, path, got)
			}
		}
		// A header does not make another verb of the one that is asked with.
		for _, header := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
			for _, verb := range []string{"GET", "POST"} {
				if r.verb == "DELETE" || r.verb == "PATCH" {
					operator.say(verb, r.path, append(bearer(c.token), header+": "+r.verb, "Content-Type: application/x-www-form-urlencoded", "Content-Length: 0")...)
				}
				if got := stranger.say(verb, r.path, header+": "+r.verb); got != http.StatusUnauthorized {
					t.Errorf("%s %s, by a header %s, by a stranger: %d; want 401", verb, r.path, r.verb, got)
				}
			}
		}
	}
	// A body does not make another verb of it either.
	const body = "Content-Length: 6\r\n\r\n{}" // with the end of the line and of the headers
	for _, r := range routes(t) {
		if got := stranger.say("GET", r.path, body); got != http.StatusUnauthorized {
			t.Errorf("GET %s with a body by a stranger: %d; want 401", r.path, got)
		}
		if got := operator.say("GET", r.path, append(bearer(c.token), body)...); got >= http.StatusInternalServerError {
			t.Errorf("GET %s with a body by an operator: %d", r.path, got)
		}
	}
	if after := c.everything(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// everything is all that an operator can read of what is desired.
func (c *controller) everything(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"clusters/default:export", "clusters/default/nodes", "clusters", "tokens"} {
		got := c.rest(t, http.MethodGet, "/v1/"+path, "")
		if got.status != http.StatusOK {
			t.Fatalf("%s: %s", path, got.body)
		}
		fmt.Fprintln(&all, path, string(got.body))
	}
	return all.String()
}

// Neither port serves what belongs to the other: gRPC and gRPC-Web come to nothing
// over HTTPS, and agents' calls for operators too.
func TestHTTPSServesNoRPC(t *testing.T) {
	c := start(t)
	client := c.client()
	defer client.CloseIdleConnections()
	for _, method := range methods(t) {
		target := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
		for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web-text", "application/json"} {
			for token, want := range map[string]int{"": http.StatusUnauthorized, c.token + "A": http.StatusUnauthorized, c.token: http.StatusNotFound} {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+target, strings.NewReader("\x00\x00\x00\x00\x00"))
				must(t, err)
				request.Header.Set("Content-Type", kind)
				request.Header.Set("TE", "trailers")
				if token != "" {
					request.Header.Set("Authorization", "Bearer "+token)
				}
				answer, err := client.Do(request)
				must(t, err)
				answer.Body.Close()
				if answer.StatusCode != want || answer.ProtoMajor != 2 {
					t.Errorf("%s as %s: %s over %s; want %d over HTTP/2", target, kind, answer.Status, answer.Proto, want)
				}
			}
		}
	}
}
