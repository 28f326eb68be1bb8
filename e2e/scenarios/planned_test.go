package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A failover by the controller ends when the other node holds the VIP, and is
// refused, with the reason, when none can.
func TestFailoverByTheController(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.under(ctx, load, func() {
		var moved struct{ From, To, Duration string }
		out := s.lbctl(ctx, "vip", "failover", "web", "--for", "2s", "--reason", "new kernel", "-o", "json")
		if err := json.Unmarshal([]byte(out), &moved); err != nil || moved.From != cluster.Master || moved.To != cluster.Backup {
			t.Errorf("it prints %s (%v)", out, err)
		}
		s.holdsNow(ctx, cluster.Backup)
		s.holds(ctx, cluster.Master) // its fail-back is automatic
	})
	s.wait(ctx, "the VIP to be back", cluster.HeldBy("web", cluster.Master))
	if out := s.lbctl(ctx, "events", "--tail", "50"); !strings.Contains(out, "VIP web was moved to another node by admin: new kernel") {
		t.Errorf("the events do not tell it:\n%s", out)
	}

	s.lbctl(ctx, "node", "drain", cluster.Backup)
	if _, err := s.Lbctl(ctx, "vip", "failover", "web"); !failedWith(err, 5, "lb-backup is drained [NO_TAKER]") {
		t.Errorf("to a drained node: %v", err)
	}
	if _, err := s.Lbctl(ctx, "vip", "failover", "web", "--to", "nobody"); !failedWith(err, 3, "nobody") {
		t.Errorf("to no node: %v", err)
	}
	s.lbctl(ctx, "node", "undrain", cluster.Backup)
	if err := s.Backup().KillAgent(); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "a node without an agent to be told of", func(ctx context.Context) error {
		if _, err := s.Lbctl(ctx, "vip", "failover", "web"); !failedWith(err, 5, "lb-backup is not connected [NO_TAKER]") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	s.holdsNow(ctx, cluster.Master)
}

// holdsNow fails the test if the VIP's address is not on that node alone.
func (s *site) holdsNow(ctx context.Context, node string) {
	s.t.Helper()
	if holders, err := s.Lab.Holders(ctx, lab.VIP.Addr()); err != nil || len(holders) != 1 || holders[0] != node {
		s.t.Errorf("the VIP is on %v (%v), want %s", holders, err, node)
	}
}

// load is traffic of every kind. Downloads and requests in flight are longer than a
// move takes, and idle connections are older.
var load = probe.Config{
	Interval: 10 * time.Millisecond, Reused: 6, Inflight: 4, Downloads: 3, WebSockets: 3,
	Think: 50 * time.Millisecond, Hold: 400 * time.Millisecond, Timeout: 5 * time.Second,
}

// established is the part of it that a move by score alone resets.
var established = []probe.Kind{
	probe.ReusedGet, probe.ReusedPost, probe.InflightGet, probe.InflightPost, probe.Download, probe.WebSocket,
}

// tell logs what became of each kind of traffic.
func (s *site) tell(r *probe.Report) {
	s.t.Helper()
	for _, kind := range append([]probe.Kind{probe.New}, established...) {
		s.t.Logf("%s: %d of %d failed", kind, r.Kinds[kind].Failed, r.Kinds[kind].Attempts)
	}
	s.t.Logf("longest time without an answer to a new connection: %.1f ms", r.LongestGap.MS)
}

// backAndForth moves the VIP away from lb-master and back, in each way there is.
func (s *site) backAndForth(ctx context.Context) {
	s.t.Helper()
	s.lbctl(ctx, "node", "drain", cluster.Master)
	s.holds(ctx, cluster.Backup)
	s.lbctl(ctx, "node", "undrain", cluster.Master)
	s.holds(ctx, cluster.Master)
	s.lbctl(ctx, "vip", "failover", "web", "--for", "1s")
	s.holds(ctx, cluster.Master) // its fail-back is automatic
}

// I11: no planned move costs a client a request, new or established.
func TestI11NoPlannedMoveCostsARequest(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 5*time.Minute)

	// A listener on every address is not told which of them are VIPs.
	s.lbctl(ctx, "listener", "add", "everywhere", "--address", "*", "--port", "8081", "--protocol", "http", "--pool", "web_servers")
	t.Run("drain, undrain, failover and fail-back", func(t *testing.T) {
		s := s.in(t)
		of, everywhere := load, load
		of.Target, everywhere.Target = "192.168.1.100:80", "192.168.1.100:8081"
		for _, report := range s.duringAll(ctx, []probe.Config{of, everywhere}, func() {
			for range 3 {
				s.backAndForth(ctx)
			}
		}) {
			s.tell(report)
			if n := report.Failed(); n > 0 {
				t.Errorf("%d of %d requests failed, the first %+v", n, report.Attempts(), report.Failures[0])
			}
			for kind, least := range map[probe.Kind]int{
				probe.New: 200, probe.ReusedGet: 100, probe.ReusedPost: 100, probe.InflightGet: 10, probe.InflightPost: 10,
				probe.Download: 10, probe.WebSocket: 100,
			} {
				if n := report.Kinds[kind].Attempts; n < least {
					t.Errorf("%d requests of kind %s, want %d at least", n, kind, least)
				}
			}
		}
	})

	// As an upgrade of its package does.
	t.Run("keepalived is stopped", func(t *testing.T) {
		s := s.in(t)
		s.tell(s.under(ctx, load, func() {
			stopped, err := s.Master().Host.SignalAll("keepalived", syscall.SIGTERM)
			if err != nil {
				t.Fatal(err)
			}
			s.until(10*time.Second, "another keepalived", func(context.Context) error {
				pids, err := s.Master().Host.Pids("keepalived")
				if err == nil && (len(pids) == 0 || slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(stopped, pid) })) {
					err = fmt.Errorf("there is %v", pids)
				}
				return err
			})
			s.holds(ctx, cluster.Master)
			s.served(ctx, 500*time.Millisecond)
		}))
	})

	t.Run("without the agents", func(t *testing.T) {
		s := s.in(t)
		s.under(ctx, load, func() {
			s.lbctl(ctx, "vip", "failover", "web", "--for", "1h")
			for _, n := range s.Nodes {
				if err := n.KillAgent(); err != nil {
					t.Fatal(err)
				}
			}
			s.served(ctx, 2*time.Second)
			for _, n := range s.Nodes {
				if err := n.StartAgent(ctx); err != nil {
					t.Fatal(err)
				}
			}
			// A new agent forgets a failover, so that the VIP comes back.
			s.wait(ctx, "the agents", cluster.Settled(clustertest.Both...))
			s.served(ctx, time.Second)
		})
		s.healthy(ctx)
	})

	// The same without the forwarding, which shows that the clients would notice.
	t.Run("handover_timeout 0s", func(t *testing.T) {
		s := s.in(t)
		s.lbctl(ctx, "vip", "set", "web", "--handover-timeout", "0s")
		for name, n := range s.Nodes {
			s.until(5*time.Second, "no trace of it on "+name, func(ctx context.Context) error {
				if left := s.traces(ctx, n); left != "" {
					return errors.New(left)
				}
				return nil
			})
		}
		report := s.during(ctx, load, func() { s.backAndForth(ctx) })
		s.tell(report)
		for _, kinds := range [][]probe.Kind{
			{probe.ReusedGet, probe.ReusedPost}, {probe.InflightGet, probe.InflightPost}, {probe.Download}, {probe.WebSocket},
		} {
			if report.Failed(kinds...) == 0 {
				t.Errorf("no request of kind %v failed", kinds)
			}
		}
		s.lbctl(ctx, "vip", "set", "web", "--unset", "handover-timeout")
	})
}

