package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// rig is a driver with a real HAProxy.
type rig struct {
	t      *testing.T
	dir    string
	port   int // of the frontend, on 127.0.0.1
	driver *Driver
	stop   func() // ends the driver, not HAProxy

	accessLog string // its path

	mu     sync.Mutex
	events []Event
	times  []time.Time // of all events, also of those that a test has removed
}

// newRig starts a driver. Its HAProxy is killed when the test ends.
func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "haproxy") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, port: freePort(t)}
	t.Cleanup(func() {
		r.stop()
		process, err := daemon.Adopt(daemon.Spec{Name: "haproxy", PIDFile: r.driver.paths.pid})
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err = process.Stop(ctx)
		}
		if err != nil && !errors.Is(err, daemon.ErrNotRunning) {
			t.Error(err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(r.driver.paths.log)
			t.Logf("haproxy printed:\n%s", log)
		}
		os.RemoveAll(dir)
	})
	r.startDriver(Options{})
	return r
}

// startDriver starts a driver, the first one or after stop.
func (r *rig) startDriver(o Options) {
	r.t.Helper()
	o.StateDir, o.RunDir = r.dir+"/state", r.dir+"/run"
	o.AccessLog = accessFile(r.dir)
	r.accessLog = o.AccessLog.Path
	o.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{r.t}})
	o.Notify = func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events, r.times = append(r.events, e), append(r.times, time.Now())
	}
	driver, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- driver.Run(ctx) }()
	r.driver = driver
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
}

// testWriter logs to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Helper()
	w.t.Logf("%s %s", time.Now().Format("05.000"), strings.TrimSpace(string(line)))
	return len(line), nil
}

// apply applies and expects no error.
func (r *rig) apply(c *haproxyv1.Config) Result {
	r.t.Helper()
	result, err := r.driver.Apply(r.t.Context(), c)
	if err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	if result.Reloaded {
		r.isInEffect(c)
	} else {
		r.runs(c) // the file follows
	}
	return result
}

// isInEffect checks that file = runtime = target, with the means of a stranger.
func (r *rig) isInEffect(c *haproxyv1.Config) {
	r.t.Helper()
	file, err := r.driver.render(c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.runs(c)
	for _, path := range []string{r.driver.paths.file, r.driver.paths.good} {
		// It may be behind for half a second.
		eventually(r.t, path+" is the target", func() bool {
			text, err := os.ReadFile(path)
			return err == nil && string(text) == string(file.Text)
		})
	}
}

// runs checks that runtime = target.
func (r *rig) runs(c *haproxyv1.Config) {
	r.t.Helper()
	file, err := r.driver.render(c)
	if err != nil {
		r.t.Fatal(err)
	}
	states, err := r.driver.client.States(r.t.Context(), r.processes().Workers[0].PID)
	if err != nil {
		r.t.Fatal(err)
	}
	have := make(map[string]string)
	for _, s := range states {
		have[s.String()] = fmt.Sprintf("%v weight %d maintenance %v", s.Address, s.Weight, s.Maintenance())
	}
	for _, s := range file.Servers {
		want := fmt.Sprintf("%v weight %d maintenance %v", s.Address, s.Weight, s.Maintenance)
		if got := have[s.String()]; got != want {
			r.t.Errorf("%s is %q, want %q", s.Key, got, want)
		}
	}
}

func (r *rig) processes() *runtime.Processes {
	r.t.Helper()
	found, err := r.driver.client.Processes(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// reloads by HAProxy's own count.
func (r *rig) reloads() int { r.t.Helper(); return r.processes().Master.Reloads }

// server returns what the driver knows of a server; its State is 0 when that
// is nothing.
func (r *rig) server(name string) Server {
	for _, s := range r.driver.Snapshot().Servers {
		if s.Name == name {
			return s
		}
	}
	return Server{}
}

// url of the frontend.
func (r *rig) address() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

// get asks the frontend once, on a connection of its own, and returns the
// status and the body.
func (r *rig) get() string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.address())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	answer, err := ask(c, bufio.NewReader(c), "GET")
	if err != nil && !errors.Is(err, errClosing) {
		return err.Error()
	}
	return answer
}

// ask sends one request over a connection and reads the answer.
func ask(c net.Conn, r *bufio.Reader, method string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	body := ""
	if method == "POST" {
		body = "hello"
	}
	if _, err := fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, len(body), body); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return response.Status, err
	}
	if response.Close {
		err = errors.Join(err, errClosing)
	}
	return string(text), err
}

