package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// newcomers are clients that connect anew for each request.
var newcomers = probe.Config{Interval: 5 * time.Millisecond, Timeout: 5 * time.Second}

// lbAgent runs lb-agent at a node, which must succeed.
func (s *site) lbAgent(ctx context.Context, n *cluster.Node, args ...string) string {
	s.t.Helper()
	out, err := n.LbAgent(ctx, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// local is what "lb-agent status -o json" prints.
func (s *site) local(ctx context.Context, n *cluster.Node) *localv1.GetStatusResponse {
	s.t.Helper()
	status := &localv1.GetStatusResponse{}
	if err := protojson.Unmarshal([]byte(s.lbAgent(ctx, n, "status", "-o", "json")), status); err != nil {
		s.t.Fatal(err)
	}
	return status
}

// holds waits until a node alone has the VIP's address, without the controller.
func (s *site) holds(ctx context.Context, node string) {
	s.t.Helper()
	s.until(10*time.Second, "the VIP on "+node, func(context.Context) error {
		holders, err := s.Lab.Holders(ctx, netip.MustParseAddr("192.168.1.100"))
		if err == nil && !slices.Equal(holders, []string{node}) {
			err = fmt.Errorf("it is on %v", holders)
		}
		return err
	})
}

// drifts holds when a node shows exactly these drifts, by the ends of their
// names.
func drifts(node string, want ...string) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		var have []string
		for _, d := range cluster.FindNode(status, node).GetDrift() {
			have = append(have, d.GetName()[strings.LastIndexByte(d.GetName(), '/')+1:]+" "+d.GetLocal().GetState())
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("%s shows the drift %q, want %q", node, have, want)
		}
		return nil
	}
}

func (s *site) wait(ctx context.Context, what string, conditions ...cluster.Condition) *tandemv1.ClusterStatus {
	s.t.Helper()
	status, err := s.Until(ctx, what, conditions...)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// Without the controller a node does what its operator says, keeps it, and shows
// it as drift when the controller is back.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	master := s.Master()
	if err := s.Controller.Kill(); err != nil {
		t.Fatal(err)
	}

	t.Run("drain moves the VIP", func(t *testing.T) {
		s := s.in(t)
		s.under(ctx, load, func() {
			s.lbAgent(ctx, master, "drain", "--reason", "new kernel")
			s.holds(ctx, cluster.Backup)
			s.lbAgent(ctx, master, "undrain")
			s.holds(ctx, cluster.Master)
		})
	})

	t.Run("failover moves it for a while", func(t *testing.T) {
		s := s.in(t)
		s.under(ctx, load, func() {
			s.lbAgent(ctx, master, "failover", "web", "--for", "2s")
			s.holds(ctx, cluster.Backup)
			if _, err := master.LbAgent(ctx, "failover", "web"); !failedWith(err, 5, "does not hold it") {
				t.Errorf("a second failover: %v", err)
			}
			s.holds(ctx, cluster.Master) // its fail-back is automatic
		})
	})

	t.Run("a backend loses its traffic without a reload", func(t *testing.T) {
		s := s.in(t)
		before := s.local(ctx, master).GetReloads()
		s.lbAgent(ctx, master, "backend", "drain", "web_servers/web1", "--reason", "garbage")
		report := s.under(ctx, newcomers, func() {
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				if n := len(s.local(ctx, master).GetLocalChanges()); n != 1 {
					t.Fatalf("there are %d local changes, want one", n)
				}
			}
		})
		if report.Servers["web1"] > 0 || len(report.Servers) != 2 || report.Attempts() < 40 {
			t.Errorf("the answers come from %v, want web2 and web3", report.Servers)
		}
		if after := s.local(ctx, master).GetReloads(); after != before {
			t.Errorf("it caused %d reloads", after-before)
		}
	})

	t.Run("only root", func(t *testing.T) {
		s := s.in(t)
		out, err := master.Host.Command(ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
			s.Programs.Agent, "drain", "--run-dir", master.RunDir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "only root may do this") {
			t.Errorf("nobody drains the node: %v: %s", err, out)
		}
	})

	t.Run("an agent that starts anew keeps it", func(t *testing.T) {
		s := s.in(t)
		s.under(ctx, newcomers, func() {
			if err := master.KillAgent(); err != nil {
				t.Fatal(err)
			}
			if _, err := master.LbAgent(ctx, "status"); !failedWith(err, 1, "the agent does not run on this machine") {
				t.Errorf("without an agent: %v", err)
			}
			if err := master.StartAgent(ctx); err != nil {
				t.Fatal(err)
			}
			s.until(20*time.Second, "web1 drained by a new agent", func(ctx context.Context) error {
				out, err := master.LbAgent(ctx, "status")
				if err == nil && !strings.Contains(string(out), "backend web_servers/web1 drain") {
					err = errors.New(string(out))
				}
				return err
			})
		})
	})

	if err := s.Controller.Start(ctx); err != nil {
		t.Fatal(err)
	}
	s.decide(ctx)
}

