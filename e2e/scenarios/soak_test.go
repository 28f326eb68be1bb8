package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What a whole run does: 24 hours of a busy cluster.
const (
	soakChanges    = 100_000
	soakReconnects = 10_000
)

const (
	// soakWriters make changes at the same time, one each soakPause: 250 a second
	// leave the nodes the time to put many of them in effect, and a whole run
	// the time to make all.
	soakWriters = 8
	soakPause   = 16 * time.Millisecond
	// nodeCutPause is the time between two cuts of a load balancer's session. An
	// agent that only connects again would put no change in effect.
	nodeCutPause = 5 * time.Second
	// reloadPause is the time between two changes of the structure.
	reloadPause = 2 * time.Second
	// longestWarmUp is the longest time until programs have what they keep, such
	// as the ids of the last 10,000 requests.
	longestWarmUp = 30 * time.Second
	// settleTime is the longest time until what is over is gone.
	settleTime = 30 * time.Second
)

// What a program may take more and be where it was. Files and goroutines are as
// many as before, but for a connection that comes or goes. Live heap swings by a
// quarter of a MiB, and the controller's grows by one until it knows 10,000
// requests. Memory is that of the heap at its highest. So a whole run shows a leak
// of 42 bytes in each change, and its slice of 45 s, with some 800 sessions and
// 7,000 changes, one of a KiB, and a file or a goroutine in each hundredth session
// of the controller, or fortieth of an agent.
var (
	controllerSlack = footprint{files: 3, goroutines: 3, heap: 4 << 20, memory: 16 << 20}
	agentSlack      = footprint{files: 3, goroutines: 3, heap: 1 << 20, memory: 8 << 20}
)

// Bounds of files, in bytes. The controller's grow by 16 MiB at once; a whole run
// leaves 16 and 32 MiB, and 96 MiB of revisions if none were dropped. A journal
// begins anew when it has grown past a MiB. Of events none waits in the end; a node
// has 2 MiB of them in a whole run.
const (
	maxStateFile  = 48 << 20
	maxEventsFile = 128 << 20
	maxJournal    = 1<<20 + 64<<10
	maxSpooled    = 256 << 10
)

// standbyCluster is the cluster of agents that do nothing.
const standbyCluster = "clusters/standby"

// soak is a site that is worked hard.
type soak struct {
	*site
	writers  []*soakWriter
	agents   []*soakAgent
	programs []*program

	changes    atomic.Int64 // acknowledged, each a revision
	structures int          // changes of the structure
}

// newSoak joins agents that have nothing else to do than to connect again, in a
// cluster of their own, and adds backends to change.
func newSoak(ctx context.Context, s *site, seed uint64) *soak {
	s.t.Helper()
	k := &soak{site: s, programs: []*program{controllerProgram(s.t, s.Controller)}}
	for _, name := range clustertest.Both {
		n := s.Nodes[name]
		k.follow(name, n.Host, n.Agent(), n.Host.Path(n.RunDir), nodeCutPause)
	}
	if _, err := s.config.CreateCluster(ctx, &tandemv1.CreateClusterRequest{ClusterId: "standby", Cluster: &tandemv1.Cluster{}}); err != nil {
		s.t.Fatal(err)
	}
	hosts := []string{"web1", "web2", "web3", "client", "client2"} // not the controller's, whence the test calls
	for i, name := range standbys {
		k.standby(ctx, name, s.Lab.Host(hosts[i%len(hosts)]))
	}
	for id := range soakWriters {
		w := &soakWriter{soak: k, id: id, backend: fmt.Sprintf("web%d", id+1), random: rand.New(rand.NewPCG(seed, uint64(4+id)))}
		if w.dead = id >= 2; w.dead { // web3 is left alone: a request always has somewhere to go
			w.backend = fmt.Sprintf("dead%d", id)
			if err := k.setThere(ctx, w.backend, uint32(100+id), true, ""); err != nil {
				s.t.Fatal(err)
			}
		}
		k.writers = append(k.writers, w)
	}
	return k
}

// standbys are those agents. Each connects again some four times a second.
var standbys = []string{"spare1", "spare2", "spare3", "spare4", "spare5", "spare6", "spare7"}

