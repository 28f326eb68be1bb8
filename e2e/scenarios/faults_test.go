package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// fault is one thing that goes wrong at a node, for a while.
type fault struct {
	kind string
	node string
	// lasts is the time between begin and end.
	lasts time.Duration
	begin func(context.Context) error
	// end undoes it; nil: it is over when begin returns.
	end func(context.Context) error
	// absent says that the agent does not run meanwhile, so that nobody can tell
	// what happens to the node.
	absent bool
	// told are reasons of events that the node's agent must log, in this order.
	told []string
}

func (f fault) String() string {
	if f.end == nil {
		return fmt.Sprintf("%s on %s", f.kind, f.node)
	}
	return fmt.Sprintf("%s on %s for %s", f.kind, f.node, f.lasts)
}

// drawFaults draws faults. The same seed gives the same ones.
func (s *site) drawFaults(seed uint64, n int, controller bool) []fault {
	random := rand.New(rand.NewPCG(seed, 5))
	kinds := []func(string, *rand.Rand) fault{
		s.kill, s.kill, s.freeze, s.freeze, s.killAgent, s.freezeAgent, s.cut, s.deaf, s.mute, s.drain, s.reload, s.powerCut,
	}
	if controller {
		kinds = append(kinds, s.killController, s.restructure)
	}
	var faults []fault
	for range n {
		node := clustertest.Both[random.IntN(2)]
		lasts := time.Duration(100+random.IntN(2900)) * time.Millisecond
		f := kinds[random.IntN(len(kinds))](node, random)
		f.node, f.lasts = node, lasts
		faults = append(faults, f)
	}
	return faults
}

// part is some of a daemon's processes: the first is the one that started the
// others.
type part string

const (
	parent   part = "parent"
	children part = "children"
	everyone part = "all"
)

// drawPart draws a daemon and some of its processes.
func drawPart(random *rand.Rand) (daemon string, of part) {
	return []string{"haproxy", "keepalived"}[random.IntN(2)], []part{parent, children, everyone}[random.IntN(3)]
}

// signal sends a signal to some of a daemon's processes, and returns which.
func signal(h *lab.Host, daemon string, of part, sig syscall.Signal) ([]int, error) {
	pids, err := h.Pids(daemon)
	switch {
	case err != nil:
		return nil, err
	case len(pids) < 2:
		return nil, fmt.Errorf("%s on %s has the processes %v, want 2 at least", daemon, h.Name, pids)
	case of == parent:
		pids = pids[:1]
	case of == children:
		pids = pids[1:]
	}
	return pids, signalPids(pids, sig)
}

// signalPids sends a signal to processes. One that has ended is no error.
func signalPids(pids []int, sig syscall.Signal) error {
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *site) kill(node string, random *rand.Rand) fault {
	daemon, of := drawPart(random)
	f := fault{kind: fmt.Sprintf("SIGKILL of %s (%s)", daemon, of)}
	switch {
	case daemon == "haproxy" && of != children:
		f.told = []string{"HAPROXY_STOPPED", "HAPROXY_RUNNING"}
	case daemon == "keepalived" && of != children:
		f.told = []string{"KEEPALIVED_STOPPED", "KEEPALIVED_RUNNING"}
	}
	f.begin = func(context.Context) error {
		_, err := signal(s.Nodes[node].Host, daemon, of, syscall.SIGKILL)
		return err
	}
	return f
}

func (s *site) freeze(node string, random *rand.Rand) fault {
	daemon, of := drawPart(random)
	var frozen []int
	return fault{
		kind: fmt.Sprintf("SIGSTOP of %s (%s)", daemon, of),
		begin: func(context.Context) (err error) {
			frozen, err = signal(s.Nodes[node].Host, daemon, of, syscall.SIGSTOP)
			return err
		},
		end: func(context.Context) error { return signalPids(frozen, syscall.SIGCONT) },
	}
}

func (s *site) killAgent(node string, _ *rand.Rand) fault {
	return fault{
		kind: "SIGKILL of the agent", absent: true,
		begin: func(context.Context) error { return s.Nodes[node].KillAgent() },
		end:   func(ctx context.Context) error { return s.Nodes[node].StartAgent(ctx) },
	}
}

func (s *site) freezeAgent(node string, _ *rand.Rand) fault {
	return fault{
		kind: "SIGSTOP of the agent", absent: true,
		begin: func(context.Context) error { return s.Nodes[node].Agent().Signal(syscall.SIGSTOP) },
		end:   func(context.Context) error { return s.Nodes[node].Agent().Signal(syscall.SIGCONT) },
	}
}

func (s *site) cut(node string, _ *rand.Rand) fault {
	return fault{kind: "port down", begin: s.Nodes[node].Host.Cut, end: s.Nodes[node].Host.Plug}
}

// deaf lets a node send and not receive.
func (s *site) deaf(node string, _ *rand.Rand) fault { return s.drop(node, lab.In, "nothing received") }

// mute lets a node receive and not send.
func (s *site) mute(node string, _ *rand.Rand) fault { return s.drop(node, lab.Out, "nothing sent") }

func (s *site) drop(node string, d lab.Direction, kind string) fault {
	host := s.Nodes[node].Host
	return fault{
		kind:  kind,
		begin: func(ctx context.Context) error { return host.Drop(ctx, d, "") },
		end:   host.Undrop,
	}
}

// drain is done at the node, which needs no controller.
func (s *site) drain(node string, _ *rand.Rand) fault {
	n := s.Nodes[node]
	return fault{
		kind: "drain", told: []string{"LOCAL_CHANGE_BEGUN", "LOCAL_CHANGE_ENDED"},
		begin: func(ctx context.Context) error {
			_, err := n.LbAgent(ctx, "drain", "--reason", "a random fault")
			return err
		},
		end: func(ctx context.Context) error { _, err := n.LbAgent(ctx, "undrain"); return err },
	}
}

// reload reloads a daemon as its administrator does by hand.
func (s *site) reload(node string, random *rand.Rand) fault {
	daemon, sig := "haproxy", syscall.SIGUSR2
	if random.IntN(2) == 0 {
		daemon, sig = "keepalived", syscall.SIGHUP
	}
	return fault{
		kind:  "reload of " + daemon,
		begin: func(context.Context) error { _, err := signal(s.Nodes[node].Host, daemon, parent, sig); return err },
	}
}

// restructure makes a change that a daemon of both nodes is reloaded for.
func (s *site) restructure(_ string, random *rand.Rand) fault {
	n := 10 + random.IntN(500)*10 // of keepalived
	kind := "a change that reloads keepalived"
	if random.IntN(2) == 0 {
		n, kind = n+1, "a change that reloads HAProxy"
	}
	return fault{
		kind: kind,
		begin: func(ctx context.Context) error {
			revision, err := revisionOf(ctx, func(ctx context.Context, o ...grpc.CallOption) error { return s.restructuring(ctx, n)(o[0]) })
			if err == nil {
				_, err = s.Until(ctx, fmt.Sprintf("revision %d on both nodes", revision), since(revision))
			}
			return err
		},
	}
}

func (s *site) powerCut(node string, _ *rand.Rand) fault {
	return fault{kind: "power off", absent: true, begin: s.Nodes[node].PowerCut, end: s.Nodes[node].PowerBack}
}

func (s *site) killController(string, *rand.Rand) fault {
	return fault{
		kind:  "SIGKILL of the controller",
		begin: func(context.Context) error { return s.Controller.Kill() },
		end:   s.Controller.Start,
	}
}
