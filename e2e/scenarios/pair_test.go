package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/handmade"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// pair is a hand-written pair that serves, and a cluster that it has joined.
type pair struct {
	*cluster.Cluster
	t       *testing.T
	labhost string
	vips    []netip.Addr
	backend string // one of them, as pool/backend
	// heard gets what lb-agent says; nil: nobody does.
	heard func(who string, said []byte)
	// original holds the hand-written files of each node, by path.
	original map[string]map[string]handwritten
}

// handwritten is a file and all that a takeover must leave as it was.
type handwritten struct {
	text  []byte
	mode  os.FileMode
	inode uint64
}

var paths = []string{handmade.HAProxyFile, handmade.KeepalivedFile}

// newPair starts a pair's daemons, then a controller, and an agent on each node,
// which must touch nothing.
func newPair(t *testing.T, spec lab.Spec, start func(context.Context, *lab.Lab) error, vips ...netip.Addr) *pair {
	t.Helper()
	programs := clustertest.Programs(t)
	l := labtest.Start(t, spec)
	p := &pair{t: t, labhost: labtest.Labhost(t), vips: vips, original: map[string]map[string]handwritten{}}
	ctx := labtest.Deadline(t, time.Minute)
	if _, err := traffic.StartWebs(ctx, l, p.labhost); err != nil {
		t.Fatal(err)
	}
	if err := start(ctx, l); err != nil {
		t.Fatal(err)
	}
	for _, node := range clustertest.Both {
		p.original[node] = map[string]handwritten{}
		for _, path := range paths {
			p.original[node][path] = readFile(t, l.Host(node).Path(path))
		}
	}
	var err error
	p.Cluster, err = cluster.Start(ctx, l, programs)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readFile(t *testing.T, path string) handwritten {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return handwritten{text, info.Mode(), inode(info)}
}

// agent runs lb-agent on a node and returns what it prints.
func (p *pair) agent(ctx context.Context, node string, args ...string) (string, error) {
	n := p.Nodes[node]
	out, err := n.Host.Command(ctx, p.Programs.Agent, append(args, "--config", n.Config)...).CombinedOutput()
	if p.heard != nil {
		p.heard("lb-agent "+strings.Join(args, " "), out)
	}
	if err != nil {
		err = fmt.Errorf("lb-agent %s on %s: %w: %s", strings.Join(args, " "), node, err, out)
	}
	return string(out), err
}

func (p *pair) mustAgent(ctx context.Context, node string, args ...string) {
	p.t.Helper()
	if _, err := p.agent(ctx, node, args...); err != nil {
		p.t.Fatal(err)
	}
}

// holds fails unless a node alone holds all virtual addresses.
func (p *pair) holds(ctx context.Context, node string) {
	p.t.Helper()
	for _, vip := range p.vips {
		holders, err := p.Lab.Holders(ctx, vip)
		if err != nil || !slices.Equal(holders, []string{node}) {
			p.t.Fatalf("%s is held by %v, %v; want %s alone", vip, holders, err, node)
		}
	}
}

// write has a node write what it would manage, with the other node's file at
// hand, and returns the file's path and text.
func (p *pair) write(ctx context.Context, node, peer string) (path, text string) {
	p.t.Helper()
	dir := p.Nodes[node].Host.Dir()
	theirs := filepath.Join(dir, "peer.conf")
	if err := os.WriteFile(theirs, p.original[peer][handmade.KeepalivedFile].text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	path = filepath.Join(dir, "cluster.yaml")
	p.mustAgent(ctx, node, "adopt", "--peer", peer+"="+theirs, "--output", path)
	data, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	_, text, _ = strings.Cut(string(data), "\n")
	return path, text
}

// isBack holds that a node's hand-written files are what they were.
func (p *pair) isBack(node string) {
	p.t.Helper()
	for _, path := range paths {
		got, want := readFile(p.t, p.Lab.Host(node).Path(path)), p.original[node][path]
		if !bytes.Equal(got.text, want.text) || got.mode != want.mode || got.inode != want.inode {
			p.t.Errorf("%s on %s: mode %v, inode %d, %d bytes; want %v, %d, %d", path, node,
				got.mode, got.inode, len(got.text), want.mode, want.inode, len(want.text))
		}
		if _, err := os.Lstat(p.Lab.Host(node).Path(path + ".before-tandem")); !errors.Is(err, os.ErrNotExist) {
			p.t.Errorf("%s on %s is put aside still: %v", path, node, err)
		}
	}
}

// isAside holds that a node's hand-written files are beside Tandem's.
func (p *pair) isAside(node string) {
	p.t.Helper()
	for _, path := range paths {
		host := p.Lab.Host(node)
		got, want := readFile(p.t, host.Path(path+".before-tandem")), p.original[node][path]
		if !bytes.Equal(got.text, want.text) || got.mode != want.mode || got.inode != want.inode {
			p.t.Errorf("%s on %s is not put aside as it was", path, node)
		}
		if to, err := os.Readlink(host.Path(path)); err != nil || !strings.HasPrefix(to, p.Nodes[node].StateDir) {
			p.t.Errorf("%s on %s leads to %q, %v", path, node, to, err)
		}
	}
}

// problem holds when a node says that as the reason for which it has not
// applied the newest revision.
func problem(node, text string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if failure := cluster.FindNode(s, node).GetFailure(); !strings.Contains(failure, text) {
			return fmt.Errorf("%s says %q", node, failure)
		}
		return nil
	}
}

// unwell holds when a node tells that as a problem.
func unwell(node, text string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		if problems := strings.Join(cluster.FindNode(s, node).GetProblems(), "\n"); !strings.Contains(problems, text) {
			return fmt.Errorf("%s tells %q", node, problems)
		}
		return nil
	}
}

// foreignIsGone waits until the HAProxy that was found has finished.
func (p *pair) foreignIsGone(ctx context.Context, node string) {
	p.t.Helper()
	host := p.Lab.Host(node)
	err := lab.Until(ctx, "the hand-started HAProxy on "+node+" to end", func(context.Context) error {
		pids, err := host.Pids("haproxy")
		if err != nil {
			return err
		}
		for _, pid := range pids {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && bytes.Contains(line, []byte(handmade.HAProxyFile)) {
				return fmt.Errorf("process %d runs", pid)
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// settled waits until both nodes have everything and nothing is wrong.
func (p *pair) settled(ctx context.Context) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := p.Until(ctx, "a settled cluster", cluster.Settled(clustertest.Both...), cluster.NoAlarms); err != nil {
		p.t.Fatal(err)
	}
}

// restartAgents kills both agents and starts them again.
func (p *pair) restartAgents(ctx context.Context) {
	p.t.Helper()
	for _, node := range clustertest.Both {
		if err := errors.Join(p.Nodes[node].KillAgent(), p.Nodes[node].StartAgent(ctx)); err != nil {
			p.t.Fatal(err)
		}
	}
}