// errClosing comes with a good answer that announces the connection's end.
var errClosing = errors.New("the connection closes")

// answers asks n times and counts the answers.
func (r *rig) answers(n int) map[string]int {
	r.t.Helper()
	counts := make(map[string]int)
	for range n {
		counts[r.get()]++
	}
	return counts
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not come true: %s", what)
		}
	}
}

// freePort returns a port of 127.0.0.1 that nobody uses.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// web is a web server that answers with its name.
type web struct {
	name    string
	address *net.TCPAddr
	server  *http.Server
	sick    atomic.Bool
	failed  atomic.Int64  // when it last failed a check, in nanoseconds
	hold    chan struct{} // requests wait for its end; nil: they do not
}

func newWeb(t *testing.T, name string) *web {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &web{name: name, address: l.Addr().(*net.TCPAddr)}
	w.server = &http.Server{Handler: w}
	go func() { _ = w.server.Serve(l) }()
	t.Cleanup(func() { w.server.Close() })
	return w
}

func (w *web) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	_, _ = io.Copy(io.Discard, request.Body)
	switch {
	case request.URL.Path == "/health" && w.sick.Load():
		w.failed.Store(time.Now().UnixNano())
		answer.WriteHeader(http.StatusServiceUnavailable)
	case request.URL.Path == "/hold" && w.hold != nil:
		<-w.hold
	}
	fmt.Fprint(answer, w.name)
}

// backend makes a server of the pool.
func (w *web) backend(id uint32) *haproxyv1.Server {
	return &haproxyv1.Server{
		Backend: "pool", Name: w.name, Id: id, Address: w.address.IP.String(), Port: uint32(w.address.Port), Weight: 10,
	}
}

// config with one frontend and one pool.
func (r *rig) config(servers ...*haproxyv1.Server) *haproxyv1.Config {
	long, short := durationpb.New(10*time.Second), durationpb.New(100*time.Millisecond)
	return &haproxyv1.Config{
		Global: &haproxyv1.Global{MaxConnections: 500},
		Frontends: []*haproxyv1.Frontend{{
			Name: "web", Mode: haproxyv1.Mode_MODE_HTTP, DefaultBackend: "pool", MaxConnections: 300,
			Binds:         []*haproxyv1.Bind{{Address: "127.0.0.1", Port: uint32(r.port)}},
			ClientTimeout: long, HttpRequestTimeout: long, HttpKeepAliveTimeout: long,
		}},
		Backends: []*haproxyv1.Backend{{
			Name: "pool", Mode: haproxyv1.Mode_MODE_HTTP, Balance: haproxyv1.Balance_BALANCE_ROUNDROBIN,
			ConnectTimeout: long, ServerTimeout: long, QueueTimeout: long,
			Check: &haproxyv1.Check{
				Http:     &haproxyv1.HttpCheck{Method: "GET", Path: "/health", StatusMin: 200, StatusMax: 299},
				Interval: short, Timeout: long, Rise: 1, Fall: 1,
			},
			Servers: servers,
		}},
	}
}

// with returns a changed copy.
func with(c *haproxyv1.Config, change func(c *haproxyv1.Config)) *haproxyv1.Config {
	c = proto.CloneOf(c)
	change(c)
	return c
}

// tooMany is more connections than this machine has descriptors for.
func tooMany(t *testing.T) uint32 {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := limit.Max/2 + 1000
	if n > 5_000_000 {
		t.Skipf("%d file descriptors allowed: too many to ask for more", limit.Max)
	}
	return uint32(n)
}

// first is the first server of the pool.
func first(c *haproxyv1.Config) *haproxyv1.Server { return c.Backends[0].Servers[0] }

func fileMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}
