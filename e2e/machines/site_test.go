// Package machines tests the product as a person installs it: on Debian machines
// with systemd, that boot, crash, and are switched off.
package machines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	controller = "controller"
	master     = cluster.Master
	backup     = cluster.Backup
)

// imageTimeout is for the first run, which makes the machines' system.
const imageTimeout = 10 * time.Minute

// patience bounds every wait for something that takes a second or two.
const patience = 40 * time.Second

// site is the guide's cluster on machines: the controller and both load
// balancers are Debians, web servers and clients are plain hosts.
type site struct {
	*lab.Lab
	labhost string
}

// newSite boots the machines with everything installed and nothing enabled.
func newSite(t *testing.T) *site {
	t.Helper()
	clustertest.Programs(t)
	l := labtest.Start(t, lab.Guide())
	image, err := lab.DebianImage(labtest.Deadline(t, imageTimeout))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, labhost: labtest.Labhost(t)}
	ctx := labtest.Deadline(t, 2*time.Minute)
	files := t.TempDir()
	make := exec.CommandContext(ctx, "make", "-s", "-C", clustertest.Root(t), "install", "DESTDIR="+files)
	if said, err := make.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, said)
	}
	for _, name := range []string{controller, master, backup} {
		h := l.Host(name)
		s.must(t, h.Install(ctx, image))
		s.copy(ctx, t, files+"/.", h.OnDisk("/"))
		s.must(t, h.Boot(ctx))
		t.Cleanup(func() { s.journal(t, h) })
	}
	_, err = traffic.StartWebs(ctx, l, s.labhost)
	s.must(t, err)
	return s
}

func (s *site) must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (s *site) copy(ctx context.Context, t *testing.T, from, to string) {
	t.Helper()
	if said, err := exec.CommandContext(ctx, "cp", "-a", "--no-preserve=ownership", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

// journal shows what a machine of a failed test said last.
func (s *site) journal(t *testing.T, h *lab.Host) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	said, err := h.Output(ctx, "journalctl", "--no-pager", "--lines=60", "--output=short-precise")
	t.Logf("journal of %s (%v):\n%s", h.Name, err, said)
}

// run runs a command on a host, as root types it, and returns what it prints.
func (s *site) run(t *testing.T, host string, line ...string) string {
	t.Helper()
	out, err := s.Host(host).Output(labtest.Deadline(t, patience), line[0], line[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// write writes a file on a machine.
func (s *site) write(t *testing.T, host, path, text string) {
	t.Helper()
	s.must(t, os.WriteFile(s.Host(host).OnDisk(path), []byte(text), 0o600))
}

// unit is one property of a unit.
func (s *site) unit(t *testing.T, host, unit, property string) string {
	t.Helper()
	return s.run(t, host, "systemctl", "show", "--value", "--property="+property, unit)
}

// pid is the main process of a unit, as its machine sees it.
func (s *site) pid(t *testing.T, host, unit string) string { return s.unit(t, host, unit, "MainPID") }

// until waits for a condition.
func (s *site) until(t *testing.T, what string, condition func(ctx context.Context) error) {
	t.Helper()
	var lacked error
	s.must(t, lab.Until(labtest.Deadline(t, patience), what, func(ctx context.Context) error {
		err := condition(ctx)
		if err != nil && lacked != nil && ctx.Err() != nil {
			return lacked // the look was only cut off by the deadline
		}
		lacked = err
		return err
	}))
}

// held waits until the VIP is on that machine alone, by the kernels' word.
func (s *site) held(t *testing.T, by string) {
	t.Helper()
	s.until(t, "the VIP on "+by, func(ctx context.Context) error {
		holders, err := s.Holders(ctx, lab.VIP.Addr())
		if err == nil && !slices.Equal(holders, []string{by}) {
			err = fmt.Errorf("it is on %v", holders)
		}
		return err
	})
}

// serves waits until a client is answered through the VIP.
func (s *site) serves(t *testing.T) {
	t.Helper()
	s.until(t, "an answer from the VIP", func(ctx context.Context) error {
		_, err := s.Host("client").Output(ctx, "curl", "-sS", "--fail", "--max-time", "1", "http://"+lab.VIP.Addr().String()+"/")
		return err
	})
}

// status is what lbctl says on the controller.
func (s *site) status(ctx context.Context) (*tandemv1.ClusterStatus, error) {
	out, err := s.Host(controller).Output(ctx, "lbctl", "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	status := &tandemv1.ClusterStatus{}
	return status, protojson.Unmarshal(out, status)
}

// reports waits until the controller's status fulfils all conditions.
func (s *site) reports(t *testing.T, what string, conditions ...cluster.Condition) {
	t.Helper()
	s.until(t, what, func(ctx context.Context) error {
		status, err := s.status(ctx)
		for _, holds := range conditions {
			if err != nil {
				break
			}
			err = holds(status)
		}
		return err
	})
}

// well waits until all is well, with the VIP on lb-master.
func (s *site) well(t *testing.T) {
	t.Helper()
	s.reports(t, "all is well", clustertest.Healthy()...)
	s.held(t, master)
}

// load is traffic that counts what clients lose.
type load struct {
	t     *testing.T
	probe *traffic.Probe
}

func (s *site) load(t *testing.T, cfg probe.Config) *load {
	t.Helper()
	cfg.Target = lab.VIP.Addr().String() + ":80"
	p, err := traffic.StartProbe(labtest.Deadline(t, patience), s.Host("client"), s.labhost, cfg)
	s.must(t, err)
	return &load{t, p}
}

// end returns the report.
func (l *load) end() *probe.Report {
	l.t.Helper()
	report, err := l.probe.Stop(labtest.Deadline(l.t, patience))
	if err != nil {
		l.t.Fatal(err)
	}
	return report
}

// clean ends it, and holds that no new connection failed.
func (l *load) clean() {
	l.t.Helper()
	report := l.end()
	l.t.Logf("%d new connections, %d failed", report.Attempts(), report.Failed())
	if report.Failed() > 0 || report.Attempts() < 50 {
		l.t.Errorf("%d of %d new connections failed: %+v", report.Failed(), report.Attempts(), report.Failures)
	}
}

// built builds a program of the product as another version of it.
func built(t *testing.T, version, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "grpcnotrace", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", path, pkg)
	build.Dir = clustertest.Root(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, said)
	}
	return path
}

// handsOver tells whether the unit's agent has, or has not, the program in the kernel
// that hands connections over.
func (s *site) handsOver(ctx context.Context, node string, want bool) error {
	out, err := s.Host(node).Output(ctx, "sh", "-c", "tc filter show dev eth0 ingress; ip rule")
	if err != nil {
		return err
	}
	for _, trace := range []string{"tandem-handover", "0x74646d"} {
		if strings.Contains(string(out), trace) != want {
			return fmt.Errorf("%s is there: %v, want %v:\n%s", trace, !want, want, out)
		}
	}
	return nil
}
