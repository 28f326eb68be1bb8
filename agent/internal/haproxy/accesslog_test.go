package haproxy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/logfile"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// logged makes the configuration log to the file.
func logged(c *haproxyv1.Config, format haproxyv1.LogFormat) *haproxyv1.Config {
	return with(c, func(c *haproxyv1.Config) {
		c.Global.LogLocal, c.Global.LogFacility = haproxyv1.LocalLog_LOCAL_LOG_FILE, "local0"
		c.Global.LogFormat, c.Global.LogWithoutQuery = format, format == haproxyv1.LogFormat_LOG_FORMAT_JSON
	})
}

// accessLines waits for n whole lines of the access log. Whoever reads while lines
// are written may see a part of them.
func (r *rig) accessLines(n int) []string {
	r.t.Helper()
	var lines []string
	eventually(r.t, fmt.Sprintf("%d lines are in the access log", n), func() bool {
		text, err := os.ReadFile(r.accessLog)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		return len(lines) >= n && strings.HasSuffix(string(text), "\n")
	})
	return lines
}

// say sends bytes to the frontend and returns the answer's first line.
func (r *rig) say(request string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.address())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		r.t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		r.t.Fatal(err)
	}
	answer, _ := bufio.NewReader(c).ReadString('\n')
	return answer
}

func TestAccessLogOfHAProxysFormat(t *testing.T) {
	r := newRig(t)
	r.apply(logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_UNSPECIFIED))
	r.say("GET /a?token=1 HTTP/1.0\r\n\r\n")
	line := r.accessLines(1)[0]
	host, _ := os.Hostname()
	if _, err := time.Parse(time.Stamp, line[:15]); err != nil || !strings.HasPrefix(line[16:], host+" haproxy[") ||
		!strings.Contains(line, " web pool/web1 ") || !strings.HasSuffix(line, `"GET /a?token=1 HTTP/1.0"`) {
		t.Errorf("line %q", line)
	}
	if mode := fileMode(t, r.accessLog); mode != 0o640 {
		t.Errorf("mode %o", mode)
	}
	if mode := fileMode(t, r.driver.paths.access); mode != 0o600 {
		t.Errorf("the socket has mode %o", mode)
	}
}

// No byte that a client sends breaks a line of JSON.
func TestAccessLogIsJSONWhateverClientsSend(t *testing.T) {
	r := newRig(t)
	r.apply(logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON))
	long := strings.Repeat("\"\\/", 400)
	var wild []byte
	for c := range 256 {
		wild = append(wild, byte(c))
	}
	requests := []string{
		"GET /path?token=s3cret HTTP/1.1\r\nHost: www.example.com\r\nAuthorization: Basic s3cret\r\nCookie: id=s3cret\r\n\r\n",
		"GET /\"},\"x\":{\"\\\\u0000 HTTP/1.1\r\nHost: a\"b\\c\r\n\r\n",
		"GET /" + long + " HTTP/1.1\r\nHost: " + long + "\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: \xff\xfe\x80\xc3(\r\n\r\n",
		"GET /%00%0a%22 HTTP/1.1\r\nHost: " + strings.Repeat("\xff", 300) + "\r\n\r\n",
		"GET http://user:s3cret@www.example.com/abs?token=s3cret HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
		"P\"OST / HTTP/1.1\r\n\r\n",
		"GET / HTTP/9\"9\r\n\r\n",
		"GET /" + string(wild) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		string(wild) + "\r\n\r\n",
		"\r\n\r\n{\"a\":1}\n\n",
		"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	for _, request := range requests {
		r.say(request)
	}
	lines := r.accessLines(len(requests))
	if len(lines) != len(requests) {
		t.Errorf("%d lines of %d requests", len(lines), len(requests))
	}
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
		if strings.Contains(line, "s3cret") {
			t.Errorf("a secret is in %q", line)
		}
	}
	var first struct {
		Time                                                               time.Time
		Client, Frontend, Backend, Server, Method, Path, Host, Termination string
		Status                                                             int
		BytesRead                                                          int `json:"bytes_read"`
		Timers                                                             map[string]int
	}
	// HAProxy writes a line when the request is over for it, which may be after
	// the client has its answer and the next request its line.
	n := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, `"path":"\/path"`) })
	if n < 0 {
		t.Fatalf("no line of the first request in %q", lines)
	}
	if err := json.Unmarshal([]byte(lines[n]), &first); err != nil {
		t.Fatal(err)
	}
	if time.Since(first.Time).Abs() > time.Minute || first.Client != "127.0.0.1" || first.Frontend != "web" || first.Backend != "pool" ||
		first.Server != "web1" || first.Method != "GET" || first.Path != "/path" || first.Host != "www.example.com" ||
		first.Status != 200 || first.BytesRead == 0 || len(first.Termination) != 4 || len(first.Timers) != 5 {
		t.Errorf("%+v", first)
	}
}

