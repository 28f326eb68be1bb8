package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fullstorydev/grpcurl"
	"github.com/jhump/protoreflect/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
)

// request is one request as it is made at each of the API's three doors.
type request struct {
	lbctl []string // command line
	rest  string   // "POST pools?pool_id=x", below the cluster's path
	body  string   // of the REST request, JSON
	grpc  string   // method of ConfigService
	json  string   // the gRPC message, as grpcurl takes it
}

// refusal is how a request was refused. The zero value: it was not.
type refusal struct{ Field, Reason, Message string }

// doors sends requests to the API as people do: with lbctl, curl and grpcurl.
type doors struct {
	*site
	source grpcurl.DescriptorSource
	curl   []string
}

func openDoors(ctx context.Context, s *site) *doors {
	s.t.Helper()
	conn, err := s.Controller.Conn()
	if err != nil {
		s.t.Fatal(err)
	}
	// grpcurl learns the API by reflection.
	reflected := grpcreflect.NewClientAuto(ctx, conn)
	s.t.Cleanup(reflected.Reset)
	token, err := os.ReadFile(s.Controller.TokenFile())
	if err != nil {
		s.t.Fatal(err)
	}
	header := filepath.Join(s.Controller.Host.Dir(), "curl.header")
	if err := os.WriteFile(header, []byte("Authorization: Bearer "+strings.TrimSpace(string(token))+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return &doors{
		site: s, source: grpcurl.DescriptorSourceFromServer(ctx, reflected),
		curl: []string{"-sS", "--max-time", "20", "--cacert", s.Controller.CAFile(), "-H", "@" + header, "-w", "\n%{http_code}"},
	}
}

// in returns the doors for a subtest.
func (d *doors) in(t testing.TB) *doors {
	c := *d
	c.site = d.site.in(t)
	return &c
}

// line is what lbctl says of a refusal: field, sentence, value and reason, of
// which the first and the third may be missing.
var line = regexp.MustCompile(`^(?:error: )?(?:([a-z_]+(?:[.\[][^ ]*)?): )?(.*?)(?: \(got .*\))? \[([A-Z0-9_]+)\]$`)

// place is what lbctl apply says of a refusal: where it is in the file, field,
// sentence and reason, and the line itself.
var place = regexp.MustCompile(`^error: [^ ]+:[0-9]+:[0-9]+ ([^ ]+): (.*) \(([A-Z0-9_]+)\)\n`)

// byLbctl runs a command line.
func (d *doors) byLbctl(ctx context.Context, args ...string) refusal {
	d.t.Helper()
	_, err := d.Lbctl(ctx, args...)
	var failed *cluster.CommandError
	if !errors.As(err, &failed) {
		if err != nil {
			d.t.Fatal(err)
		}
		return refusal{}
	}
	if match := place.FindStringSubmatch(failed.Stderr); match != nil {
		return refusal{Field: "config." + match[1], Message: match[2], Reason: match[3]}
	}
	match := line.FindStringSubmatch(failed.Stderr)
	if match == nil {
		d.t.Fatalf("lbctl is not understood (%s): %s", failed.Line, failed.Stderr)
	}
	return refusal{Field: match[1], Message: match[2], Reason: match[3]}
}

// byREST sends a request with curl, whose body curl reads from a file.
func (d *doors) byREST(ctx context.Context, method, path string, body io.Reader) (refusal, int) {
	d.t.Helper()
	url := "https://" + d.Controller.HTTPAddress() + "/v1/" + path
	args := append(append([]string{}, d.curl...), "-X", method, url)
	cmd := d.Controller.Host.Command(ctx, "curl", args...)
	if body != nil {
		cmd = d.Controller.Host.Command(ctx, "curl", append(args, "--data-binary", "@-")...)
		cmd.Stdin = body
	}
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("curl -X %s %s: %v: %s", method, url, err, out)
	}
	text, codeText, _ := cutLast(string(out), "\n")
	code, err := strconv.Atoi(codeText)
	if err != nil {
		d.t.Fatalf("curl printed %q", out)
	}
	if code < 300 {
		return refusal{}, code
	}
	var answer struct {
		Message string
		Details []struct {
			Type            string `json:"@type"`
			Reason          string
			FieldViolations []struct{ Field, Description, Reason string }
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		d.t.Fatalf("%s %s answered %d with %q: %v", method, url, code, text, err)
	}
	r := refusal{Message: answer.Message}
	for _, detail := range answer.Details {
		if detail.Reason != "" {
			r.Reason = detail.Reason
		}
		if len(detail.FieldViolations) > 0 {
			first := detail.FieldViolations[0]
			return refusal{first.Field, first.Reason, first.Description}, code
		}
	}
	return r, code
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// byGRPC calls a method of ConfigService with a message in JSON, with grpcurl.
func (d *doors) byGRPC(ctx context.Context, method, message string) (refusal, *status.Status) {
	d.t.Helper()
	conn, err := d.Controller.Conn()
	if err != nil {
		d.t.Fatal(err)
	}
	parser, formatter, err := grpcurl.RequestParserAndFormatter(grpcurl.FormatJSON, d.source, strings.NewReader(message), grpcurl.FormatOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	handler := &grpcurl.DefaultEventHandler{Out: &bytes.Buffer{}, Formatter: formatter}
	err = grpcurl.InvokeRPC(ctx, d.source, conn, "tandem.v1.ConfigService/"+method, nil, handler, parser.Next)
	if err != nil {
		d.t.Fatalf("grpcurl %s %s: %v", method, message, err)
	}
	return refusalOf(handler.Status), handler.Status
}

func refusalOf(st *status.Status) refusal {
	if st.Code() == codes.OK {
		return refusal{}
	}
	r := refusal{Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			r.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			first := detail.GetFieldViolations()[0]
			return refusal{first.GetField(), first.GetReason(), first.GetDescription()}
		}
	}
	return r
}

// all makes the request at each door and fails the test where two of them say
// something different. It returns what all say.
func (d *doors) all(ctx context.Context, r request) refusal {
	d.t.Helper()
	method, path, _ := strings.Cut(r.rest, " ")
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	answers := map[string]refusal{"lbctl": d.byLbctl(ctx, r.lbctl...)}
	answers["REST"], _ = d.byREST(ctx, method, path, body)
	answers["gRPC"], _ = d.byGRPC(ctx, r.grpc, r.json)
	for door, got := range answers {
		if got != answers["gRPC"] {
			d.t.Errorf("the doors do not agree:\n%s: %+v\ngRPC: %+v", door, got, answers["gRPC"])
		}
	}
	return answers["gRPC"]
}

// text quotes a value for JSON.
func text(value string) string {
	quoted, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("a string cannot be written as JSON: %v", err))
	}
	return string(quoted)
}

// mustREST posts a body, which must be accepted.
func (d *doors) mustREST(ctx context.Context, path, body string) {
	d.t.Helper()
	if got, code := d.byREST(ctx, "POST", path, strings.NewReader(body)); code != 200 {
		d.t.Errorf("POST %s answered %d %+v", path, code, got)
	}
}

// mustGRPC calls a method, which must succeed.
func (d *doors) mustGRPC(ctx context.Context, method, message string) {
	d.t.Helper()
	if _, st := d.byGRPC(ctx, method, message); st.Code() != codes.OK {
		d.t.Errorf("%s answered %v", method, st)
	}
}
