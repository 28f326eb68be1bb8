package haproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// clients are keep-alive clients on raw sockets that try each request once.
type clients struct {
	done     chan struct{}
	group    sync.WaitGroup
	requests atomic.Int64
	mu       sync.Mutex
	failures []string
}

const thinkTime = 20 * time.Millisecond

// start starts n clients, of which half post.
func (r *rig) clients(n int) *clients {
	c := &clients{done: make(chan struct{})}
	for i := range n {
		method := []string{"GET", "POST"}[i%2]
		c.group.Go(func() {
			for !c.ended() {
				if err := c.connect(r.address(), method); err != nil {
					c.mu.Lock()
					c.failures = append(c.failures, err.Error())
					c.mu.Unlock()
				}
			}
		})
	}
	return c
}

func (c *clients) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// connect uses one connection as long as the proxy lets it.
func (c *clients) connect(address, method string) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	reader := bufio.NewReader(connection)
	think := time.NewTicker(thinkTime)
	defer think.Stop()
	for n := 0; !c.ended(); n++ {
		answer, err := ask(connection, reader, method)
		c.requests.Add(1)
		if errors.Is(err, errClosing) {
			return nil
		}
		if err == nil && !strings.HasPrefix(answer, "web") {
			err = errors.New(answer)
		}
		if err != nil {
			return fmt.Errorf("%s number %d of a connection: %w", method, n, err)
		}
		<-think.C
	}
	return nil
}

// stop ends the clients and returns how many requests there were and which
// failed.
func (c *clients) stop() (int64, []string) {
	close(c.done)
	c.group.Wait()
	return c.requests.Load(), c.failures
}

// No change and no reload costs a client a request (I11).
func TestI11ChangesLoseNoRequest(t *testing.T) {
	r := newRig(t)
	webs := []*web{newWeb(t, "web1"), newWeb(t, "web2"), newWeb(t, "web3"), newWeb(t, "web4")}
	c := r.config(webs[0].backend(1), webs[1].backend(2), webs[2].backend(3))
	r.apply(c)
	clients := r.clients(20)
	reloads := r.reloads()
	const changes = 100
	id := uint32(10)
	for n := range changes {
		c = with(c, func(c *haproxyv1.Config) {
			pool := c.Backends[0]
			// The first server always stays.
			i := 1 + rand.IntN(len(pool.Servers)-1)
			switch s := pool.Servers[i]; {
			case n%5 == 0 && len(pool.Servers) == 3:
				id++
				s := webs[3].backend(id)
				s.Name = fmt.Sprintf("web4-%d", id)
				pool.Servers = append(pool.Servers, s)
			case n%5 == 1 && len(pool.Servers) == 4:
				pool.Servers = pool.Servers[:3]
			case n%5 == 2:
				s.Maintenance = !s.Maintenance
			case n%5 == 3:
				s.Weight = uint32(rand.IntN(2) * 10)
			default:
				pool.Servers[0].Weight = uint32(1 + rand.IntN(256))
			}
		})
		r.apply(c)
	}
	if got := r.reloads() - reloads; got != 0 {
		t.Errorf("%d reloads for runtime changes", got)
	}
	const structural = 5
	for n := range structural {
		c = with(c, func(c *haproxyv1.Config) { c.Backends[0].Retries = uint32(n + 1) })
		if result := r.apply(c); !result.Reloaded {
			t.Error("no reload")
		}
	}
	requests, failures := clients.stop()
	if len(failures) > 0 || requests < changes {
		t.Errorf("%d of %d requests failed: %q", len(failures), requests, failures[:min(5, len(failures))])
	}
	t.Logf("%d requests", requests)
}

// A client that waits in a keep-alive connection of an old worker must not be
// served by a server that went into maintenance with the reload.
func TestI5OldWorkerFollows(t *testing.T) {
	r := newRig(t)
	web1, web2 := newWeb(t, "web1"), newWeb(t, "web2")
	c := r.config(web1.backend(1), web2.backend(2))
	c.Backends[0].Servers[1].Weight = 0
	r.apply(c)
	idle, err := net.Dial("tcp", r.address())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	reader := bufio.NewReader(idle)
	if answer, err := ask(idle, reader, "GET"); answer != "web1" || err != nil {
		t.Fatal(answer, err)
	}
	c = with(c, func(c *haproxyv1.Config) {
		c.Backends[0].Retries = 3
		first(c).Maintenance = true
		c.Backends[0].Servers[1].Weight = 7
	})
	r.apply(c)
	old := r.processes().OldWorkers
	if len(old) != 1 {
		t.Fatalf("%d old workers, want 1", len(old))
	}
	// From here on HAProxy changes nothing on it, and the result says so.
	c = with(c, func(c *haproxyv1.Config) { c.Backends[0].Servers[1].Weight = 8 })
	if result := r.apply(c); result != (Result{Operations: 1, Finishing: 1}) {
		t.Errorf("%+v", result)
	}
	words, err := r.driver.client.Do(t.Context(), old[0].PID, []runtime.Command{
		runtime.SetWeight(config.Key{Backend: "pool", Name: "web2"}, 9),
	})
	if err != nil || !strings.Contains(words, "Proxy is disabled") {
		t.Errorf("an old worker answers %q, %v: could it be changed after all?", words, err)
	}
	if answer, err := ask(idle, reader, "GET"); answer != "web2" || !errors.Is(err, errClosing) {
		t.Errorf("the old worker answers %q, %v; want web2 and the end", answer, err)
	}
}

