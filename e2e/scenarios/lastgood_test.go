package scenarios

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// I4: a refused or failed apply leaves the last good configuration serving, is
// reported with the daemon's own words, and ends by itself with its cause.
func TestI4LastGoodConfigurationServes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	for _, tt := range []struct {
		name         string
		cause        func(context.Context, *site, *cluster.Node) (undo func() error)
		change, back []string
		words        string
	}{
		{
			name: "haproxy -c refuses it", cause: groupGone,
			change: []string{"cluster", "set", "--client-timeout", "45s"},
			words:  "cannot find group id for 'haproxy'",
		},
		{
			name: "haproxy -c passes it and it cannot start", cause: portTaken,
			change: []string{"listener", "set", "web_frontend", "--vip", "web", "--port", "80", "--port", "9090"},
			words:  "cannot bind socket (Address already in use) for [192.168.1.100:9090]",
		},
	} {
		for _, node := range []string{cluster.Master, cluster.Backup} {
			t.Run(tt.name+", on "+node, func(t *testing.T) {
				s := s.in(t)
				n := s.Nodes[node]
				good := s.head(ctx)
				before, err := os.ReadFile(haproxyFile(n))
				if err != nil {
					t.Fatal(err)
				}
				s.under(ctx, steady, func() {
					undo := tt.cause(ctx, s, n)
					s.refusedByNode(ctx, tt.change, tt.words)
					if text, err := os.ReadFile(haproxyFile(n)); err != nil || string(text) != string(before) {
						t.Errorf("the file is not the last good one (%v):\n%s", err, text)
					}
					s.failureShown(ctx, node, good, tt.words)
					if err := undo(); err != nil {
						t.Fatal(err)
					}
					// Nobody does anything: the agent tries again.
					if _, err := s.Until(labtest.Deadline(t, 30*time.Second), "the agent to recover by itself", cluster.Settled(node), cluster.NoAlarms); err != nil {
						t.Fatal(err)
					}
				})
				if err := s.agree(node); err != nil {
					t.Error(err)
				}
				if text := s.lbctl(ctx, "status"); !strings.Contains(text, "all is well") {
					t.Errorf("lbctl status still complains:\n%s", text)
				}
				// The guide's own file again.
				if err := s.Apply(ctx, guideFile(t)); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// refusedByNode runs lbctl, which must fail with the daemon's words.
func (s *site) refusedByNode(ctx context.Context, args []string, words string) {
	s.t.Helper()
	_, err := s.Lbctl(ctx, append(args, "--timeout", "10s")...)
	var failed *cluster.CommandError
	if !errors.As(err, &failed) || failed.Code != 1 || !strings.Contains(failed.Stderr, words) {
		s.t.Errorf("got %v, want exit status 1 with %q", err, words)
	}
}

// failureShown checks lbctl status, for scripts and for people.
func (s *site) failureShown(ctx context.Context, node string, good uint64, words string) {
	s.t.Helper()
	status, err := s.LbctlStatus(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	n := cluster.FindNode(status, node)
	if n.GetFailed() != status.GetDesired() || n.GetApplied() != good || !strings.Contains(n.GetFailure(), words) {
		s.t.Errorf("status of %s is failed %d, applied %d, %q; want failed %d, applied %d, and %q",
			node, n.GetFailed(), n.GetApplied(), n.GetFailure(), status.GetDesired(), good, words)
	}
	if n.GetHaproxy().GetState() != tandemv1.DaemonState_DAEMON_STATE_RUNNING {
		s.t.Errorf("HAProxy on %s is %s", node, n.GetHaproxy().GetState())
	}
	if text := s.lbctl(ctx, "status"); !strings.Contains(squeezed(text), words) {
		s.t.Errorf("lbctl status does not say %q:\n%s", words, text)
	}
}

var spaces = regexp.MustCompile(`\s+`)

// squeezed undoes the line breaks of a text for people.
func squeezed(text string) string { return spaces.ReplaceAllString(text, " ") }

// groupGone takes away the group that HAProxy's workers run as.
func groupGone(ctx context.Context, s *site, n *cluster.Node) func() error {
	s.t.Helper()
	all, err := os.ReadFile("/etc/group")
	if err != nil {
		s.t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(all)) {
		if !strings.HasPrefix(line, "haproxy:") {
			kept = append(kept, line)
		}
	}
	without := filepath.Join(n.Host.Dir(), "group")
	if err := os.WriteFile(without, []byte(strings.Join(kept, "")), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if _, err := n.Host.Output(ctx, "mount", "--bind", without, "/etc/group"); err != nil {
		s.t.Fatal(err)
	}
	return func() error {
		_, err := n.Host.Output(ctx, "umount", "/etc/group")
		return err
	}
}

// portTaken has another program listen on a port of every address.
func portTaken(ctx context.Context, s *site, n *cluster.Node) func() error {
	s.t.Helper()
	const address = ":9090"
	p, err := n.Host.Start(ctx, lab.ProcessSpec{Name: "squatter", Args: []string{s.Labhost, "web", "--name", "squatter", "--listen", address}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.Logged(ctx, "listening"); err != nil {
		s.t.Fatal(err)
	}
	return p.Kill
}

// guideFile is the file of the guide's cluster.
func guideFile(t testing.TB) string {
	return filepath.Join(clustertest.Root(t), "deploy", "examples", "guide.yaml")
}
