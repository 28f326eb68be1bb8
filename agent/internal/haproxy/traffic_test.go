package haproxy

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
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
	r.isInEffect(c)
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
