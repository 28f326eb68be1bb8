package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// A backup made during changes is restored into an empty directory; the
// controller waits for an operator while the nodes serve, and then brings them
// to the backup. No client notices any of it.
func TestRestoredControllerWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	dir := s.Controller.Host.Dir()
	passphrase, file := filepath.Join(dir, "backup.pass"), filepath.Join(dir, "tandem.backup")
	if err := os.WriteFile(passphrase, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.under(ctx, steady, func() {
		stop := s.changeAlways(ctx)
		s.lbctl(ctx, "backup", file, "--passphrase-file", passphrase)
		changed := stop()
		s.checkSecret(file)
		s.exits(ctx, 1, "exists: give another name, or --force", "backup", file, "--passphrase-file", passphrase)
		s.exits(ctx, 2, "--passphrase-file to encrypt it", "backup", file+"2")

		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "77")
		s.lbctl(ctx, "listener", "set", "web_frontend", "--port", "80", "--port", "8088")
		later := s.head(ctx)
		if changed == 0 {
			t.Error("nothing was changed during the backup")
		}

		s.replaceData(ctx, func(data string) {
			restore := []string{"restore", "--data-dir", data, file}
			s.controllerRefuses(ctx, "--passphrase-file", restore...)
			s.controllerCommand(ctx, append(restore, "--passphrase-file", passphrase)...)
			s.controllerRefuses(ctx, "is not empty", append(restore, "--passphrase-file", passphrase)...)
		})
		_, err := s.Until(ctx, "an alarm that says what the nodes have", cluster.Connected(clustertest.Both...), alarm("RESTORED", "lb-master is ahead with revision", "lb-backup is ahead with revision"))
		if err != nil {
			t.Fatal(err)
		}
		text := squeezed(s.lbctl(ctx, "status"))
		for _, want := range []string{"waits for an operator", "cure: ", "lbctl restore confirm"} {
			if !strings.Contains(text, want) {
				t.Errorf("lbctl status does not say %q:\n%s", want, text)
			}
		}
		s.exits(ctx, 5, "waits for an operator", "backend", "set", "web_servers/web1", "--weight", "3")
		s.exits(ctx, 5, "RESTORE_UNCONFIRMED", "node", "token", "create", "lb-third", "-o", "name")
		if s.head(ctx) >= later {
			t.Errorf("the restored controller is at revision %d, the one before was at %d", s.head(ctx), later)
		}
		if _, err := s.Until(ctx, "web1 with the weight of after the backup", weighs("web1", 77)); err != nil {
			t.Error(err)
		}
		s.lbctl(ctx, "restore", "confirm")
		s.healthy(ctx)
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "5")
		if _, err := s.Until(ctx, "a new change on both nodes", weighs("web1", 5)); err != nil {
			t.Error(err)
		}
		for _, node := range clustertest.Both {
			s.until(5*time.Second, node+" with its file in step", func(ctx context.Context) error { return s.agrees(ctx, node) })
		}
	})
}

// An older copy of the data directory is noticed: the nodes are ahead of it,
// get nothing from it, and the controller says how to go on.
func TestOlderCopyOfTheDataIsNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.under(ctx, steady, func() {
		if err := s.Controller.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		older := s.Controller.DataDir() + ".copy"
		if err := os.CopyFS(older, os.DirFS(s.Controller.DataDir())); err != nil {
			t.Fatal(err)
		}
		if err := s.Controller.Start(ctx); err != nil {
			t.Fatal(err)
		}
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "77")
		s.healthy(ctx)
		s.replaceData(ctx, func(data string) {
			if err := os.Rename(older, data); err != nil {
				t.Fatal(err)
			}
		})
		ahead := alarm("NODE_AHEAD", "put back to an older copy")
		if _, err := s.Until(ctx, "an alarm", cluster.Connected(clustertest.Both...), ahead); err != nil {
			t.Fatal(err)
		}
		s.exits(ctx, 1, "put back to an older copy", "backend", "set", "web_servers/web1", "--weight", "3")
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "4", "--no-wait")
		s.lbctl(ctx, "backend", "set", "web_servers/web1", "--weight", "5", "--no-wait")
		if _, err := s.Until(ctx, "web1 as it was, though the numbers have overtaken", ahead, weighs("web1", 77)); err != nil {
			t.Error(err)
		}
		if err := s.Controller.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Controller.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "web1 as it was, after a restart too", cluster.Connected(clustertest.Both...), ahead, weighs("web1", 77)); err != nil {
			t.Error(err)
		}
		if err := s.Controller.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		s.controllerCommand(ctx, "restore", "--as-is", "--data-dir", s.Controller.DataDir())
		if err := s.Controller.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "a controller that waits", cluster.Connected(clustertest.Both...), alarm("RESTORED", "an older copy")); err != nil {
			t.Fatal(err)
		}
		s.lbctl(ctx, "restore", "confirm")
		s.healthy(ctx)
		if _, err := s.Until(ctx, "web1 as the store has it", weighs("web1", 5)); err != nil {
			t.Error(err)
		}
	})
}