// A backend that is added at run time gets nothing before a check passed.
func TestAddedServerWaitsForItsCheck(t *testing.T) {
	r := newRig(t)
	web1, sick := newWeb(t, "web1"), newWeb(t, "sick")
	sick.sick.Store(true)
	closed := &haproxyv1.Server{Backend: "pool", Name: "closed", Id: 3, Address: "127.0.0.1", Port: uint32(freePort(t)), Weight: 100}
	c := r.config(web1.backend(1))
	r.apply(c)
	c = with(c, func(c *haproxyv1.Config) {
		c.Backends[0].Servers = append(c.Backends[0].Servers, sick.backend(2), closed)
	})
	clients := r.clients(4)
	if result := r.apply(c); result.Reloaded {
		t.Error("reloaded")
	}
	if got := r.server("sick"); got.State != Down {
		t.Errorf("%+v before its first check", got)
	}
	eventually(t, "reasons are told", func() bool {
		return strings.Contains(r.server("sick").Reason, "503") && strings.Contains(r.server("closed").Reason, "refused")
	})
	// A reload must not forget it, nor give new ones traffic.
	r.apply(with(c, func(c *haproxyv1.Config) {
		c.Backends[0].Retries = 1
		c.Backends[0].Servers = append(c.Backends[0].Servers, &haproxyv1.Server{
			Backend: "pool", Name: "closed2", Id: 4, Address: "127.0.0.1", Port: closed.Port, Weight: 100,
		})
	}))
	if got := r.answers(20); got["web1"] != 20 {
		t.Errorf("answers %v", got)
	}
	sick.sick.Store(false)
	eventually(t, "it answers", func() bool { return r.get() == "sick" })
	eventually(t, "it is told", func() bool { return r.server("sick").State == Up })
	_, failures := clients.stop()
	for _, failure := range failures {
		if !strings.HasSuffix(failure, ": sick") {
			t.Error(failure)
		}
	}
}

// Removing a server with a request in flight is acknowledged at once, and its
// name can be used again at once.
func TestRemovalWaitsForNobody(t *testing.T) {
	r := newRig(t)
	web1, busy := newWeb(t, "web1"), newWeb(t, "busy")
	busy.hold = make(chan struct{})
	both := r.config(web1.backend(1), busy.backend(2))
	both.Backends[0].Servers[0].Weight = 0
	r.apply(both)
	inFlight := func() chan string {
		answer := make(chan string, 1)
		go func() {
			response, err := http.Get("http://" + r.address() + "/hold")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			answer <- string(text)
		}()
		eventually(t, "the request is in flight", func() bool {
			stats, err := r.driver.client.Stats(t.Context(), r.processes().Workers[0].PID)
			return err == nil && len(stats) > 0 && r.sessions("busy") == 1
		})
		return answer
	}
	answer := inFlight()
	one := with(both, func(c *haproxyv1.Config) {
		c.Backends[0].Servers = c.Backends[0].Servers[:1]
		first(c).Weight = 1
	})
	if result := r.apply(one); result.Reloaded {
		t.Error("reloaded")
	}
	if r.sessions("busy") != 1 {
		t.Error("it is gone already, or the request is: this tests nothing")
	}
	// The same server again: it just goes on.
	if result := r.apply(both); result.Reloaded {
		t.Error("reloaded")
	}
	// Another one with its name: only a reload can.
	r.apply(with(both, func(c *haproxyv1.Config) { c.Backends[0].Servers[1].Id = 9 }))
	r.apply(one)
	close(busy.hold)
	if got := <-answer; got != "busy" {
		t.Errorf("the request in flight got %q", got)
	}
	eventually(t, "it is deleted", func() bool {
		states, err := r.driver.client.States(t.Context(), r.processes().Workers[0].PID)
		return err == nil && len(states) == 1
	})
	eventually(t, "that is told", func() bool { return len(r.driver.Snapshot().Servers) == 1 })
}

