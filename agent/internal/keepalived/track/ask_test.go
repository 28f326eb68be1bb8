package track

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

// asked asks once.
func asked(t *testing.T, s Spec) string {
	t.Helper()
	s.Timeout = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), s.Timeout)
	defer cancel()
	if err := ask(ctx, s); err != nil {
		return err.Error()
	}
	return ""
}

func TestAskURL(t *testing.T) {
	released := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/broken":
			http.Error(w, "no", http.StatusServiceUnavailable)
		case "/talkative":
			for n := range 100 {
				w.Header().Set(fmt.Sprint("X-", n), strings.Repeat("x", 1000))
			}
		case "/slow":
			<-released
		}
	}))
	defer server.Close()
	defer close(released)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for url, want := range map[string]string{
		server.URL + "/":       "",
		server.URL + "/moved":  "",
		server.URL + "/broken": "it answers with status 503, not 200 to 399",
		server.URL + "/slow":   "no answer within 500ms",
		closed.URL + "/":       "connect: connection refused",
	} {
		if got := asked(t, Spec{Kind: URL, Target: url, Lowest: 200, Highest: 399}); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
	if got := asked(t, Spec{Kind: URL, Target: server.URL + "/talkative", Lowest: 200, Highest: 399}); !strings.Contains(got, "server response headers exceeded") {
		t.Errorf("100 kB of headers: %q", got)
	}
	if got := asked(t, Spec{Kind: URL, Target: server.URL + "/", Lowest: 400, Highest: 499}); got != "it answers with status 200, not 400 to 499" {
		t.Errorf("an answer that is too good: %q", got)
	}
	if got := asked(t, Spec{Kind: URL, Target: server.URL + "/moved", Lowest: 200, Highest: 200}); got != "it answers with status 302, not 200" {
		t.Errorf("a redirection: %q", got)
	}
}

// inNamespace puts the test's thread into a network namespace of its own, which has a
// cable to another one; run runs ip in either.
func inNamespace(t *testing.T) (here, there func(args ...string)) {
	t.Helper()
	netnstest.Enter(t)
	other := "tdm-track-" + strings.ToLower(t.Name())
	run := func(name string, args ...string) {
		t.Helper()
		if said, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, said)
		}
	}
	run("ip", "netns", "add", other)
	t.Cleanup(func() { run("ip", "netns", "delete", other) })
	run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
	here = func(args ...string) { t.Helper(); run("ip", args...) }
	there = func(args ...string) { t.Helper(); run("ip", append([]string{"-n", other}, args...)...) }
	for n, ip := range []func(...string){here, there} {
		ip("address", "add", []string{"10.9.0.1/24", "10.9.0.2/24"}[n], "dev", "eth0")
		ip("address", "add", []string{"fd09::1/64", "fd09::2/64"}[n], "dev", "eth0", "nodad")
		ip("link", "set", "eth0", "up")
	}
	return here, there
}

func TestAskNeighbours(t *testing.T) {
	here, there := inNamespace(t)
	expect := func(s Spec, want string) {
		t.Helper()
		s.Interface = "eth0"
		if got := asked(t, s); got != want {
			t.Errorf("%s, IPv6 %v: %q, want %q", s.Name(), s.Six, got, want)
		}
	}
	// The kernel looks for duplicates of the link-local addresses first.
	for due := time.Now().Add(5 * time.Second); asked(t, Spec{Kind: Gateway, Interface: "eth0", Target: "fd09::2"}) != ""; {
		if time.Now().After(due) {
			t.Fatal("fd09::2 never answers")
		}
	}
	expect(Spec{Kind: Gateway, Target: "10.9.0.2"}, "")
	expect(Spec{Kind: Gateway, Target: "10.9.0.3"}, "10.9.0.3 does not answer on eth0")
	expect(Spec{Kind: Gateway, Target: "fd09::3"}, "fd09::3 does not answer on eth0")
	expect(Spec{Kind: Ping, Target: "10.9.0.2"}, "")
	expect(Spec{Kind: Ping, Target: "fd09::2"}, "")
	expect(Spec{Kind: Gateway}, "eth0 has no default route for IPv4: name the gateway's address")
	expect(Spec{Kind: Gateway, Six: true}, "eth0 has no default route for IPv6: name the gateway's address")
	here("route", "add", "default", "via", "10.9.0.2")
	here("-6", "route", "add", "default", "via", "fd09::2")
	expect(Spec{Kind: Gateway}, "")
	expect(Spec{Kind: Gateway, Six: true}, "")
	expect(Spec{Kind: Ping, Target: "10.8.0.1"}, "no answer within 500ms")
	there("address", "delete", "10.9.0.2/24", "dev", "eth0")
	expect(Spec{Kind: Gateway}, "10.9.0.2 does not answer on eth0")
	expect(Spec{Kind: Ping, Target: "10.9.0.2"}, "no answer within 500ms")
	here("link", "set", "lo", "up")
	if got := asked(t, Spec{Kind: Gateway, Interface: "lo", Target: "10.9.0.2"}); got != "interface lo is no Ethernet, so nobody can be asked by ARP or the like there: track the far end by ping" {
		t.Errorf("an interface without Ethernet: %q", got)
	}
	here("link", "set", "eth0", "down")
	expect(Spec{Kind: Gateway, Target: "10.9.0.2"}, "interface eth0 is down")
	if _, err := net.InterfaceByName("eth0"); err != nil {
		t.Errorf("it is another namespace: %v", err)
	}
}