// Two VIPs make both nodes work, with addresses of both families and each fail-back,
// and each moves by itself without a loss.
func TestTwoVIPsMakeBothNodesWork(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	for host, address := range map[string]string{cluster.Master: "fd00:1::10", cluster.Backup: "fd00:1::11", "client": "fd00:1::50"} {
		if _, err := s.Lab.Host(host).Output(ctx, "ip", "address", "add", address+"/64", "dev", "eth0", "nodad"); err != nil {
			t.Fatal(err)
		}
	}
	s.lbctl(ctx, "vip", "add", "mail", "192.168.1.101/24", "fd00:1::101/64", "--vrid", "52",
		"--priority", "lb-backup=230", "--priority", "lb-master=220")
	s.lbctl(ctx, "listener", "add", "mail", "--vip", "mail", "--port", "80", "--protocol", "http", "--pool", "web_servers")
	on := func(web, mail string) {
		t.Helper()
		s.wait(ctx, "web on "+web+" and mail on "+mail, cluster.HeldBy("web", web), cluster.HeldBy("mail", mail), cluster.NoAlarms)
	}
	on(cluster.Master, cluster.Backup)
	s.lbctl(ctx, "vip", "set", "mail", "--fail-back", "never") // from where it is now

	var all []probe.Config
	for _, target := range []string{"192.168.1.100:80", "192.168.1.101:80", "[fd00:1::101]:80"} {
		cfg := load
		cfg.Target, cfg.Interval = target, 20*time.Millisecond
		all = append(all, cfg)
	}
	reports := s.duringAll(ctx, all, func() {
		s.lbctl(ctx, "node", "drain", cluster.Master)
		on(cluster.Backup, cluster.Backup)
		s.lbctl(ctx, "node", "undrain", cluster.Master)
		on(cluster.Master, cluster.Backup)
		s.lbctl(ctx, "vip", "failover", "mail", "--for", "1s")
		s.served(ctx, 2*time.Second)
		on(cluster.Master, cluster.Master) // never comes back by itself
		s.lbctl(ctx, "vip", "failover", "mail", "--to", cluster.Backup)
		on(cluster.Master, cluster.Backup)
		s.lbctl(ctx, "vip", "set", "web", "--fail-back", "delayed", "--fail-back-delay", "2s")
		began := time.Now()
		s.lbctl(ctx, "vip", "failover", "web", "--for", "1s")
		on(cluster.Backup, cluster.Backup)
		on(cluster.Master, cluster.Backup)
		if d := time.Since(began); d < 2*time.Second {
			t.Errorf("web came back after %s, want 2s at least", d)
		}
	})
	for n, report := range reports {
		t.Log(all[n].Target)
		s.tell(report)
		if failed := report.Failed(); failed > 0 {
			t.Errorf("%s: %d of %d requests failed, the first %+v", all[n].Target, failed, report.Attempts(), report.Failures[0])
		}
	}
}

