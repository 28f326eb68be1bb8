package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// fault is one thing that goes wrong for a while, at one node or at both.
type fault struct {
	kind string
	// nodes it happens at; none: at no node.
	nodes []string
	// lasts is the time between begin and end.
	lasts time.Duration
	begin func(context.Context) error
	// end undoes it; nil: it is over when begin returns.
	end func(context.Context) error
	// borne says that the pair does without the node: what must be so five seconds
	// after the end of a fault must be so five seconds after its begin, too.
	borne bool
	// absent says that the agents do not run meanwhile, so that nobody can tell
	// what happens to the nodes.
	absent bool
	// told are events that the agents must log, in this order: a reason, and perhaps
	// words of the message after it.
	told []string
}

func (f fault) String() string {
	text := f.kind
	if len(f.nodes) > 0 {
		text += " on " + strings.Join(f.nodes, " and ")
	}
	if f.end != nil {
		text += " for " + f.lasts.String()
	}
	return text
}

// kind makes a fault at a node. It has drawn all that there is to draw.
type kind func(node string) fault

// drawFaults draws faults. The same seed gives the same ones.
func (s *site) drawFaults(seed uint64, n int, controller bool) []fault {
	random := rand.New(rand.NewPCG(seed, 5))
	atNodes := []func(*rand.Rand) kind{
		s.kill, s.kill, s.freeze, s.freeze, s.killAgent, s.freezeAgent, s.cut, s.deaf, s.mute, s.drain, s.failover, s.reload, s.powerCut,
	}
	elsewhere := []func(*rand.Rand) fault{s.killController, s.restructure}
	if !controller {
		elsewhere = nil
	}
	var faults []fault
	for range n {
		var f fault
		lasts := time.Duration(100+random.IntN(2900)) * time.Millisecond
		long := random.IntN(8) == 0
		if i := random.IntN(len(atNodes) + len(elsewhere)); i < len(elsewhere) {
			f = elsewhere[i](random)
		} else {
			make := atNodes[i-len(elsewhere)](random)
			first := clustertest.Both[random.IntN(2)]
			f = make(first)
			f.nodes = []string{first}
			if random.IntN(5) == 0 {
				f = both(make)
			}
		}
		if f.borne && long {
			lasts += recovery
		}
		f.lasts = lasts
		faults = append(faults, f)
	}
	return faults
}