func TestAccessLogOfTCP(t *testing.T) {
	r := newRig(t)
	c := logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON)
	c.Frontends[0].Mode, c.Backends[0].Mode = haproxyv1.Mode_MODE_TCP, haproxyv1.Mode_MODE_TCP
	r.apply(c)
	r.say("GET /?s3cret HTTP/1.0\r\n\r\n")
	line := r.accessLines(1)[0]
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["server"] != "web1" || strings.Contains(line, "s3cret") {
		t.Errorf("%v: %s", err, line)
	}
}

// Lines wait in HAProxy for the next agent, but for some of those of the moment
// at which an agent ends.
func TestI1AccessLogWaitsForTheAgent(t *testing.T) {
	r := newRig(t)
	c := logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON)
	r.apply(c)
	r.say("GET /before HTTP/1.0\r\n\r\n")
	r.accessLines(1)
	r.stop()
	const requests, early = 200, 100
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for n := range requests {
		if answer := r.say(fmt.Sprintf("GET /%d HTTP/1.0\r\n\r\n", n)); !strings.Contains(answer, "200") {
			t.Errorf("without the agent: %q", answer)
		}
		<-pace.C
	}
	r.startDriver(Options{})
	r.apply(c)
	lines := strings.Join(r.accessLines(1+requests-early), "\n")
	for n := early; n < requests; n++ {
		if count := strings.Count(lines, fmt.Sprintf(`"path":"\/%d"`, n)); count != 1 {
			t.Errorf("request %d is logged %d times", n, count)
		}
	}
}

// A file that cannot be written costs lines, which are counted and told, and
// comes back by itself.
func TestAccessLogLossesAreTold(t *testing.T) {
	r := newRig(t)
	if err := os.MkdirAll(r.accessLog, 0o700); err != nil { // a directory is in the way
		t.Fatal(err)
	}
	r.apply(logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON))
	r.say("GET / HTTP/1.0\r\n\r\n")
	eventually(t, "the loss is told", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.events {
			if lost, ok := e.(AccessLogLost); ok && strings.Contains(lost.Text, "1 lines lost") && strings.Contains(lost.Text, r.accessLog) {
				return true
			}
		}
		return false
	})
	if err := os.Remove(r.accessLog); err != nil {
		t.Fatal(err)
	}
	r.say("GET /again HTTP/1.0\r\n\r\n")
	if lines := r.accessLines(1); !strings.Contains(lines[0], "again") {
		t.Errorf("%s", lines)
	}
}

func accessFile(dir string) logfile.Options {
	return logfile.Options{Path: dir + "/log/access.log", MaxSize: 64 << 20, Keep: 2}
}

// An agent that is frozen costs no request. When the ring is full, lines are
// lost, and HAProxy's own count of them is told.
func TestI1FrozenAgentCostsNoRequest(t *testing.T) {
	r := newRig(t)
	c := logged(r.config(newWeb(t, "web1").backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON)
	r.apply(c)
	r.stop()
	frozen, err := net.Listen("unix", r.driver.paths.access) // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.driver.paths.access, 0o666); err != nil {
		t.Fatal(err)
	}
	// Each line takes 2.5 kB of the ring's 16 MB.
	const requests = 10_000
	request := "GET " + strings.Repeat("/", 1000) + " HTTP/1.1\r\nHost: x\r\n\r\n"
	connection, err := net.Dial("tcp", r.address())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	answers := bufio.NewReader(connection)
	began := time.Now()
	for n := range requests {
		if _, err := io.WriteString(connection, request); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %v, %v", n, answer, err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	t.Logf("%.0f requests/s", requests/time.Since(began).Seconds())
	frozen.Close()
	r.startDriver(Options{})
	r.apply(c)
	eventually(t, "there is room again", func() bool { return r.countLogged(`"time"`) > 0 })
	eventually(t, "the full ring is told", func() bool {
		r.say("GET /again HTTP/1.0\r\n\r\n")
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.events {
			if lost, ok := e.(AccessLogLost); ok && strings.Contains(lost.Text, "ring was full") {
				t.Log(lost.Text)
				return true
			}
		}
		return false
	})
}