// sessions is how many a server has, by HAProxy's own count.
func (r *rig) sessions(server string) int {
	r.t.Helper()
	for _, line := range strings.Split(r.worker("show stat"), "\n") {
		fields := strings.Split(line, ",")
		if len(fields) > 4 && fields[1] == server {
			var n int
			fmt.Sscan(fields[4], &n)
			return n
		}
	}
	return -1
}

// worker gives the newest worker a command, as a stranger would.
func (r *rig) worker(command string) string {
	r.t.Helper()
	c, err := net.Dial("unix", r.driver.paths.stats)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	text, err := io.ReadAll(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func TestObservation(t *testing.T) {
	r := newRig(t)
	web1, web2 := newWeb(t, "web1"), newWeb(t, "web2")
	c := r.config(web1.backend(1), web2.backend(2))
	c.Backends[0].Check.Interval = durationpb.New(50 * time.Millisecond)
	r.apply(c)
	eventually(t, "both are up", func() bool { return r.server("web1").State == Up && r.server("web2").State == Up })
	logged := r.heard()
	web2.sick.Store(true)
	eventually(t, "web2 is down", func() bool { return r.server("web2").State == Down })
	if got := r.server("web2"); !strings.Contains(got.Reason, "503") || time.Since(got.Since) > time.Minute {
		t.Errorf("%+v", got)
	}
	web2.sick.Store(false)
	eventually(t, "web2 is up", func() bool { return r.server("web2").State == Up })
	if r.heard() < logged+2 {
		t.Error("that was not told by the log")
	}
	// A stranger's hand is seen, also where the log says nothing of it.
	r.worker("set weight pool/web1 3")
	eventually(t, "the weight is seen", func() bool { return r.server("web1").Weight == 3 })
	r.worker("set server pool/web1 state maint")
	eventually(t, "maintenance is seen", func() bool { return r.server("web1").State == Maintenance })
	// And undone by the next apply, also when it comes before the next poll.
	for _, command := range []string{"show info", "set weight pool/web2 77", "set server pool/web2 state maint"} {
		r.worker(command)
		if result := r.apply(c); result.Reloaded || result.Operations > 1 {
			t.Errorf("%+v", result)
		}
	}
}

// heard counts what the log said.
func (r *rig) heard() uint64 { return r.driver.board.now() }

// While someone else reloads HAProxy it answers nobody for a moment, and is not
// dead for that.
func TestForeignReloadIsNoDeath(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	r.apply(c)
	for range 10 {
		before := r.processes()
		if _, err := r.driver.client.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the reload is done", func() bool {
			r.driver.kick <- struct{}{} // a poll as often as can be
			found, err := r.driver.client.Processes(t.Context())
			return err == nil && len(found.Workers) > 0 && hasNew(before, found)
		})
	}
	if result := r.apply(c); result.Reloaded || result.Operations != 0 {
		t.Errorf("%+v", result)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if change, ok := e.(DaemonChanged); ok && change.State == Stopped {
			t.Errorf("told dead: %s", change.Message)
		}
	}
}

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

// With many servers a change costs little.
func TestManyServers(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	c := r.config(web1.backend(1))
	c.Backends[0].Check = nil
	for i := range 2000 {
		s := web1.backend(uint32(i + 10))
		s.Name = fmt.Sprintf("server%d", i)
		c.Backends[0].Servers = append(c.Backends[0].Servers, s)
	}
	began := time.Now()
	r.apply(c)
	t.Logf("cold: %v", time.Since(began))
	c = with(c, func(c *haproxyv1.Config) { first(c).Weight = 5 })
	began = time.Now()
	result, err := r.driver.Apply(t.Context(), c)
	if err != nil || result.Reloaded || result.Operations != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	t.Logf("one weight: %v", time.Since(began))
	c = with(c, func(c *haproxyv1.Config) { c.Backends[0].Servers = c.Backends[0].Servers[:1000] })
	began = time.Now()
	if result := r.apply(c); result.Reloaded || result.Operations != 1001 {
		t.Errorf("%+v", result)
	}
	t.Logf("1001 removed: %v", time.Since(began))
	states, err := r.driver.client.States(t.Context(), r.processes().Workers[0].PID)
	if err != nil || len(states) != 1000 || states[0].Key != (config.Key{Backend: "pool", Name: "web1"}) || states[0].Op != runtime.OpRunning {
		t.Errorf("%d servers, %v", len(states), err)
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
