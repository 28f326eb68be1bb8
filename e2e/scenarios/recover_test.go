package scenarios

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A bind that a node cannot have holds back nothing that needs no reload.
func TestRuntimeFollowsThoughTheStructureFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	n := s.Backup()
	s.under(ctx, steady, func() {
		undo := portTaken(ctx, s, n)
		s.refusedByNode(ctx, []string{"listener", "set", "web_frontend", "--vip", "web", "--port", "80", "--port", "9090"}, "9090")
		s.lbctl(ctx, "backend", "drain", "web_servers/web1", "--no-wait")
		drained := cluster.BackendIs("web_servers/web1", tandemv1.BackendState_BACKEND_STATE_DRAIN, clustertest.Both...)
		status, err := s.Until(labtest.Deadline(t, 10*time.Second), "web1 drained on both nodes", drained)
		if err != nil {
			t.Fatal(err)
		}
		if node := cluster.FindNode(status, cluster.Backup); node.GetFailed() == 0 {
			t.Errorf("the bad bind is no longer told: %v", node)
		}
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "lb-backup without its agent", func(status *tandemv1.ClusterStatus) error {
			if cluster.FindNode(status, cluster.Backup).GetConnected() {
				return errors.New("it is connected")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := n.StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "web1 drained by a new agent, too", cluster.Connected(clustertest.Both...), drained); err != nil {
			t.Fatal(err)
		}
		if err := undo(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "the bind in effect, and web1 still drained", healthyPair, drained); err != nil {
			t.Fatal(err)
		}
	})
}

// A node that was removed comes back with a new join token, and nothing else.
func TestRemovedNodeJoinsAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	s.under(ctx, steady, func() {
		s.lbctl(ctx, "node", "remove", cluster.Backup)
		if _, err := s.Until(ctx, "lb-backup gone", func(status *tandemv1.ClusterStatus) error {
			if cluster.FindNode(status, cluster.Backup) != nil {
				return errors.New("it is in the status")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		token := s.lbctl(ctx, "node", "token", "create", cluster.Backup, "-o", "name")
		if err := os.WriteFile(filepath.Join(s.Backup().Host.Dir(), "join.token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "lb-backup back and well", cluster.Connected(cluster.Backup), healthyPair); err != nil {
			t.Fatal(err)
		}
	})
}
