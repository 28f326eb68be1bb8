package haproxy

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

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
			n, err := strconv.Atoi(fields[4])
			if err != nil {
				r.t.Fatal(err)
			}
			return n
		}
	}
	return -1
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
