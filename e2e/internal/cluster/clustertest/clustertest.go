// Package clustertest gives a test the guide's cluster, of the built programs.
package clustertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// buildTimeout bounds the way to a cluster in good health: programs, joining,
// and two passed checks 2 s apart.
const buildTimeout = 60 * time.Second

// Both are the load balancers of the guide's cluster.
var Both = []string{cluster.Master, cluster.Backup}

// Guide is the guide's cluster, up and serving.
type Guide struct {
	*cluster.Cluster
	// Labhost is the program that runs in hosts.
	Labhost string
	// Webs are the web servers by name.
	Webs map[string]*lab.Process
}

// Start starts the guide's lab with its web servers, a controller and both load
// balancers, applies deploy/examples/guide.yaml, and returns when everything is
// in good health with the VIP on lb-master. It ends with the test, and skips it
// where no lab can be made. A failed test shows the tails of all logs.
func Start(t testing.TB) *Guide {
	t.Helper()
	g := Bare(t)
	ctx := labtest.Deadline(t, buildTimeout)
	if err := g.Apply(ctx, filepath.Join(Root(t), "deploy", "examples", "guide.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Until(ctx, "a cluster in good health", Healthy()...); err != nil {
		t.Fatal(err)
	}
	return g
}

// Bare is Start without any configuration.
func Bare(t testing.TB) *Guide {
	t.Helper()
	programs := Programs(t)
	l := labtest.Start(t, lab.Guide())
	g := &Guide{Labhost: labtest.Labhost(t)}
	ctx := labtest.Deadline(t, buildTimeout)
	var err error
	if g.Webs, err = traffic.StartWebs(ctx, l, g.Labhost); err != nil {
		t.Fatal(err)
	}
	g.Cluster, err = cluster.Start(ctx, l, programs)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Healthy are the conditions of the guide's cluster when all is well.
func Healthy() []cluster.Condition {
	all := []cluster.Condition{cluster.Settled(Both...), cluster.HeldBy("web", cluster.Master), cluster.NoAlarms}
	for _, name := range traffic.WebNames {
		all = append(all, cluster.BackendIs("web_servers/"+name, tandemv1.BackendState_BACKEND_STATE_UP, Both...))
	}
	return all
}

// Programs returns the programs that "make build" has put into bin, or those of
// the directory TANDEM_BIN.
func Programs(t testing.TB) cluster.Programs {
	t.Helper()
	dir := os.Getenv("TANDEM_BIN")
	if dir == "" {
		dir = filepath.Join(Root(t), "bin")
	}
	programs, err := cluster.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	if programs.Keepalived == "" {
		t.Fatal("keepalived is not in PATH: install the package keepalived")
	}
	return programs
}

// Root returns the root of the project.
func Root(t testing.TB) string {
	t.Helper()
	path, err := root()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var root = sync.OnceValues(func() (string, error) {
	mod, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tandem-lb/tandem/e2e").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(mod))), nil
})
