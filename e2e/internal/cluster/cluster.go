// Package cluster runs the product on a lab: the built lb-controller on one
// host, the built lb-agent with the real HAProxy and keepalived on others, and
// lbctl as a person uses it.
//
// Everything runs inside the hosts. Daemons are killed by process id, one host
// at a time. Errors of a program carry the last lines of its log.
package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tandem-lb/tandem/e2e/lab"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Names of the guide's load balancers, and of the cluster that exists from the
// controller's first start.
const (
	Master = "lb-master"
	Backup = "lb-backup"
	Name   = "clusters/default"
)

// startTimeout bounds how long a program may take until it is of use.
const startTimeout = 20 * time.Second

// Cluster is a controller and the nodes that have joined it.
type Cluster struct {
	Lab        *lab.Lab
	Programs   Programs
	Controller *Controller
	// Nodes by name.
	Nodes map[string]*Node
}

// New returns a cluster of which nothing runs yet.
func New(l *lab.Lab, programs Programs, controller Endpoint) *Cluster {
	return &Cluster{
		Lab:        l,
		Programs:   programs,
		Controller: newController(l.Host("controller"), programs.Controller, controller),
		Nodes:      map[string]*Node{},
	}
}

// Start starts a controller on the host "controller" of the guide's lab and
// joins lb-master and lb-backup, in that order. It returns when both have a
// session. Nothing is configured yet.
func Start(ctx context.Context, l *lab.Lab, programs Programs) (*Cluster, error) {
	c := New(l, programs, Endpoint{Host: l.Host("controller").Address.Addr(), GRPC: 9443, HTTP: 8443})
	if err := c.Controller.Start(ctx); err != nil {
		return c, err
	}
	for _, name := range []string{Master, Backup} {
		if _, err := c.Join(ctx, name); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Join makes a join token with lbctl, starts an agent with it on the host of
// that name and waits until the agent has a session.
func (c *Cluster) Join(ctx context.Context, name string) (*Node, error) {
	token, err := c.Lbctl(ctx, "node", "token", "create", name, "-o", "name")
	if err != nil {
		return nil, err
	}
	return c.JoinWith(ctx, name, token)
}

// JoinWith is Join with a join token at hand.
func (c *Cluster) JoinWith(ctx context.Context, name string, token []byte) (*Node, error) {
	return c.JoinOn(ctx, name, name, token)
}

// JoinOn is JoinWith on a host that has another name than the node. Nodes has
// the new one then.
func (c *Cluster) JoinOn(ctx context.Context, host, name string, token []byte) (*Node, error) {
	n, err := newNode(c.Lab.Host(host), name, c.Programs, c.Controller.Endpoint, token)
	if err != nil {
		return nil, err
	}
	c.Nodes[name] = n
	if err := n.StartAgent(ctx); err != nil {
		return n, err
	}
	_, err = c.Until(ctx, name+" to join", Connected(name))
	return n, n.explain(err)
}

// Use makes the next starts those of other programs.
func (c *Cluster) Use(programs Programs) {
	c.Programs, c.Controller.program = programs, programs.Controller
	for _, n := range c.Nodes {
		n.programs = programs
	}
}

// Master returns lb-master.
func (c *Cluster) Master() *Node { return c.Nodes[Master] }

// Backup returns lb-backup.
func (c *Cluster) Backup() *Node { return c.Nodes[Backup] }

// LbctlEnv returns the environment that lbctl finds the controller by.
func (c *Cluster) LbctlEnv() []string {
	return []string{
		"LBCTL_SERVER=" + c.Controller.GRPCAddress(),
		"LBCTL_TOKEN_FILE=" + c.Controller.TokenFile(),
		"LBCTL_CA=" + c.Controller.CAFile(),
		"LBCTL_CLUSTER=default",
		"HOME=" + c.Controller.Host.Dir(), // no settings of the caller's
		"XDG_CONFIG_HOME=",
	}
}

// LbctlCommand returns an lbctl on the controller's host that is not started
// yet.
func (c *Cluster) LbctlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.Controller.Host.Command(ctx, c.Programs.CLI, args...)
	cmd.Env = append(os.Environ(), c.LbctlEnv()...)
	return cmd
}

// Lbctl runs lbctl on the controller's host and returns its standard output. A
// failure is a *CommandError.
func (c *Cluster) Lbctl(ctx context.Context, args ...string) ([]byte, error) {
	return runCommand(c.LbctlCommand(ctx, args...), "lbctl", args)
}

// Apply applies a file of deploy/examples, or any other, with lbctl, which
// waits until it is in effect on all connected nodes.
func (c *Cluster) Apply(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	_, err = c.Lbctl(ctx, "apply", "-f", file)
	return err
}

// LbctlStatus returns what "lbctl status -o json" prints.
func (c *Cluster) LbctlStatus(ctx context.Context) (*tandemv1.ClusterStatus, error) {
	out, err := c.Lbctl(ctx, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	status := &tandemv1.ClusterStatus{}
	if err := protojson.Unmarshal(out, status); err != nil {
		return nil, fmt.Errorf("output of lbctl status -o json: %w", err)
	}
	return status, nil
}

// Status returns the status over one connection that stays open: it costs a
// fraction of an lbctl.
func (c *Cluster) Status(ctx context.Context) (*tandemv1.ClusterStatus, error) {
	conn, err := c.Controller.Conn()
	if err != nil {
		return nil, err
	}
	return tandemv1.NewFleetServiceClient(conn).GetStatus(ctx, &tandemv1.GetStatusRequest{Name: Name})
}

// Until waits until the status fulfils all conditions and returns it.
func (c *Cluster) Until(ctx context.Context, what string, conditions ...Condition) (*tandemv1.ClusterStatus, error) {
	ctx, cancel := withDefault(ctx, startTimeout)
	defer cancel()
	var status *tandemv1.ClusterStatus
	var lacked error // by the last status
	err := lab.Until(ctx, what, func(ctx context.Context) error {
		current, err := c.Status(ctx)
		switch {
		case err == nil:
			status, lacked = current, all(current, conditions)
			return lacked
		case lacked != nil && ctx.Err() != nil:
			return lacked // the call was only cut off by the deadline
		}
		return c.Controller.explain(err)
	})
	return status, err
}

// Close ends the connection to the controller. Processes end with the lab.
func (c *Cluster) Close() error { return c.Controller.close() }

// withDefault bounds a context that has no deadline.
func withDefault(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}