// changeAlways changes weights until the function that it returns is called,
// which tells how often.
func (s *site) changeAlways(ctx context.Context) (stop func() int) {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			weight := uint32(n%200 + 1)
			_, err := s.config.UpdateBackend(ctx, weighing("web2", weight), grpc.WaitForReady(true))
			if err != nil && ctx.Err() == nil {
				s.t.Error(err)
			}
		}
		changed <- n
	}()
	return func() int {
		cancel()
		return <-changed
	}
}

// weighing asks for a weight of a backend.
func weighing(backend string, weight uint32) *tandemv1.UpdateBackendRequest {
	return &tandemv1.UpdateBackendRequest{
		Backend:    &tandemv1.Backend{Name: backendName(backend), Weight: &weight},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
	}
}

// replaceData kills the controller, moves its data away, and starts it on what
// fill puts there.
func (s *site) replaceData(ctx context.Context, fill func(data string)) {
	s.t.Helper()
	data := s.Controller.DataDir()
	if err := errors.Join(s.Controller.Kill(), os.Rename(data, data+".before")); err != nil {
		s.t.Fatal(err)
	}
	fill(data)
	if err := s.Controller.Start(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// controllerCommand runs lb-controller on the controller's host.
func (s *site) controllerCommand(ctx context.Context, args ...string) {
	s.t.Helper()
	if out, err := s.Controller.Host.Command(ctx, s.Programs.Controller, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("lb-controller %v: %v: %s", args, err, out)
	}
}

func (s *site) controllerRefuses(ctx context.Context, words string, args ...string) {
	s.t.Helper()
	out, err := s.Controller.Host.Command(ctx, s.Programs.Controller, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), words) {
		s.t.Errorf("lb-controller %v: %v: %s; want it to refuse with %q", args, err, out, words)
	}
}

// exits runs lbctl, which must fail with that code and those words.
func (s *site) exits(ctx context.Context, code int, words string, args ...string) {
	s.t.Helper()
	_, err := s.Lbctl(ctx, args...)
	var failed *cluster.CommandError
	if !errors.As(err, &failed) || failed.Code != code || !strings.Contains(squeezed(failed.Stderr), words) {
		s.t.Errorf("lbctl %v: %v; want code %d and %q", args, err, code, words)
	}
}

// checkSecret fails unless a backup is for its owner's eyes and holds no key in
// the clear.
func (s *site) checkSecret(file string) {
	s.t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || strings.Contains(string(data), "PRIVATE KEY") || !strings.HasPrefix(string(data), "age-encryption.org/") {
		s.t.Errorf("the backup has mode %v and begins %.30q", info.Mode(), data)
	}
}

// alarm holds when an alarm with that reason says all of the words.
func alarm(reason string, words ...string) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		said := ""
		for _, a := range status.GetAlarms() {
			if said += a.GetReason() + ": " + a.GetMessage() + "; "; a.GetReason() != reason {
				continue
			}
			missing := ""
			for _, w := range words {
				if !strings.Contains(a.GetMessage(), w) {
					missing = w
				}
			}
			if missing == "" {
				return nil
			}
		}
		return fmt.Errorf("no alarm %s says %q; they say %s", reason, words, said)
	}
}

// weighs holds when both nodes report that weight of a backend.
func weighs(backend string, weight uint32) cluster.Condition {
	return func(status *tandemv1.ClusterStatus) error {
		seen := 0
		for _, p := range status.GetPools() {
			for _, b := range p.GetBackends() {
				for _, n := range b.GetNodes() {
					if b.GetName() != backendName(backend) {
						continue
					}
					if n.GetWeight() != weight {
						return fmt.Errorf("%s weighs %d on %s, want %d", backend, n.GetWeight(), n.GetNode(), weight)
					}
					seen++
				}
			}
		}
		if seen != len(clustertest.Both) {
			return fmt.Errorf("%d nodes report %s", seen, backend)
		}
		return nil
	}
}