// both is the same fault at both nodes, one right after the other.
func both(make kind) fault {
	a, b := make(clustertest.Both[0]), make(clustertest.Both[1])
	f := a
	f.nodes, f.borne = clustertest.Both, false
	f.begin = func(ctx context.Context) error { return errors.Join(a.begin(ctx), b.begin(ctx)) }
	if a.end != nil {
		f.end = func(ctx context.Context) error { return errors.Join(a.end(ctx), b.end(ctx)) }
	}
	return f
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

// signal sends a signal to some of a daemon's processes, and returns which. It waits for
// one of them that is just being started again.
func signal(ctx context.Context, h *lab.Host, daemon string, of part, sig syscall.Signal) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	var pids []int
	err := lab.Until(ctx, "all processes", func(context.Context) (err error) {
		if pids, err = h.Pids(daemon); err == nil && len(pids) < 2 {
			err = fmt.Errorf("%s on %s has the processes %v, want 2 at least", daemon, h.Name, pids)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
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

func (s *site) kill(random *rand.Rand) kind {
	daemon, of := drawPart(random)
	var told []string
	switch {
	case daemon == "haproxy" && of != children:
		told = []string{"HAPROXY_STOPPED", "HAPROXY_RUNNING"}
	case daemon == "keepalived" && of != children:
		told = []string{"KEEPALIVED_STOPPED", "KEEPALIVED_RUNNING"}
	}
	return func(node string) fault {
		return fault{
			kind: fmt.Sprintf("SIGKILL of %s (%s)", daemon, of), told: told,
			begin: func(ctx context.Context) error {
				_, err := signal(ctx, s.Nodes[node].Host, daemon, of, syscall.SIGKILL)
				return err
			},
		}
	}
}

func (s *site) freeze(random *rand.Rand) kind {
	daemon, of := drawPart(random)
	return func(node string) fault {
		var frozen []int
		return fault{
			kind: fmt.Sprintf("SIGSTOP of %s (%s)", daemon, of), borne: true,
			begin: func(ctx context.Context) (err error) {
				frozen, err = signal(ctx, s.Nodes[node].Host, daemon, of, syscall.SIGSTOP)
				return err
			},
			end: func(context.Context) error { return signalPids(frozen, syscall.SIGCONT) },
		}
	}
}

func (s *site) killAgent(*rand.Rand) kind {
	return func(node string) fault {
		return fault{
			kind: "SIGKILL of the agent", absent: true, borne: true,
			begin: func(context.Context) error { return s.Nodes[node].KillAgent() },
			end:   func(ctx context.Context) error { return s.Nodes[node].StartAgent(ctx) },
		}
	}
}

func (s *site) freezeAgent(*rand.Rand) kind {
	return func(node string) fault {
		return fault{
			kind: "SIGSTOP of the agent", absent: true, borne: true,
			begin: func(context.Context) error { return s.Nodes[node].Agent().Signal(syscall.SIGSTOP) },
			end:   func(context.Context) error { return s.Nodes[node].Agent().Signal(syscall.SIGCONT) },
		}
	}
}

func (s *site) cut(*rand.Rand) kind {
	return func(node string) fault {
		return fault{kind: "port down", borne: true, begin: s.Nodes[node].Host.Cut, end: s.Nodes[node].Host.Plug}
	}
}

// deaf lets a node send and not receive.
func (s *site) deaf(*rand.Rand) kind { return s.drop(lab.In, "nothing received") }

// mute lets a node receive and not send.
func (s *site) mute(*rand.Rand) kind { return s.drop(lab.Out, "nothing sent") }

func (s *site) drop(d lab.Direction, what string) kind {
	return func(node string) fault {
		host := s.Nodes[node].Host
		return fault{
			kind: what, borne: true,
			begin: func(ctx context.Context) error { return host.Drop(ctx, d, "") },
			end:   host.Undrop,
		}
	}
}

// drain is done at the node, which needs no controller.
func (s *site) drain(*rand.Rand) kind {
	return func(node string) fault {
		n := s.Nodes[node]
		return fault{
			kind: "drain", borne: true, told: []string{"LOCAL_CHANGE_BEGUN", "LOCAL_CHANGE_ENDED"},
			begin: func(ctx context.Context) error {
				_, err := n.LbAgent(ctx, "drain", "--reason", "a random fault")
				return err
			},
			end: func(ctx context.Context) error { _, err := n.LbAgent(ctx, "undrain"); return err },
		}
	}
}

// failover moves the VIP that the node holds when all is well, for a moment.
func (s *site) failover(*rand.Rand) kind {
	return func(node string) fault {
		vip := activeVIPs[slices.IndexFunc(activeVIPs, func(v activeVIP) bool { return v.home == node })]
		return fault{
			kind: "failover of " + vip.id, told: []string{"NODE_NOTE was moved to another node"},
			begin: func(ctx context.Context) error {
				_, err := s.Nodes[node].LbAgent(ctx, "failover", vip.id, "--for", "1s")
				return err
			},
		}
	}
}

// reload reloads a daemon as its administrator does by hand.
func (s *site) reload(random *rand.Rand) kind {
	daemon, sig := "haproxy", syscall.SIGUSR2
	if random.IntN(2) == 0 {
		daemon, sig = "keepalived", syscall.SIGHUP
	}
	return func(node string) fault {
		return fault{
			kind: "reload of " + daemon,
			begin: func(ctx context.Context) error {
				_, err := signal(ctx, s.Nodes[node].Host, daemon, parent, sig)
				return err
			},
		}
	}
}

func (s *site) powerCut(*rand.Rand) kind {
	return func(node string) fault {
		return fault{kind: "power off", borne: true, absent: true, begin: s.Nodes[node].PowerCut, end: s.Nodes[node].PowerBack}
	}
}

func (s *site) killController(*rand.Rand) fault {
	return fault{
		kind: "SIGKILL of the controller", borne: true,
		begin: func(context.Context) error { return s.Controller.Kill() },
		end:   s.Controller.Start,
	}
}

// restructure makes a change that a daemon of both nodes is reloaded for.
func (s *site) restructure(random *rand.Rand) fault {
	n, what := 10+random.IntN(500)*10, "a change that reloads keepalived"
	if random.IntN(2) == 0 {
		n, what = n+1, "a change that reloads HAProxy"
	}
	return fault{
		kind: what,
		begin: func(ctx context.Context) error {
			revision, err := revisionOf(ctx, func(ctx context.Context, o ...grpc.CallOption) error { return s.restructuring(ctx, n)(o[0]) })
			if err == nil {
				_, err = s.Until(ctx, fmt.Sprintf("revision %d on both nodes", revision), since(revision))
			}
			return err
		},
	}
}

// at tells whether a fault happens at a node.
func (f fault) at(node string) bool { return slices.Contains(f.nodes, node) }
