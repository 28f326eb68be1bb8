package scenarios

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/web"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// I5: applied means in effect on every living worker, also on those that only
// finish what they have after a reload: a client that holds a connection to one
// of them is never sent to a backend in maintenance.
func TestI5AppliedIsInEffectOnEveryWorker(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.inEffect(ctx, s.change("no end of idle connections", s.setTimeout(ctx, 50*time.Second)))
	s.lbctl(ctx, "cluster", "set", "--http-keep-alive-timeout", "50s")

	// Three reloads, with clients connected before each: three old workers.
	var generations [3][]*keptOpen
	for i := range generations {
		for range 12 {
			generations[i] = append(generations[i], s.keepOpen(ctx))
		}
		s.inEffect(ctx, s.change("reload", s.setTimeout(ctx, time.Duration(40+i)*time.Second)))
	}
	pids, err := workers(ctx, s.Master())
	if err != nil || len(pids) != 4 {
		t.Fatalf("lb-master has workers %v (%v), want a new one and three with old connections", pids, err)
	}

	for i, id := range []string{"web1", "web2", "web3"} {
		t.Run("maintenance of "+id, func(t *testing.T) {
			s := s.in(t)
			s.lbctl(ctx, "backend", "maintenance", "web_servers/"+id)
			before := s.count(ctx, id)
			s.eachWorker(ctx, 4-i, "web_servers/"+id, func(w server) bool { return w.Maintenance })
			clients := generations[i]
			for range 12 {
				clients = append(clients, s.keepOpen(ctx)) // to the new worker
			}
			// HAProxy answers through an old worker once more, and then closes.
			for _, c := range clients {
				if from := c.get(t); from == id {
					t.Errorf("a request was answered by %s, which is in maintenance", id)
				}
			}
			if got := s.count(ctx, id) - before; got != 0 {
				t.Errorf("%s got %d requests in maintenance", id, got)
			}
			s.lbctl(ctx, "backend", "ready", "web_servers/"+id)
		})
	}

	t.Run("weight on every worker", func(t *testing.T) {
		s := s.in(t)
		s.keepOpen(ctx)
		s.inEffect(ctx, s.change("reload", s.setTimeout(ctx, time.Minute)))
		for _, weight := range []int{7, 256, 1} {
			s.lbctl(ctx, "backend", "set", "web_servers/web2", "--weight", strconv.Itoa(weight))
			s.eachWorker(ctx, 2, "web_servers/web2", func(w server) bool { return w.Weight == weight })
		}
		s.lbctl(ctx, "backend", "drain", "web_servers/web2")
		s.eachWorker(ctx, 2, "web_servers/web2", func(w server) bool { return w.Weight == 0 })
	})
}

// eachWorker checks a backend on every worker of both nodes. lb-master has that
// many at least.
func (s *site) eachWorker(ctx context.Context, least int, backend string, right func(server) bool) {
	s.t.Helper()
	for _, name := range clustertest.Both {
		pids, err := workers(ctx, s.Nodes[name])
		if err != nil {
			s.t.Fatal(err)
		}
		if name == cluster.Master && len(pids) < least {
			s.t.Errorf("%s has workers %v, want %d", name, pids, least)
		}
		for i, pid := range pids {
			servers, err := workerServers(ctx, s.Nodes[name], pid)
			if err != nil || i == 0 && servers == nil {
				s.t.Fatalf("worker %s on %s: %v", pid, name, err)
			}
			if servers != nil && !right(servers[backend]) {
				s.t.Errorf("worker %s of %v on %s has %s %+v", pid, pids, name, backend, servers[backend])
			}
		}
	}
}

// count is how many requests a web server has got, health checks apart.
func (s *site) count(ctx context.Context, name string) int {
	s.t.Helper()
	out, err := s.Lab.Host("client").Output(ctx, "curl", "-sS", "--max-time", "5", "http://"+s.Lab.Host(name).Address.Addr().String()+"/count")
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		s.t.Fatalf("count of %s: %v", name, err)
	}
	return n
}

// keptOpen is a client connection to the VIP that has been used once.
type keptOpen struct {
	conn net.Conn
	in   *bufio.Reader
}

func (s *site) keepOpen(ctx context.Context) *keptOpen {
	s.t.Helper()
	conn, err := s.Lab.Host("client").Dial(ctx, "tcp", "192.168.1.100:80")
	if err != nil {
		s.t.Fatal(err)
	}
	k := &keptOpen{conn: conn, in: bufio.NewReader(conn)}
	s.t.Cleanup(func() { _ = conn.Close() })
	k.get(s.t)
	return k
}

// get sends a request over the connection and returns which web server
// answered.
func (k *keptOpen) get(t testing.TB) string {
	t.Helper()
	from, err := k.exchange()
	if err != nil {
		t.Error(err)
	}
	return from
}

func (k *keptOpen) exchange() (string, error) {
	if err := k.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(k.conn, "GET / HTTP/1.1\r\nHost: 192.168.1.100\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return "", fmt.Errorf("answer over a connection kept open: %w", err)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("status %s", answer.Status))
	}
	return answer.Header.Get(web.ServerHeader), errors.Join(err, answer.Body.Close())
}
