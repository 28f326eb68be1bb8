package scenarios

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A second machine with the identity of a node is noticed within seconds, costs
// no client anything, and is forgotten when it is gone.
func TestClonedNodeIsNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	original, host := s.Backup(), s.Controller.Host
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "state", "identity"), os.DirFS(filepath.Join(original.StateDir, "identity"))); err != nil {
		t.Fatal(err)
	}
	config, err := yaml.Marshal(map[string]any{
		"node": cluster.Backup, "controllers": []string{s.Controller.GRPCAddress()}, "interface": "eth0",
		"state_dir": filepath.Join(dir, "state"), "run_dir": filepath.Join(dir, "run"),
		"haproxy": map[string]string{"binary": "/nonexistent"}, "keepalived": map[string]string{"binary": "/nonexistent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	cloned := func(status *tandemv1.ClusterStatus) error {
		if !slices.ContainsFunc(status.GetAlarms(), func(a *tandemv1.Alarm) bool {
			return a.GetReason() == "CLONED_NODE" && a.GetCure() != ""
		}) {
			return errors.New("no alarm CLONED_NODE")
		}
		return nil
	}
	s.under(ctx, steady, func() {
		clone, err := host.Start(ctx, lab.ProcessSpec{Name: "clone", Args: []string{s.Programs.Agent, "run", "--config", file}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = clone.Kill() }()
		if _, err := s.Until(labtest.Deadline(t, 20*time.Second), "the clone noticed", cloned); err != nil {
			t.Fatal(err)
		}
		if err := clone.Stop(10 * time.Second); err != nil {
			t.Error(err)
		}
		if _, err := s.Until(ctx, "the clone forgotten", cluster.NoAlarms, cluster.Connected(cluster.Backup)); err != nil {
			t.Fatal(err)
		}
	})
}
