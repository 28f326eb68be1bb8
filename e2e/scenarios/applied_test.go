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

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/web"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// I5: applied means in effect on every worker that gets connections. One that
// only finishes what it has after a reload can no longer be changed: HAProxy
// 2.6 answers "Proxy is disabled". So each connection that waited over
// the reload gets one more answer from it and is closed with that; nothing else
// reaches a backend in maintenance.
func TestI5AppliedIsInEffectOnEveryWorker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
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
	kept := make([]*keptOpen, 12) // to the new worker, through every change
	for i := range kept {
		kept[i] = s.keepOpen(ctx)
	}

	for i, id := range []string{"web1", "web2", "web3"} {
		t.Run("maintenance of "+id, func(t *testing.T) {
			s := s.in(t)
			s.lbctl(ctx, "backend", "maintenance", "web_servers/"+id)
			before := s.count(ctx, id)
			s.everywhere(ctx, "web_servers/"+id, func(w server) bool { return w.Maintenance })
			for range 12 {
				if from := s.keepOpen(ctx).from; from == id {
					t.Errorf("a new connection was answered by %s, which is in maintenance", id)
				}
			}
			for _, c := range kept {
				if c.get(t); c.from == id || c.closing {
					t.Errorf("a connection kept open was answered by %s, closing %t; %s is in maintenance", c.from, c.closing, id)
				}
			}
			if got := s.count(ctx, id) - before; got != 0 {
				t.Errorf("%s got %d requests in maintenance", id, got)
			}
			last := 0
			for _, c := range generations[i] {
				c.get(t)
				if !c.closing {
					t.Error("an old worker does not close after one more answer")
				}
				if c.from == id {
					last++
				}
			}
			if got := s.count(ctx, id) - before; got != last {
				t.Errorf("%s got %d requests in maintenance, want the %d last ones of connections that waited over a reload", id, got, last)
			}
			s.lbctl(ctx, "backend", "ready", "web_servers/"+id)
		})
	}

	t.Run("maintenance before a reload", func(t *testing.T) {
		s := s.in(t)
		s.lbctl(ctx, "backend", "maintenance", "web_servers/web1")
		s.inEffect(ctx, s.change("reload", s.setTimeout(ctx, 55*time.Second)))
		for _, c := range kept {
			if c.get(t); c.from == "web1" || !c.closing {
				t.Errorf("the old worker answered by %s, closing %t", c.from, c.closing)
			}
		}
		s.lbctl(ctx, "backend", "ready", "web_servers/web1")
	})

	t.Run("weight", func(t *testing.T) {
		s := s.in(t)
		for _, weight := range []int{7, 256, 1} {
			s.lbctl(ctx, "backend", "set", "web_servers/web2", "--weight", strconv.Itoa(weight))
			s.everywhere(ctx, "web_servers/web2", func(w server) bool { return w.Weight == weight })
		}
		s.lbctl(ctx, "backend", "drain", "web_servers/web2")
		s.everywhere(ctx, "web_servers/web2", func(w server) bool { return w.Weight == 0 })
	})
}

// everywhere checks a backend on the newest worker of both nodes.
func (s *site) everywhere(ctx context.Context, backend string, right func(server) bool) {
	s.t.Helper()
	for _, name := range clustertest.Both {
		now, err := runtime(ctx, s.Nodes[name])
		if err != nil {
			s.t.Fatal(err)
		}
		if !right(now.Servers[backend]) {
			s.t.Errorf("%s has %s %+v", name, backend, now.Servers[backend])
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

// keptOpen is a client connection to the VIP that has been used.
type keptOpen struct {
	conn net.Conn
	in   *bufio.Reader

	from    string // the web server that gave the last answer
	closing bool   // HAProxy closes after it
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

// get sends one more request over the connection.
func (k *keptOpen) get(t testing.TB) {
	t.Helper()
	if err := k.exchange(); err != nil {
		t.Errorf("request over a connection kept open: %v", err)
	}
}

func (k *keptOpen) exchange() error {
	if err := k.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(k.conn, "GET / HTTP/1.1\r\nHost: 192.168.1.100\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return err
	}
	k.from, k.closing = answer.Header.Get(web.ServerHeader), answer.Close
	_, err = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("status %s", answer.Status))
	}
	return errors.Join(err, answer.Body.Close())
}