// An agent that may not change the kernel says so, and the VIPs move all the same.
func TestANodeThatCannotHandOverSaysSo(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	n := s.Master()
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Host.Start(ctx, lab.ProcessSpec{Name: "lb-agent-bound", Args: []string{
		"setpriv", "--bounding-set=-bpf,-sys_admin", s.Programs.Agent, "run", "--config", n.Config,
	}}); err != nil {
		t.Fatal(err)
	}
	s.wait(ctx, "the problem", func(status *tandemv1.ClusterStatus) error {
		problems := cluster.FindNode(status, cluster.Master).GetProblems()
		if len(problems) != 1 || !strings.Contains(problems[0], "established connections do not outlive planned moves") ||
			!strings.Contains(problems[0], "CAP_BPF") {
			return fmt.Errorf("the problems are %q", problems)
		}
		return nil
	})
	s.lbctl(ctx, "vip", "failover", "web", "--for", "1s")
	s.holds(ctx, cluster.Master)
	s.lbctl(ctx, "vip", "set", "web", "--handover-timeout", "0s")
	s.wait(ctx, "no problem", func(status *tandemv1.ClusterStatus) error {
		if problems := cluster.FindNode(status, cluster.Master).GetProblems(); len(problems) > 0 {
			return fmt.Errorf("the problems are %q", problems)
		}
		return nil
	})
}

// served lets clients go on for a while, in which lb-backup or lb-master answers.
func (s *site) served(ctx context.Context, d time.Duration) {
	s.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		s.t.Fatal(ctx.Err())
	}
}

// traces is what the handover has in the kernel of a node, empty when nothing.
func (s *site) traces(ctx context.Context, n *cluster.Node) string {
	s.t.Helper()
	out, err := n.Host.Output(ctx, "sh", "-c",
		"{ tc qdisc show dev eth0; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; } | grep -e clsact -e 0x74646d -e 7627885 || :")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// Connections that were handed over and that nobody can serve any more are reset
// soon, so that clients connect anew: the previous holder's proxy dies, the previous
// holder loses its cable, the time is over.
func TestConnectionsThatWereHandedOverEndWithTheirNode(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	waiting := probe.Config{Reused: 6, WebSockets: 3, Think: 20 * time.Millisecond, Timeout: 10 * time.Second}
	for name, test := range map[string]struct {
		timeout string
		end     func()
		repair  func()
		within  float64 // ms
		silent  bool    // nobody can tell those who wait for an answer
	}{
		"its proxy dies": {"5m", func() {
			if err := s.Master().Host.KillAll(ctx, "haproxy"); err != nil {
				t.Fatal(err)
			}
		}, func() {}, 2000, false},
		"its cable is cut": {"5m", func() {
			if err := s.Master().Host.Cut(ctx); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := s.Master().Host.Plug(ctx); err != nil {
				t.Fatal(err)
			}
		}, 5000, true},
		"its time is over": {"2s", func() { s.served(ctx, 2*time.Second) }, func() {}, 2000, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.lbctl(ctx, "vip", "set", "web", "--handover-timeout", test.timeout)
			s.lbctl(ctx, "node", "drain", cluster.Master)
			s.holds(ctx, cluster.Backup)
			s.lbctl(ctx, "node", "undrain", cluster.Master)
			s.holds(ctx, cluster.Master)
			var ended, over time.Time
			report := s.during(ctx, waiting, func() {
				s.lbctl(ctx, "node", "drain", cluster.Master)
				s.holds(ctx, cluster.Backup)
				ended = time.Now()
				test.end()
				over = time.Now()
				s.served(ctx, 3*time.Second)
			})
			test.repair()
			s.tell(report)
			if report.Failed() == 0 {
				t.Error("nothing has failed")
			}
			for _, f := range report.Failures {
				if test.silent && f.At.Before(over) {
					continue // its answer may be lost with the cable: it has nothing more to send, and hears nothing
				}
				if f.At.Before(ended) && f.At.Add(time.Duration(f.AfterMS*1e6)).Before(ended) || f.AfterMS > test.within {
					t.Errorf("%+v, want it after %v and within %.0f ms", f, ended, test.within)
				}
			}
			s.lbctl(ctx, "node", "undrain", cluster.Master)
			s.healthy(ctx)
		})
	}
}