// decide is the way of drift from the return of the controller to its end.
func (s *site) decide(ctx context.Context) {
	t, master, backup := s.t, s.Master(), s.Backup()
	s.wait(ctx, "the drift", cluster.Connected(clustertest.Both...), drifts(cluster.Master, "web1 drain"), drifts(cluster.Backup))
	if out := s.lbctl(ctx, "status"); !strings.Contains(out, "lbctl node drift keep lb-master") || !strings.Contains(out, "garbage") {
		t.Errorf("lbctl status does not tell the drift:\n%s", out)
	}
	// Other changes take effect beside it, and leave it alone.
	s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "3")
	status := s.wait(ctx, "the drift after a change", drifts(cluster.Master, "web1 drain"),
		cluster.BackendIs("web_servers/web1", tandemv1.BackendState_BACKEND_STATE_DRAIN, cluster.Master),
		cluster.BackendIs("web_servers/web1", tandemv1.BackendState_BACKEND_STATE_UP, cluster.Backup))

	s.lbctl(ctx, "node", "drift", "keep", cluster.Master)
	kept := s.wait(ctx, "the drain on both nodes", drifts(cluster.Master),
		cluster.BackendIs("web_servers/web1", tandemv1.BackendState_BACKEND_STATE_DRAIN, clustertest.Both...))
	if got, want := kept.GetDesired(), status.GetDesired()+1; got != want {
		t.Errorf("keeping made revision %d, want %d", got, want)
	}
	s.lbctl(ctx, "node", "drift", "keep", cluster.Master)
	if again := s.head(ctx); again != kept.GetDesired() {
		t.Errorf("keeping twice made revision %d", again)
	}
	s.until(5*time.Second, "no local change", func(ctx context.Context) error {
		if left := s.local(ctx, master).GetLocalChanges(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})

	// What the controller has drained is made ready on the node, with the weight
	// that it has then; and back.
	s.lbAgent(ctx, master, "backend", "ready", "web_servers/web1")
	s.wait(ctx, "the drift", drifts(cluster.Master, "web1 ready"))
	if weight := weightOf(s.local(ctx, master), "web1"); weight != 3 {
		t.Errorf("web1 is ready with weight %d, want 3", weight)
	}
	s.lbctl(ctx, "node", "drain", cluster.Backup)
	s.lbAgent(ctx, backup, "undrain", "--reason", "needed")
	s.wait(ctx, "the drift of both", drifts(cluster.Master, "web1 ready"), drifts(cluster.Backup, cluster.Backup+" ready"))
	s.lbctl(ctx, "node", "drift", "discard", cluster.Master, "--backend", "web_servers/web1")
	s.lbctl(ctx, "node", "drift", "discard", cluster.Backup)
	s.wait(ctx, "what is desired", drifts(cluster.Master), drifts(cluster.Backup),
		cluster.BackendIs("web_servers/web1", tandemv1.BackendState_BACKEND_STATE_DRAIN, clustertest.Both...))
	if score := s.local(ctx, backup).GetScore(); score.GetDrain() >= 0 {
		t.Errorf("lb-backup is not drained again: %v", score)
	}
	s.lbctl(ctx, "node", "undrain", cluster.Backup)
	s.lbctl(ctx, "backend", "ready", "web_servers/web1")
	s.healthy(ctx)

	events := s.lbctl(ctx, "events", "--tail", "500")
	for _, want := range []string{"new kernel", "undone on the node by", "the controller wants the same", "discarded on the controller by admin"} {
		if !strings.Contains(events, want) {
			t.Errorf("the events do not tell %q:\n%s", want, events)
		}
	}
	if err := backup.KillAgent(); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "a node without an agent to be told of", func(ctx context.Context) error {
		if _, err := s.Lbctl(ctx, "node", "drift", "discard", cluster.Backup); !failedWith(err, 5, "NODE_DISCONNECTED") {
			return fmt.Errorf("discarding says: %w", err)
		}
		return nil
	})
}

func weightOf(s *localv1.GetStatusResponse, backend string) uint32 {
	for _, b := range s.GetBackends() {
		if b.GetBackend() == backend {
			return b.GetWeight()
		}
	}
	return 0
}

// failedWith tells whether a command ended with that code and said that.
func failedWith(err error, code int, says string) bool {
	var failed *cluster.CommandError
	return errors.As(err, &failed) && failed.Code == code && strings.Contains(failed.Stderr, says)
}