// standby starts an agent on a host and joins it.
func (k *soak) standby(ctx context.Context, name string, host *lab.Host) {
	k.t.Helper()
	dir := k.t.TempDir()
	tokenFile, configFile, runDir := filepath.Join(dir, "join.token"), filepath.Join(dir, "agent.yaml"), filepath.Join(dir, "run")
	token := k.lbctl(ctx, "--cluster", "standby", "node", "token", "create", name, "-o", "name")
	config, err := yaml.Marshal(map[string]any{
		"node": name, "controllers": []string{k.Controller.GRPCAddress()}, "interface": "eth0", "join_token_file": tokenFile,
		"state_dir": filepath.Join(dir, "state"), "run_dir": runDir, "logs": map[string]string{"directory": filepath.Join(dir, "log")},
	})
	if err := errors.Join(err, os.WriteFile(configFile, config, 0o600), os.WriteFile(tokenFile, []byte(token), 0o600)); err != nil {
		k.t.Fatal(err)
	}
	agent, err := host.Start(ctx, lab.ProcessSpec{Name: name, Args: []string{k.Programs.Agent, "run", "--config", configFile}})
	if err != nil {
		k.t.Fatal(err)
	}
	k.follow(name, host, agent, runDir, 0)
}

func (k *soak) follow(name string, host *lab.Host, agent *lab.Process, runDir string, pause time.Duration) {
	k.t.Helper()
	k.agents = append(k.agents, &soakAgent{name: name, host: host, log: agent.Log, pause: pause})
	k.programs = append(k.programs, agentProgram(k.t, "agent of "+name, agent.PID(), runDir))
}

