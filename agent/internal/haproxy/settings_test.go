package haproxy

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

func TestStatisticsPage(t *testing.T) {
	const hash = "$2b$04$w.VD3jtJkZOZa/Yf3VEnJOn1tB5c8ENZ627VrDBvjw4QCnwtnOCI6" // secret
	r := newRig(t)
	port := freePort(t)
	status := func(user, password string) int {
		t.Helper()
		request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/stats", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			request.SetBasicAuth(user, password)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	c := r.config()
	c.Global.Stats = &haproxyv1.Stats{
		Bind: &haproxyv1.Bind{Address: "127.0.0.1", Port: uint32(port)}, Path: "/stats", Realm: "it's ours",
		Users: []*haproxyv1.User{{Name: "ad#m 'n", PasswordHash: hash}, {Name: "a", PasswordHash: strings.Replace(hash, "$2b", "$2a", 1)}},
	}
	r.apply(c)
	for _, test := range []struct {
		user, password string
		want           int
	}{{"", "", 401}, {"ad#m 'n", "secret", 200}, {"a", "secret", 200}, {"a", "secre", 401}, {"ad", "secret", 401}, {"b", "secret", 401}} {
		if got := status(test.user, test.password); got != test.want {
			t.Errorf("%q %q: %d, want %d", test.user, test.password, got, test.want)
		}
	}
	r.apply(with(c, func(c *haproxyv1.Config) { c.Global.Stats.Users = nil }))
	if got := status("a", "secret"); got != 401 {
		t.Errorf("without users: %d", got)
	}
}

// An address that lives on another node is bound all the same, and the sockets
// are for nobody else.
func TestFloatingBindAndSockets(t *testing.T) {
	r := newRig(t)
	c := r.config()
	c.Frontends[0].Binds = []*haproxyv1.Bind{{Address: "192.0.2.200", Port: 80, Floating: true}}
	if haveIPv6() {
		c.Frontends[0].Binds = append(c.Frontends[0].Binds, &haproxyv1.Bind{Address: "2001:db8::200", Port: 80, Floating: true})
	}
	r.apply(c)
	r.apply(with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries = 3 }))
	for _, path := range []string{r.driver.paths.master, r.driver.paths.stats, r.driver.paths.events, r.driver.paths.file} {
		if mode := fileMode(t, path); mode != 0o600 {
			t.Errorf("%s has mode %o", path, mode)
		}
	}
}

// Requests are logged to the syslog server, and health beside them.
func TestLogTarget(t *testing.T) {
	r := newRig(t)
	syslog, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer syslog.Close()
	var mu sync.Mutex
	var lines []string
	go func() {
		line := make([]byte, 16<<10)
		for {
			n, _, err := syslog.ReadFrom(line)
			if err != nil {
				return
			}
			mu.Lock()
			lines = append(lines, string(line[:n]))
			mu.Unlock()
		}
	}()
	logged := func(parts ...string) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, line := range lines {
			all := true
			for _, part := range parts {
				all = all && strings.Contains(line, part)
			}
			if all {
				return true
			}
		}
		return false
	}
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	c.Global.LogTarget, c.Global.LogFacility = syslog.LocalAddr().String(), "local0"
	r.apply(c)
	r.get()
	eventually(t, "the request is logged", func() bool { return logged("<134>", "web pool/web1", `"GET / HTTP/1.1"`) })
	web1.sick.Store(true)
	eventually(t, "its end is logged", func() bool { return logged("Server pool/web1 is DOWN") })
	eventually(t, "and told", func() bool { return r.server("web1").State == Down })
}
