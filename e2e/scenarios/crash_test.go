package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// crashEnv names the point at which a program built with the tag crashpoints
// ends itself.
const crashEnv = "TANDEM_CRASH"

// crashPrograms builds controller and agent with crash points.
func crashPrograms(t *testing.T) cluster.Programs {
	t.Helper()
	p := clustertest.Programs(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashpoints", "-o", dir+"/",
		"github.com/tandem-lb/tandem/agent/cmd/lb-agent", "github.com/tandem-lb/tandem/controlplane/cmd/lb-controller")
	build.Dir, build.Env = clustertest.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with crash points: %v\n%s", err, out)
	}
	p.Agent, p.Controller = filepath.Join(dir, "lb-agent"), filepath.Join(dir, "lb-controller")
	return p
}

// crashPoints lists the points of a program.
func crashPoints(t *testing.T, program string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "version")
	cmd.Env = append(os.Environ(), crashEnv+"=list")
	out, err := cmd.Output()
	points := strings.Fields(string(out))
	if err != nil || len(points) < 5 {
		t.Fatalf("points of %s: %q, %v", program, out, err)
	}
	return points
}

// brief is steady traffic without what lives as long as the test: HAProxy ends
// the oldest worker when sixteen reloads were faster than its clients leave.
var brief = probe.Config{
	Interval: 20 * time.Millisecond, Reused: 6, Inflight: 2, Downloads: 1,
	Think: 20 * time.Millisecond, Hold: 50 * time.Millisecond, Timeout: 5 * time.Second,
}

// crashSite is a site that is changed all the time and must stand every crash.
type crashSite struct {
	*site
	t       *testing.T
	hammer  *hammer
	longest time.Duration // until a node was in step again
}

// whileHammered runs a test with changes and clients under way, and checks in
// the end that nothing was lost.
func whileHammered(t *testing.T, s *site, seed uint64, do func(context.Context, *crashSite)) {
	t.Helper()
	ctx := labtest.Deadline(t, longestRun+2*time.Minute)
	c := &crashSite{site: s, t: t, hammer: newHammer(s, seed)}
	hammering, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	report := s.under(ctx, brief, func() {
		go func() { defer close(ended); c.hammer.run(hammering) }()
		defer func() { stop(); <-ended }()
		do(ctx, c)
	})
	s.healthyNodes(ctx)
	if err := s.agree(clustertest.Both...); err != nil {
		t.Error(err)
	}
	c.hammer.verify(ctx, t)
	t.Logf("%d requests, %d failed; in step again at most %s after a start", report.Attempts(), report.Failed(), c.longest.Round(time.Millisecond))
}

// healthyNodes waits until both nodes have everything.
func (s *site) healthyNodes(ctx context.Context) {
	s.t.Helper()
	if _, err := s.Until(ctx, "both nodes to have everything", cluster.Settled(clustertest.Both...), cluster.HeldBy("web", cluster.Master)); err != nil {
		s.t.Fatal(err)
	}
}

// inStepAgain stops the changes and waits until file, processes and target
// agree on nodes that were started at a time.
func (c *crashSite) inStepAgain(started time.Time, nodes ...string) {
	c.t.Helper()
	c.hammer.mu.Lock()
	defer c.hammer.mu.Unlock()
	c.until(inStep, fmt.Sprintf("%v in step again", nodes), func(ctx context.Context) error {
		var errs []error
		for _, node := range nodes {
			errs = append(errs, c.agrees(ctx, node))
		}
		return errors.Join(errs...)
	})
	c.longest = max(c.longest, time.Since(started))
}

