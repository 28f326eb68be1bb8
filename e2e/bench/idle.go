package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// idleBackends are how many backends an agent has that is measured at rest.
	idleBackends = 1000
	// idleAfter is how long after the last change it is at rest, and idleFor how long it
	// is measured: what it does least often it does each ten seconds.
	idleAfter = 5 * time.Second
	idleFor   = 20 * time.Second
)

// idle measures what the agents take that have nothing to do: the worse one's processor
// time and resident memory.
func idle(ctx context.Context, _ *runner, s side) ([]float64, error) {
	end, err := s.fill(ctx, idleBackends)
	if err != nil {
		return nil, err
	}
	figures, err := atRest(ctx, s.agents())
	return figures, errors.Join(err, end(ctx))
}

// atRest measures programs, of which there may be none.
func atRest(ctx context.Context, pids []int) ([]float64, error) {
	if len(pids) == 0 {
		return []float64{0, 0}, nil
	}
	if err := wait(ctx, idleAfter); err != nil {
		return nil, err
	}
	begun, before := time.Now(), make([]time.Duration, len(pids))
	for n, pid := range pids {
		var err error
		if before[n], err = processorTime(pid); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, idleFor); err != nil {
		return nil, err
	}
	var share, memory float64
	for n, pid := range pids {
		after, err := processorTime(pid)
		if err != nil {
			return nil, err
		}
		resident, err := residentMemory(pid)
		if err != nil {
			return nil, err
		}
		share = max(share, 100*float64(after-before[n])/float64(time.Since(begun)))
		memory = max(memory, float64(resident)/1e6)
	}
	return []float64{share, memory}, nil
}

// processorTime is what the threads of a process have had, to the nanosecond
// (Documentation/scheduler/sched-stats.rst). Those of a Go program do not end.
func processorTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err == nil && len(threads) == 0 {
		err = os.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("threads of process %d: %w", pid, err)
	}
	var sum int64
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += ns
	}
	return time.Duration(sum), nil
}

// residentMemory is that of a process, in bytes (proc_pid_statm(5)).
func residentMemory(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/statm", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// fill adds a pool that nobody uses, of backends that are not there: they are not checked.
func (o *ours) fill(ctx context.Context, backends int) (end func(context.Context) error, err error) {
	const parent = "clusters/default"
	before, err := o.config.ExportConfig(ctx, &tandemv1.ExportConfigRequest{Parent: parent})
	if err != nil {
		return nil, err
	}
	apply := func(ctx context.Context, c *tandemv1.ClusterConfig) error {
		if _, err := o.config.ApplyConfig(ctx, &tandemv1.ApplyConfigRequest{Parent: parent, Config: c}); err != nil {
			return err
		}
		return o.settled(ctx)
	}
	many := &tandemv1.Pool{Name: parent + "/pools/many", Check: &tandemv1.HealthCheck{Disabled: true}}
	for n := range backends {
		many.Backends = append(many.Backends, &tandemv1.Backend{
			Name: fmt.Sprintf("%s/backends/web%04d", many.GetName(), n), Address: fmt.Sprintf("10.77.%d.%d", n/250, 1+n%250), Port: 80,
		})
	}
	with := proto.CloneOf(before)
	with.Pools = append(with.Pools, many)
	return func(ctx context.Context) error { return apply(ctx, before) }, apply(ctx, with)
}

func (o *ours) agents() (pids []int) {
	for _, n := range []*cluster.Node{o.cluster.Master(), o.cluster.Backup()} {
		pids = append(pids, n.Agent().PID())
	}
	return pids
}

// The guide's pair has no agent.
func (p *peer) fill(context.Context, int) (end func(context.Context) error, err error) {
	return func(context.Context) error { return nil }, nil
}

func (p *peer) agents() []int { return nil }
