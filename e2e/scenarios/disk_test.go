package scenarios

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A node that cannot write goes on with servers and says so, refuses a new
// structure in plain words, and recovers by itself.
func TestDiskThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	n := s.Backup()
	s.ownDisk(ctx, n)
	for _, tt := range []struct {
		name          string
		spoil, mend   string
		words         string
		restartsInIt  bool
		clientTimeout string
	}{
		{
			name: "full", words: "no space left on device", clientTimeout: "45s",
			spoil: "! dd if=/dev/zero of=$STATE/fill bs=4096 2>&1", mend: "rm $STATE/fill",
		},
		{
			name: "read-only", words: "read-only file system", clientTimeout: "46s", restartsInIt: true,
			spoil: "mount -o remount,ro $STATE", mend: "mount -o remount,rw $STATE",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := s.in(t)
			s.under(ctx, steady, func() {
				s.onDisk(ctx, n, tt.spoil)
				// The journal has room in its last page.
				status := s.changesUntil(ctx, func(status *tandemv1.ClusterStatus) error {
					if !cluster.FindNode(status, cluster.Backup).GetNotPersistent() {
						return errors.New("no change is told to be not persistent")
					}
					return nil
				})
				if cluster.FindNode(status, cluster.Master).GetNotPersistent() {
					t.Error("lb-master is told to be not persistent, too")
				}
				text := s.lbctl(ctx, "status")
				for _, words := range []string{"not persistent on all nodes", tt.words, "free space there, or make it writable"} {
					if !strings.Contains(squeezed(text), words) {
						t.Errorf("lbctl status does not say %q:\n%s", words, text)
					}
				}
				// lbctl waits until it is in effect, and so it is.
				s.lbctl(ctx, "backend", "drain", "web_servers/web1")
				running, err := runtime(ctx, n)
				if err != nil || running.Servers["web_servers/web1"].Weight != 0 {
					t.Errorf("web1 on lb-backup is %+v (%v), want drained", running.Servers["web_servers/web1"], err)
				}
				// So does a drain, of the controller and at the node itself.
				s.lbctl(ctx, "node", "drain", cluster.Backup)
				s.drained(ctx, n, true)
				s.lbAgent(ctx, n, "undrain")
				s.drained(ctx, n, false)
				s.lbctl(ctx, "node", "undrain", cluster.Backup)
				s.refusedByNode(ctx, []string{"cluster", "set", "--client-timeout", tt.clientTimeout}, tt.words)
				if tt.restartsInIt {
					s.restartAgent(ctx, n)
					if _, err := s.Until(ctx, "a new agent, too", cluster.Connected(cluster.Backup)); err != nil {
						t.Fatal(err)
					}
				}
				s.onDisk(ctx, n, tt.mend)
				// Nobody does anything else.
				if _, err := s.Until(labtest.Deadline(t, 60*time.Second), "lb-backup to recover by itself", cluster.Settled(clustertest.Both...), persistent); err != nil {
					t.Fatal(err)
				}
			})
			s.lbctl(ctx, "backend", "ready", "web_servers/web1")
			if text := s.lbctl(ctx, "status"); !strings.Contains(text, "all is well") {
				t.Errorf("lbctl status still complains:\n%s", text)
			}
			// What is told to be on disk is there.
			before, err := runtime(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Controller.Kill(), n.KillAgent(), n.KillHAProxy(ctx), n.StartAgent(ctx)); err != nil {
				t.Fatal(err)
			}
			s.until(inStep, "HAProxy to do what it did", func(ctx context.Context) error { return differs(ctx, n, before) })
			s.controllerBack(ctx)
		})
	}
}

// drained checks whether a node's score says that it is drained.
func (s *site) drained(ctx context.Context, n *cluster.Node, want bool) {
	s.t.Helper()
	if score := s.local(ctx, n).GetScore(); (score.GetDrain() < 0) != want {
		s.t.Errorf("the score is %v, drained: want %v", score, want)
	}
}

// persistent holds when no node says otherwise.
func persistent(status *tandemv1.ClusterStatus) error {
	for _, n := range status.GetNodes() {
		if n.GetNotPersistent() {
			return fmt.Errorf("%s is not persistent: %v", n.GetName(), n.GetProblems())
		}
	}
	return nil
}

// ownDisk puts a node's state on a small disk of its own.
func (s *site) ownDisk(ctx context.Context, n *cluster.Node) {
	s.t.Helper()
	if err := n.KillAgent(); err != nil {
		s.t.Fatal(err)
	}
	s.onDisk(ctx, n, "cp -a $STATE $STATE.old; mount -t tmpfs -o size=4m,mode=700 tmpfs $STATE; cp -a $STATE.old/. $STATE/")
	if err := n.StartAgent(ctx); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Until(ctx, "the node on its own disk", cluster.Settled(clustertest.Both...)); err != nil {
		s.t.Fatal(err)
	}
}

// onDisk runs a shell command on a node that knows its state directory.
func (s *site) onDisk(ctx context.Context, n *cluster.Node, command string) {
	s.t.Helper()
	if _, err := n.Host.Output(ctx, "env", "STATE="+n.StateDir, "sh", "-ec", command); err != nil {
		s.t.Fatal(err)
	}
}

// changesUntil changes a weight again and again, each time in effect on both
// nodes, until a condition holds.
func (s *site) changesUntil(ctx context.Context, condition cluster.Condition) *tandemv1.ClusterStatus {
	s.t.Helper()
	var lacked error
	for n := range uint32(100) {
		weight := 1 + n%2
		s.inEffect(ctx, s.change("weight", func(o grpc.CallOption) error {
			_, err := s.config.UpdateBackend(ctx, &tandemv1.UpdateBackendRequest{
				Backend:    &tandemv1.Backend{Name: backendName("web2"), Weight: &weight},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
			}, o)
			return err
		}))
		status, err := s.Status(ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		if lacked = condition(status); lacked == nil {
			return status
		}
	}
	s.t.Fatal(lacked)
	return nil
}