// died waits for a program to end itself.
func died(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// patience is how long the changes may take until one passes a point.
const patience = 30 * time.Second

// agentAt has the agent of a node crash at a point, which may be at its start,
// and starts it again.
func (c *crashSite) agentAt(ctx context.Context, node, point string) {
	c.t.Helper()
	n := c.Nodes[node]
	if err := n.KillAgent(); err != nil {
		c.t.Fatal(err)
	}
	if strings.HasPrefix(point, "haproxy-start-file-replaced") {
		c.killHAProxyWithAnOldFile(ctx, n)
	}
	n.Env = []string{crashEnv + "=" + point}
	err := n.StartAgent(ctx)
	n.Env = nil
	if err != nil {
		c.t.Fatal(err)
	}
	if !died(ctx, n.Agent().Done(), patience) {
		c.t.Errorf("the agent of %s never came to %s", node, point)
		if err := n.KillAgent(); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := n.StartAgent(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.inStepAgain(time.Now(), node)
}

// killHAProxyWithAnOldFile leaves a node as a power cut may.
func (c *crashSite) killHAProxyWithAnOldFile(ctx context.Context, n *cluster.Node) {
	c.t.Helper()
	path := haproxyFile(n)
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	old := strings.Replace(string(text), " weight ", " weight 1", 1)
	if err := errors.Join(n.KillHAProxy(ctx), os.Remove(path), os.WriteFile(path, []byte(old), 0o600)); err != nil {
		c.t.Fatal(err)
	}
}

// controllerAt has the controller crash at a point and starts it again.
func (c *crashSite) controllerAt(ctx context.Context, point string) {
	c.t.Helper()
	if err := c.Controller.Kill(); err != nil {
		c.t.Fatal(err)
	}
	c.Controller.Env = []string{crashEnv + "=" + point}
	err := c.Controller.Start(ctx)
	c.Controller.Env = nil
	if !died(ctx, c.Controller.Process().Done(), patience) {
		c.t.Fatalf("the controller never came to %s (its start: %v)", point, err)
	}
	if err := c.Controller.Start(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.inStepAgain(time.Now(), clustertest.Both...)
}

// I2, I3: an agent and a controller that end at a step of a change lose nothing.
// TestRandomCrashPoints goes through all steps.
func TestI3CrashInAChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Use(crashPrograms(t))
	whileHammered(t, s, 1, func(ctx context.Context, c *crashSite) {
		for _, point := range []string{"journalled:3", "haproxy-file-swapped", "in-effect:3"} {
			c.agentAt(ctx, cluster.Master, point)
		}
		for _, point := range []string{"in-transaction", "committed", "committed:2", "published", "published:2"} {
			c.controllerAt(ctx, point)
		}
	})
}

// Every crash point of both programs, the first or the second time that a change
// comes there.
func TestRandomCrashPoints(t *testing.T) {
	seed, end := runOf(t)
	s := newSite(t)
	programs := crashPrograms(t)
	s.Use(programs)
	type crash struct {
		point string
		agent bool
	}
	var all []crash
	for _, point := range crashPoints(t, programs.Agent) {
		all = append(all, crash{point, true})
	}
	for _, point := range crashPoints(t, programs.Controller) {
		all = append(all, crash{point, false})
	}
	random := rand.New(rand.NewPCG(seed, 2))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	whileHammered(t, s, seed, func(ctx context.Context, c *crashSite) {
		for i, x := range all {
			if time.Now().After(end) {
				t.Logf("%d of %d points in the time given", i, len(all))
				return
			}
			times := 1 + random.IntN(2)
			if x.point == "haproxy-start-file-replaced" {
				times = 1 // there is one start
			}
			point := fmt.Sprintf("%s:%d", x.point, times)
			t.Log(point)
			switch {
			case !x.agent:
				c.controllerAt(ctx, point)
			case x.point == "haproxy-start-file-replaced":
				c.agentAt(ctx, cluster.Backup, point) // the VIP stays
			default:
				c.agentAt(ctx, clustertest.Both[random.IntN(2)], point)
			}
		}
	})
}

// kills is how many random kills the whole run has.
const kills = 200

// Controller and agents killed at random times.
func TestRandomKills(t *testing.T) {
	seed, end := runOf(t)
	s := newSite(t)
	random := rand.New(rand.NewPCG(seed, 3))
	whileHammered(t, s, seed, func(ctx context.Context, c *crashSite) {
		for i := range kills {
			if time.Now().After(end) {
				t.Logf("%d of %d kills in the time given", i, kills)
				return
			}
			if !wait(ctx, time.Duration(random.IntN(250_000))*time.Microsecond) {
				return
			}
			started := time.Now()
			switch random.IntN(3) {
			case 0:
				if err := errors.Join(c.Controller.Kill(), c.Controller.Start(ctx)); err != nil {
					t.Fatal(err)
				}
			case 1:
				c.restartAgent(ctx, c.Nodes[clustertest.Both[random.IntN(2)]])
			default:
				if err := c.Controller.Kill(); err != nil {
					t.Fatal(err)
				}
				for _, n := range c.Nodes {
					c.restartAgent(ctx, n)
				}
				if err := c.Controller.Start(ctx); err != nil {
					t.Fatal(err)
				}
				started = time.Now()
			}
			c.inStepAgain(started, clustertest.Both...)
		}
	})
}

// longestRun fits into the time that clients send for.
const longestRun = 9 * time.Minute

// runOf is the seed of a random run and when it is to end. Without settings of
// "make e2e" it is short.
func runOf(t *testing.T) (seed uint64, end time.Time) {
	t.Helper()
	seed = rand.Uint64() >> 1
	if text := os.Getenv("TANDEM_E2E_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("TANDEM_E2E_SEED: %v", err)
		}
	}
	d := runTime(t)
	t.Logf("seed %d, %s at most", seed, d)
	return seed, time.Now().Add(min(d, longestRun))
}

// runTime is how long a random run may take. Without settings of "make e2e" there
// is none.
func runTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TANDEM_E2E_DURATION")
	if text == "" {
		t.Skip("a long run: make e2e")
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("TANDEM_E2E_DURATION: %v", err)
	}
	return d
}