// work makes changes and cuts sessions until that many are made or the time has
// come.
func (k *soak) work(ctx context.Context, end time.Time, changes, reconnects int64) {
	k.t.Helper()
	ctx, stop := context.WithDeadline(ctx, end)
	defer stop()
	changes, reconnects = changes+k.changes.Load(), reconnects+k.sessions()
	var counted, beside sync.WaitGroup
	loop := func(group *sync.WaitGroup, ctx context.Context, what string, pause time.Duration, enough func() bool, next func(context.Context) error) {
		group.Go(func() {
			for !enough() && wait(ctx, pause) {
				// What is under way is finished, so that it is known what came of it.
				if err := next(context.WithoutCancel(ctx)); err != nil {
					k.t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	for _, w := range k.writers {
		loop(&counted, ctx, "change of "+w.backend, soakPause, func() bool { return k.changes.Load() >= changes }, w.next)
	}
	for _, a := range k.agents {
		loop(&counted, ctx, "session of "+a.name, 10*time.Millisecond, func() bool { return k.sessions() >= reconnects }, a.next)
	}
	never := func() bool { return false }
	until, done := context.WithCancel(ctx)
	loop(&beside, until, "reload", reloadPause, never, k.restructure)
	loop(&beside, until, "visit", 200*time.Millisecond, never, k.visit)
	counted.Wait()
	done()
	beside.Wait()
}

// restructure makes a change that HAProxy, or sometimes keepalived, is reloaded for.
func (k *soak) restructure(ctx context.Context) error {
	k.structures++
	k.changes.Add(1)
	return k.restructuring(ctx, k.structures)(grpc.EmptyCallOption{})
}

// visit looks at the cluster as operators do, each time over connections and
// streams of its own.
func (k *soak) visit(ctx context.Context) error {
	_, err := k.Lbctl(ctx, "status")
	_, locally := k.Backup().LbAgent(ctx, "status")
	watching, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, dialled := k.Controller.Conn()
	if err := errors.Join(err, locally, dialled); err != nil {
		return err
	}
	status, err := tandemv1.NewFleetServiceClient(conn).WatchStatus(watching, &tandemv1.WatchStatusRequest{Name: cluster.Name})
	if err != nil {
		return err
	}
	for synced := false; !synced; {
		step, err := status.Recv()
		if err != nil {
			return err
		}
		synced = step.GetSynced()
	}
	events, err := k.events.WatchEvents(watching, &tandemv1.WatchEventsRequest{Parent: cluster.Name, Tail: 5})
	if err != nil {
		return err
	}
	_, err = events.Recv()
	return err
}

// sessions counts those that all agents have begun.
func (k *soak) sessions() (n int64) {
	for _, a := range k.agents {
		n += a.sessions.Load()
	}
	return n
}

// standbyConnected waits until all agents beside the nodes have a session.
func (k *soak) standbyConnected(ctx context.Context) {
	k.t.Helper()
	conn, err := k.Controller.Conn()
	if err != nil {
		k.t.Fatal(err)
	}
	err = lab.Until(ctx, "the agents of cluster standby to have sessions", func(ctx context.Context) error {
		status, err := tandemv1.NewFleetServiceClient(conn).GetStatus(ctx, &tandemv1.GetStatusRequest{Name: standbyCluster})
		if err != nil {
			return err
		}
		return cluster.Connected(standbys...)(status)
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// rest waits until all is in effect, and returns what each program takes then.
// Before it is told what each took before, and waits until it does again.
func (k *soak) rest(ctx context.Context, before map[string]footprint) map[string]footprint {
	k.t.Helper()
	k.healthyNodes(ctx)
	k.standbyConnected(ctx)
	taken := map[string]footprint{}
	for _, p := range k.programs {
		was, again := before[p.name]
		var grown error // by the last figures
		err := lab.Until(labtest.Deadline(k.t, settleTime), p.name+" to take what it took", func(ctx context.Context) error {
			f, err := p.now(ctx)
			if err != nil {
				return cmp.Or(grown, err) // the call may only be cut off by the deadline
			}
			taken[p.name] = f
			if again {
				grown = f.grown(was, p.slack)
			}
			return grown
		})
		if err != nil {
			k.t.Error(err)
		}
		k.t.Logf("%s: %s", p.name, taken[p.name])
	}
	for _, name := range clustertest.Both {
		for _, daemon := range []string{"haproxy", "keepalived"} {
			text, err := daemons(k.Nodes[name], daemon)
			if err != nil {
				k.t.Fatal(err)
			}
			k.t.Logf("%s on %s: %s", daemon, name, text)
		}
	}
	return taken
}

// files checks and tells the sizes of those that changes are written to.
func (k *soak) files() {
	k.t.Helper()
	type kept struct {
		path  string
		bound int64 // bytes; 0: a run is too short to reach it
	}
	files := []kept{
		{filepath.Join(k.Controller.DataDir(), "state.db"), maxStateFile},
		{filepath.Join(k.Controller.DataDir(), "events.db"), maxEventsFile},
	}
	for _, name := range clustertest.Both {
		n := k.Nodes[name]
		run := n.Host.Path(n.RunDir)
		files = append(files,
			kept{filepath.Join(n.StateDir, "journal"), maxJournal},
			kept{filepath.Join(n.StateDir, "events.pb"), maxSpooled},
			kept{filepath.Join(n.StateDir, "keepalived", "keepalived.log"), 0},
			kept{filepath.Join(run, "haproxy", "haproxy.log"), 0},
		)
	}
	for _, f := range files {
		info, err := os.Stat(f.path)
		if err != nil {
			k.t.Error(err)
			continue
		}
		k.t.Logf("%s: %d KiB", f.path, info.Size()>>10)
		if f.bound > 0 && info.Size() > f.bound {
			k.t.Errorf("%s has %d bytes, want %d at most", f.path, info.Size(), f.bound)
		}
	}
}

// 100,000 changes and 10,000 sessions leave controller and agents where they
// were, and cost no client a request.
func TestRandomSoak(t *testing.T) {
	seed, end := runOf(t)
	s := newSite(t)
	ctx := labtest.Deadline(t, longestRun+3*time.Minute)
	k := newSoak(ctx, s, seed)
	report := s.under(ctx, brief, func() {
		k.work(ctx, time.Now().Add(min(time.Until(end)/4, longestWarmUp)), soakChanges, soakReconnects)
		t.Logf("before, after %d changes and %d sessions to warm up:", k.changes.Load(), k.sessions())
		before := k.rest(ctx, nil)
		k.files()
		began, changes, sessions, revision := time.Now(), k.changes.Load(), k.sessions(), s.head(ctx)
		k.work(ctx, end, soakChanges, soakReconnects)
		t.Logf("after %d of %d changes and %d of %d sessions in %s:", k.changes.Load()-changes, soakChanges,
			k.sessions()-sessions, soakReconnects, time.Since(began).Round(time.Second))
		if made := int64(s.head(ctx) - revision); made != k.changes.Load()-changes {
			t.Errorf("%d changes were acknowledged and %d revisions are there", k.changes.Load()-changes, made)
		}
		for _, a := range k.agents {
			t.Logf("%s: %d sessions, %d configurations in effect", a.name, a.sessions.Load(), a.applied.Load())
		}
		k.rest(ctx, before)
		k.files()
	})
	t.Logf("%d requests, %d failed", report.Attempts(), report.Failed())
}
