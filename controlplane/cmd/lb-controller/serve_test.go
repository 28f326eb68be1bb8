package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// safeBuffer is a buffer that a running controller may write to.
type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// running is a controller that serves.
type running struct {
	out, log safeBuffer
	stop     context.CancelFunc
	ended    chan error
	https    string // address
}

// begin runs serve until it listens.
func begin(t *testing.T, dir string) *running {
	t.Helper()
	r := &running{ended: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	o := options{
		dataDir: dir, grpcListen: "127.0.0.1:0", httpListen: "127.0.0.1:0", advertise: []string{"ctl.example.com"},
		logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: &r.log}), version: "test", out: &r.out,
	}
	go func() { r.ended <- serve(ctx, o) }()
	address := regexp.MustCompile(`https=(\S+)`)
	r.poll(t, func() bool {
		found := address.FindStringSubmatch(r.log.String())
		if found != nil {
			r.https = found[1]
		}
		return found != nil
	})
	return r
}

// poll waits for a condition while the controller runs.
func (r *running) poll(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case err := <-r.ended:
			t.Fatalf("the controller ended: %v\n%s", err, r.log.String())
		case <-limit:
			t.Fatalf("nothing within 20 s:\n%s", r.log.String())
		}
	}
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the controller does not end")
	}
}

// get asks as operator admin, trusting the ca.pem of the directory.
func (r *running) get(t *testing.T, dir, path string) (int, string) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "ctl.example.com"}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.https+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestServeKeepsItsDirectoryOverARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "controller")
	r := begin(t, dir)
	if status, body := r.get(t, dir, "/v1/clusters/default"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if status, body := r.get(t, dir, "/openapi.json"); status != http.StatusOK || !strings.Contains(body, "ConfigService_CreatePool") {
		t.Errorf("openapi.json: %d, %d bytes", status, len(body))
	}
	for _, name := range []string{"ca.pem", "admin.token"} {
		if !strings.Contains(r.out.String(), filepath.Join(dir, name)) {
			t.Errorf("the first start does not tell where %s is: %s", name, r.out.String())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
	}
	r.end(t)
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	again := begin(t, dir)
	defer again.end(t)
	if status, body := again.get(t, dir, "/v1/caller"); status != http.StatusOK || !strings.Contains(body, `"admin"`) {
		t.Errorf("after a restart: %d %s", status, body)
	}
	if again.out.String() != "" {
		t.Errorf("the second start says: %s", again.out.String())
	}
	secret := strings.TrimSpace(string(token))
	secret = secret[strings.LastIndex(secret, ".")+1:]
	if strings.Contains(r.log.String()+again.log.String()+r.out.String(), secret) {
		t.Error("the token is in the log")
	}
}

func TestServeSaysWhatStandsInItsWay(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, dir)
	defer r.end(t)
	taken := r.https
	notADirectory := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notADirectory, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for name, test := range map[string]struct {
		change func(*options)
		want   []string
	}{
		"second controller": {func(o *options) { o.dataDir = dir }, []string{"another process", "only one controller"}},
		"gRPC port taken":   {func(o *options) { o.grpcListen = taken }, []string{"--grpc-listen", taken, "address already in use"}},
		"HTTPS port taken":  {func(o *options) { o.httpListen = taken }, []string{"--http-listen", taken, "address already in use"}},
		"no address":        {func(o *options) { o.grpcListen = "nonsense" }, []string{"--grpc-listen", "nonsense"}},
		"bad name":          {func(o *options) { o.advertise = []string{"ctl:9443"} }, []string{"--advertise", "ctl:9443", "without a port"}},
		"no directory":      {func(o *options) { o.dataDir = notADirectory }, []string{"--data-dir", "not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options{
				dataDir: t.TempDir(), grpcListen: "127.0.0.1:0", httpListen: "127.0.0.1:0",
				logger: hclog.NewNullLogger(), version: "test", out: io.Discard,
			}
			test.change(&o)
			err := serve(ctx, o)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v; want it to say %q", err, want)
				}
			}
		})
	}
}

func TestPortOutlivesNoRefusedStart(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, dir)
	defer r.end(t)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := probe.Addr().String()
	probe.Close()
	o := options{dataDir: t.TempDir(), grpcListen: free, httpListen: r.https, logger: hclog.NewNullLogger(), out: io.Discard}
	if err := serve(t.Context(), o); err == nil {
		t.Fatal("it took a port that is taken")
	}
	again, err := net.Listen("tcp", free)
	if err != nil {
		t.Errorf("a refused start keeps its port: %v", err)
	} else {
		again.Close()
	}
}

func TestCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":  {[]string{"serve", "--dat-dir", "x"}, "unknown flag"},
		"argument":      {[]string{"serve", "x"}, "unknown command"},
		"log level":     {[]string{"serve", "--log-level", "loud"}, "must be trace, debug, info, warn or error"},
		"log format":    {[]string{"serve", "--log-format", "xml"}, "must be text or json"},
		"unknown order": {[]string{"server"}, "unknown command"},
	} {
		cmd := root()
		cmd.SetArgs(test.args)
		cmd.SetOut(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
	}
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs([]string{"version"})
	cmd.SetOut(&out)
	if err := cmd.Execute(); err != nil || strings.TrimSpace(out.String()) != version {
		t.Errorf("version: %q, %v", out.String(), err)
	}
}
