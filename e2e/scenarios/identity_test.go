package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// fresh is traffic of new connections alone: those that are established end with
// the node that they go through when a VIP moves.
var fresh = probe.Config{Interval: 20 * time.Millisecond, Timeout: 5 * time.Second}

// holds tells whether a node's kernel has the VIP; what the node reports may not
// reach the controller any more.
func holds(ctx context.Context, n *cluster.Node) (bool, error) {
	out, err := n.Host.Command(ctx, "ip", "-4", "-o", "address", "show", "dev", "eth0").Output()
	return bytes.Contains(out, []byte("192.168.1.100/")), err
}

// gaveUp waits until a node that was cut off has given the VIP up while its
// HAProxy goes on, and returns how long that took.
func (s *site) gaveUp(ctx context.Context, n *cluster.Node) time.Duration {
	s.t.Helper()
	begin := time.Now()
	s.until(5*time.Second, "the VIP to leave "+n.Host.Name, func(context.Context) error {
		held, err := holds(ctx, n)
		if err == nil && held {
			err = errors.New("it holds it")
		}
		return err
	})
	took := time.Since(begin)
	if pids, err := n.Host.Pids("haproxy"); err != nil || len(pids) == 0 {
		s.t.Errorf("HAProxy on %s: %v, %v; want it to go on", n.Host.Name, pids, err)
	}
	if !bytes.Contains([]byte(n.Agent().Tail(100)), []byte("its VIPs are given up")) {
		s.t.Errorf("its agent does not say so:\n%s", n.Agent().Tail(20))
	}
	return took
}

// without holds when a node is not, or no longer, part of the cluster.
func without(node string) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		if cluster.FindNode(status, node) != nil {
			return fmt.Errorf("%s is in the status", node)
		}
		return nil
	}
}

// The holder of the VIP is removed: within 5 s it has given the VIP up, also
// over a restart of its agent, and it comes back with a new token.
func TestARemovedHolderGivesTheVIPUp(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	old := s.Master()
	report := s.under(ctx, fresh, func() {
		s.lbctl(ctx, "node", "remove", cluster.Master)
		took := s.gaveUp(ctx, old)
		t.Logf("the removed node gave the VIP up after %s", took)
		if _, err := s.Until(ctx, "lb-backup alone with the VIP", without(cluster.Master), cluster.HeldBy("web", cluster.Backup)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(old.KillAgent(), old.StartAgent(ctx)); err != nil {
			t.Fatal(err)
		}
		s.until(10*time.Second, "lb-agent status to tell of the removal", func(ctx context.Context) error {
			out, err := old.Host.Command(ctx, s.Programs.Agent, "status", "--run-dir", old.RunDir).Output()
			if !bytes.Contains(out, []byte("This node gives its VIPs up")) {
				return errors.Join(err, fmt.Errorf("it says:\n%s", out))
			}
			return nil
		})
		if held, err := holds(ctx, old); err != nil || held {
			t.Errorf("after a restart it holds the VIP: %v, %v", held, err)
		}
		token := s.lbctl(ctx, "node", "token", "create", cluster.Master, "-o", "name")
		if err := os.WriteFile(filepath.Join(old.Host.Dir(), "join.token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "lb-master back and well", healthyPairOn(cluster.Backup)); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d requests, longest gap %.0f ms", report.Attempts(), report.LongestGap.MS)
}

// healthyPairOn holds when both nodes are settled, without problems, and the VIP
// is with one of them.
func healthyPairOn(holder string) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		for _, node := range status.GetNodes() {
			if len(node.GetProblems()) > 0 {
				return fmt.Errorf("%s: %v", node.GetName(), node.GetProblems())
			}
		}
		return errors.Join(cluster.Settled(cluster.Master, cluster.Backup)(status), cluster.NoAlarms(status), cluster.HeldBy("web", holder)(status))
	}
}

// Another machine, under a hostname of its own, takes the place of the VIP's
// holder, while that one runs.
func TestAMachineTakesANodesPlace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	old := s.Master()
	s.lbctl(ctx, "vip", "set", "web", "--priority", "lb-master=150", "--priority", "lb-backup=140")
	report := s.under(ctx, fresh, func() {
		token := s.lbctl(ctx, "node", "replace", cluster.Master, "-o", "name")
		if _, err := s.Until(ctx, "nothing changed by the token alone", cluster.Connected(cluster.Master), cluster.HeldBy("web", cluster.Master)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.JoinOn(ctx, "client2", cluster.Master, []byte(token)); err != nil {
			t.Fatal(err)
		}
		t.Logf("the replaced machine gave the VIP up after %s", s.gaveUp(ctx, old))
		if _, err := s.Until(ctx, "the new machine in the old one's place", healthyPair); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d requests, longest gap %.0f ms", report.Attempts(), report.LongestGap.MS)
	if held, err := holds(ctx, s.Master()); err != nil || !held || s.Master().Host.Name != "client2" {
		t.Errorf("the machine in the place holds the VIP: %v, %v", held, err)
	}
}
