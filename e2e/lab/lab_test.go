package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// pair is a lab of two hosts, enough for most tests of the lab itself.
func pair() lab.Spec {
	return lab.Spec{Hosts: []lab.HostSpec{
		{Name: "a", Address: netip.MustParsePrefix("192.168.1.1/24"), NonlocalBind: true},
		{Name: "b", Address: netip.MustParsePrefix("192.168.1.2/24")},
	}}
}

// connect opens a TCP connection from host a to host b's web server.
func connect(ctx context.Context, from *lab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err := from.Output(ctx, "bash", "-c", "exec 3<>/dev/tcp/192.168.1.2/80")
	return err
}

// serve starts a listener on port 80 of the host and waits until a reaches it.
func serve(t *testing.T, l *lab.Lab) *lab.Process {
	t.Helper()
	p, err := l.Host("b").Start(t.Context(), lab.ProcessSpec{
		Name: "web",
		Args: []string{"haproxy", "-db", "-f", writeFile(t, l.Host("b").Dir(), "web.cfg", `
defaults
  mode tcp
  timeout connect 1s
  timeout client 1s
  timeout server 1s
listen web
  bind *:80
`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "connection from a to b", func(ctx context.Context) error { return connect(ctx, l.Host("a")) })
	return p
}

func until(t *testing.T, what string, condition func(context.Context) error) {
	t.Helper()
	if err := lab.Until(labtest.Deadline(t, 10*time.Second), what, condition); err != nil {
		t.Fatal(err)
	}
}

// unreachable fails the test if a still reaches b's web server. It does not
// poll: what the lab does to a cable holds when its call returns.
func unreachable(t *testing.T, l *lab.Lab) {
	t.Helper()
	if connect(t.Context(), l.Host("a")) == nil {
		t.Fatal("a still reaches b")
	}
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostsAreMachinesOfTheirOwn(t *testing.T) {
	l := labtest.Start(t, pair())
	for _, test := range []struct{ name, host, script, want string }{
		{"host name", "a", "cat /proc/sys/kernel/hostname", "a"},
		{"processes", "a", "ps -C haproxy --no-header | wc -l", "0"},
		{"private run directory", "a", "ls /run | wc -l", "0"},
		{"nonlocal bind", "a", "cat /proc/sys/net/ipv4/ip_nonlocal_bind", "1"},
		{"no nonlocal bind", "b", "cat /proc/sys/net/ipv4/ip_nonlocal_bind", "0"},
		{"interfaces", "b", "ip -br link | cut -d' ' -f1 | cut -d@ -f1 | sort | xargs", "eth0 lo"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := l.Host(test.host).Output(t.Context(), "bash", "-c", test.script)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(out)); got != test.want {
				t.Errorf("%s on %s: got %q, want %q", test.script, test.host, got, test.want)
			}
		})
	}
}

func TestCutAndPlug(t *testing.T) {
	l := labtest.Start(t, pair())
	serve(t, l)
	b := l.Host("b")
	reach := func(ctx context.Context) error { return connect(ctx, l.Host("a")) }
	if err := b.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	unreachable(t, l)
	if err := b.Plug(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "b to be reachable again", reach)
}

func TestDialFromHost(t *testing.T) {
	l := labtest.Start(t, pair())
	serve(t, l)
	// b's web server is on its own loopback interface and on no other host's.
	for name, want := range map[string]bool{"a": false, "b": true} {
		conn, err := l.Host(name).Dial(labtest.Deadline(t, time.Second), "tcp", "127.0.0.1:80")
		if got := err == nil; got != want {
			t.Errorf("127.0.0.1:80 from %s: connected %v (%v), want %v", name, got, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

func TestDropOneDirection(t *testing.T) {
	for _, direction := range []lab.Direction{lab.In, lab.Out} {
		t.Run(string(direction), func(t *testing.T) {
			l := labtest.Start(t, pair())
			serve(t, l)
			a, reach := l.Host("a"), func(ctx context.Context) error { return connect(ctx, l.Host("a")) }
			// A match that does not fit must not drop.
			if err := a.Drop(t.Context(), direction, "ip protocol vrrp"); err != nil {
				t.Fatal(err)
			}
			if err := reach(t.Context()); err != nil {
				t.Fatalf("TCP is dropped with VRRP: %v", err)
			}
			if err := a.Drop(t.Context(), direction, ""); err != nil {
				t.Fatal(err)
			}
			unreachable(t, l)
			if err := a.Undrop(t.Context()); err != nil {
				t.Fatal(err)
			}
			until(t, "packets to pass again", reach)
		})
	}
}

func TestHolders(t *testing.T) {
	l := labtest.Start(t, pair())
	vip := netip.MustParseAddr("192.168.1.100")
	for _, want := range [][]string{nil, {"b"}} {
		got, err := l.Holders(t.Context(), vip)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
		if want == nil {
			if _, err := l.Host("b").Output(t.Context(), "ip", "address", "add", "192.168.1.100/24", "dev", "eth0"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestProcessLife(t *testing.T) {
	l := labtest.Start(t, pair())
	web := serve(t, l)
	b := l.Host("b")
	if pids, err := b.Pids("haproxy"); err != nil || len(pids) != 1 || pids[0] != web.PID() {
		t.Errorf("pids of haproxy on b: got %v, %v, want [%d]", pids, err, web.PID())
	}
	if pids, err := l.Host("a").Pids("haproxy"); err != nil || len(pids) != 0 {
		t.Errorf("pids of haproxy on a: got %v, %v, want none", pids, err)
	}
	if err := web.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := web.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := web.Stop(5 * time.Second); err == nil {
		t.Error("haproxy ended by SIGTERM: got exit status 0, want that of the signal")
	} else if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Errorf("stop: %v", err)
	}
	again := serve(t, l)
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(labtest.Deadline(t, time.Second)); err == nil {
		t.Error("killed process: got exit status 0")
	}
	unreachable(t, l)
}

func TestLogged(t *testing.T) {
	a := labtest.Start(t, pair()).Host("a")
	start := func(script string) *lab.Process {
		p, err := a.Start(t.Context(), lab.ProcessSpec{Name: "script", Args: []string{"bash", "-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ctx := labtest.Deadline(t, 10*time.Second)
	if err := start("echo one; read -r _ </dev/zero").Logged(ctx, "one"); err != nil {
		t.Error(err)
	}
	// The same log file: what an earlier process wrote does not count.
	if err := start("echo two >&2; exit 3").Logged(ctx, "one"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("process that ended without the text: got %v, want its exit status", err)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	l := labtest.Start(t, pair())
	a := l.Host("a")
	if _, err := a.Output(t.Context(), "bash", "-c", "setsid sleep 0.01 >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	until(t, "orphan to be reaped", func(ctx context.Context) error {
		out, err := a.Output(ctx, "bash", "-c", "ps -C sleep --no-header || true")
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("still there: %s", out)
		}
		return err
	})
}

func TestCloseEndsDaemons(t *testing.T) {
	l := labtest.Start(t, pair())
	b := l.Host("b")
	cfg := writeFile(t, b.Dir(), "daemon.cfg", "defaults\n  timeout client 1s\n  timeout connect 1s\n  timeout server 1s\nlisten l\n  mode tcp\n  bind *:81\n")
	if _, err := b.Output(t.Context(), "haproxy", "-W", "-D", "-f", cfg); err != nil {
		t.Fatal(err)
	}
	pids, err := b.Pids("haproxy")
	if err != nil || len(pids) != 2 {
		t.Fatalf("pids of master and worker: got %v, %v", pids, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d outlived its lab: %v", pid, err)
		}
	}
	if left := namespaces(t, l.Name); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
}

func namespaces(t *testing.T, lab string) []string {
	t.Helper()
	left, err := filepath.Glob("/run/netns/" + lab + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// ownerEnv makes the test binary a process that starts a lab, prints its name
// and waits to be killed.
const ownerEnv = "TANDEM_LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	l, err := lab.Start(ctx, lab.Spec{Hosts: pair().Hosts, Dir: os.Getenv(ownerEnv)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Name, l.Host("a").Netns())
	<-ctx.Done()
	cancel()
}

func TestSweepAfterOwnerIsKilled(t *testing.T) {
	if err := lab.Supported(t.Context()); err != nil {
		t.Skip(err)
	}
	owner := exec.CommandContext(t.Context(), os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"="+t.TempDir())
	owner.Stderr = os.Stderr
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var name, netns string
	if _, err := fmt.Fscan(stdout, &name, &netns); err != nil {
		t.Fatal(err)
	}
	if err := lab.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := namespaces(t, name); len(left) != 3 {
		t.Fatalf("sweep beside a living owner: got namespaces %v, want switch, a and b", left)
	}
	_ = owner.Process.Kill()
	_ = owner.Wait()
	until(t, "processes of the lab to end", func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "ip", "netns", "pids", netns).Output()
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("still there: %s", out)
		}
		return err
	})
	if err := lab.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := namespaces(t, name); len(left) > 0 {
		t.Errorf("namespaces left after sweep: %v", left)
	}
}

func TestSupportedSaysWhy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := lab.Supported(t.Context())
	if !errors.Is(err, lab.ErrUnsupported) {
		t.Fatalf("without programs: got %v, want ErrUnsupported", err)
	}
	if !strings.Contains(err.Error(), "install the package") && !strings.Contains(err.Error(), "root") {
		t.Errorf("error does not say what would allow it: %v", err)
	}
}

func TestUntil(t *testing.T) {
	if err := lab.Until(t.Context(), "anything", func(context.Context) error { return errors.New("no") }); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("without deadline: got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	cause := errors.New("not yet")
	if err := lab.Until(ctx, "a miracle", func(context.Context) error { return cause }); !errors.Is(err, cause) || !strings.Contains(err.Error(), "a miracle") {
		t.Errorf("condition that never holds: got %v", err)
	}
}
