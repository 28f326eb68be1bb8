package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/e2e/lab"
)

// Node is a load balancer: an lb-agent, running or not, and its daemons.
type Node struct {
	Host *lab.Host
	// Config is the path of the agent's configuration file.
	Config string
	// StateDir and RunDir are the agent's, as programs in the host see them.
	StateDir, RunDir string
	// Env is added to the environment of the agent's next start, as "KEY=value".
	Env []string

	programs Programs
	agent    *lab.Process
}

// newNode writes the agent's configuration file and its join token.
func newNode(h *lab.Host, name string, programs Programs, controller Endpoint, token []byte) (*Node, error) {
	n := &Node{
		Host:     h,
		Config:   filepath.Join(h.Dir(), "agent.yaml"),
		StateDir: filepath.Join(h.Dir(), "state"),
		RunDir:   filepath.Join(h.RunDir(), "tandem"),
		programs: programs,
	}
	tokenFile := filepath.Join(h.Dir(), "join.token")
	config := map[string]any{
		"node":            name,
		"controllers":     []string{controller.GRPCAddress()},
		"join_token_file": tokenFile,
		"state_dir":       n.StateDir,
		"run_dir":         n.RunDir,
		"runner":          "exec",
		"logs":            map[string]string{"directory": n.LogDir()},
		"haproxy":         map[string]string{"binary": n.daemon("haproxy")},
		"keepalived":      map[string]string{"binary": n.daemon("keepalived")},
	}
	if !h.Plain() {
		config["interface"] = "eth0"
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, err
	}
	return n, errors.Join(
		os.WriteFile(n.Config, text, 0o600),
		os.WriteFile(tokenFile, token, 0o600),
		os.MkdirAll(h.Path(n.daemon("")), 0o755),
		n.Install("haproxy"),
		n.Install("keepalived"),
	)
}

// LogDir is where the node's access and state logs lie.
func (n *Node) LogDir() string { return filepath.Join(n.Host.Dir(), "log") }

// daemon is where the agent finds a daemon's program.
func (n *Node) daemon(name string) string { return filepath.Join(n.Host.RunDir(), "programs", name) }

// Install puts a daemon's program ("haproxy", "keepalived") where the agent
// finds it, as at first or after Uninstall.
func (n *Node) Install(name string) error {
	program := map[string]string{"haproxy": n.programs.HAProxy, "keepalived": n.programs.Keepalived}[name]
	if program == "" {
		return nil
	}
	err := os.Symlink(program, n.Host.Path(n.daemon(name)))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// Replace puts another program where the agent finds a daemon's.
func (n *Node) Replace(name, program string) error {
	return errors.Join(n.Uninstall(name), os.Symlink(program, n.Host.Path(n.daemon(name))))
}

// Uninstall takes a daemon's program away, so that the agent cannot start it
// again. What runs goes on running.
func (n *Node) Uninstall(name string) error { return os.Remove(n.Host.Path(n.daemon(name))) }

// StartAgent starts the agent, for the first time or again. It does not wait
// for a session.
func (n *Node) StartAgent(ctx context.Context) error {
	var err error
	n.agent, err = n.Host.Start(ctx, lab.ProcessSpec{
		Name: "lb-agent",
		Args: []string{n.programs.Agent, "run", "--config", n.Config},
		Env:  n.Env,
	})
	return err
}

// LbAgent runs lb-agent on the node, as an operator at the machine does, and
// returns its standard output. A failure is a *CommandError.
func (n *Node) LbAgent(ctx context.Context, args ...string) ([]byte, error) {
	cmd := n.Host.Command(ctx, n.programs.Agent, append(slices.Clone(args), "--config", n.Config)...)
	return runCommand(cmd, "lb-agent", args)
}

// KillAgent kills the agent with SIGKILL and waits for its end. Its daemons
// live on.
func (n *Node) KillAgent() error { return n.agent.Kill() }

// StopAgent asks the agent to end and waits for it; one that takes longer than
// the grace time is killed, which is an error.
func (n *Node) StopAgent(grace time.Duration) error { return n.agent.Stop(grace) }

// Agent is the running or last ended agent.
func (n *Node) Agent() *lab.Process { return n.agent }

// KillHAProxy kills every HAProxy process of the node with SIGKILL and waits
// until they are gone. The agent may have started new ones by then.
func (n *Node) KillHAProxy(ctx context.Context) error { return n.kill(ctx, "haproxy") }

// KillKeepalived does the same to keepalived.
func (n *Node) KillKeepalived(ctx context.Context) error { return n.kill(ctx, "keepalived") }

func (n *Node) kill(ctx context.Context, name string) error {
	ctx, cancel := withDefault(ctx, startTimeout)
	defer cancel()
	return n.Host.KillAll(ctx, name)
}

// StopHAProxy stops HAProxy for longer, as "systemctl stop haproxy" does: its
// program is taken away, then its master gets SIGTERM, and StopHAProxy waits
// until all its processes are gone.
func (n *Node) StopHAProxy(ctx context.Context) error {
	ctx, cancel := withDefault(ctx, startTimeout)
	defer cancel()
	pids, err := n.Host.Pids("haproxy")
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("host %s runs no haproxy", n.Host.Name)
	}
	if err := n.Uninstall("haproxy"); err != nil {
		return err
	}
	// The master is the oldest: it started the others.
	if err := syscall.Kill(pids[0], syscall.SIGTERM); err != nil {
		return fmt.Errorf("host %s: stop haproxy (%d): %w", n.Host.Name, pids[0], err)
	}
	return lab.Until(ctx, "haproxy on "+n.Host.Name+" to end", func(context.Context) error {
		left, err := n.Host.Pids("haproxy")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("still there: %v", left)
		}
		return err
	})
}

// LetHAProxyRun undoes StopHAProxy: the agent can start it again.
func (n *Node) LetHAProxyRun() error { return n.Install("haproxy") }

// explain adds the last lines of the agent's log to an error.
func (n *Node) explain(err error) error { return withTail(err, n.agent) }
