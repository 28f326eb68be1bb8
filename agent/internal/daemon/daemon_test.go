package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/slack"
)

// agentDir in the environment makes the test binary play an agent that starts
// one daemon in that directory and waits to be killed.
const agentDir = "TANDEM_TEST_AGENT_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(agentDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := Start(context.Background(), sleeper(dir)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func sleeper(dir string) Spec { return script(dir, `echo up; exec sleep 1000`) }

func script(dir, text string) Spec {
	return Spec{
		Name:    "test",
		Path:    "/bin/sh",
		Args:    []string{"-c", text},
		PIDFile: filepath.Join(dir, "pid"),
		LogFile: filepath.Join(dir, "log"),
	}
}

// start starts the daemon and kills it when the test ends.
func startForTest(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Signal(unix.SIGKILL); err == nil {
			waitDone(t, p)
		}
	})
	return p
}

func waitDone(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("Done was not closed")
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come true", what)
		}
	}
}

func TestExitIsSeenReapedAndPutInWords(t *testing.T) {
	for _, test := range []struct{ script, exit, tail string }{
		{`echo one; echo two >&2; exit 3`, "exited with status 3", "one\ntwo"},
		{`kill -SEGV $$`, "killed by SIGSEGV", ""},
		{`kill -36 $$`, "killed by signal 36", ""},
		{`seq 100; exit 0`, "exited with status 0", strings.TrimSpace(numbers(81, 100))},
		{`echo "$HOME:$SECRET:$MINE"`, "exited with status 0", "::yes"},
		{`read -r line || echo no input`, "exited with status 0", "no input"},
	} {
		t.Run(test.script, func(t *testing.T) {
			t.Setenv("SECRET", "of the agent")
			spec := script(t.TempDir(), test.script)
			spec.Env = []string{"MINE=yes"}
			if err := os.WriteFile(spec.LogFile, []byte("an earlier run\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := startForTest(t, spec)
			waitDone(t, p)
			if p.Exit() != test.exit {
				t.Errorf("exit %q, want %q", p.Exit(), test.exit)
			}
			if got := p.Tail(); got != test.tail {
				t.Errorf("tail %q, want %q", got, test.tail)
			}
			if err := unix.Kill(p.PID(), 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("process %d is still there (%v): not reaped", p.PID(), err)
			}
			if err := p.Signal(unix.SIGHUP); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("signal after the end: %v", err)
			}
			if _, err := Adopt(spec); !errors.Is(err, ErrNotRunning) {
				t.Errorf("adopt after the end: %v", err)
			}
		})
	}
}

// A daemon's timers are exact, whatever this process is content with.
func TestADaemonIsPunctual(t *testing.T) {
	if err := slack.Relax(); err != nil && !errors.Is(err, unix.ENOTSUP) { // under the race detector
		t.Fatal(err)
	}
	p := startForTest(t, script(t.TempDir(), `cat /proc/self/timerslack_ns`))
	waitDone(t, p)
	if got := p.Tail(); got != "50000" {
		t.Errorf("a timer slack of %s ns, want 50000", got)
	}
}

func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	running := startForTest(t, sleeper(dir))
	if _, err := Start(t.Context(), sleeper(dir)); err == nil {
		t.Error("started beside a running one")
	}
	select {
	case <-running.Done():
		t.Error("the running one ended")
	default:
	}

	missing := sleeper(t.TempDir())
	missing.Path = "/no/such/daemon"
	if _, err := Start(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ended, sleeper(t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	garbage := sleeper(t.TempDir())
	if err := os.WriteFile(garbage.PIDFile, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), garbage); err == nil {
		t.Error("started although the identity file is garbage")
	}
}

func TestStartTimeIsNow(t *testing.T) {
	before := time.Now()
	p := startForTest(t, sleeper(t.TempDir()))
	if off := p.StartTime().Sub(before); off < -50*time.Millisecond || off > 5*time.Second {
		t.Errorf("start time is off by %v", off)
	}
}

func TestDaemonIsInItsOwnSession(t *testing.T) {
	p := startForTest(t, sleeper(t.TempDir()))
	session, err := unix.Getsid(p.PID())
	if err != nil || session != p.PID() {
		t.Errorf("session %d, %v; want its own, %d", session, err, p.PID())
	}
}

func TestCloseLeavesTheDaemon(t *testing.T) {
	spec := sleeper(t.TempDir())
	first := startForTest(t, spec)
	first.Close()
	if err := first.Signal(unix.SIGHUP); !errors.Is(err, os.ErrClosed) {
		t.Errorf("signal after Close: %v", err)
	}
	second, err := Adopt(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	waitDone(t, second)
	if second.Exit() != "killed by SIGTERM" {
		t.Errorf("exit %q", second.Exit())
	}
	select {
	case <-first.Done():
		t.Error("Done of the closed one is closed")
	default:
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	p := startForTest(t, script(t.TempDir(), `trap "" TERM; echo ready; while :; do sleep 0.01; done`))
	eventually(t, "ready", func() bool { return p.Tail() == "ready" })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if p.Exit() != "killed by SIGKILL" {
		t.Errorf("exit %q", p.Exit())
	}
}

// The agent is another process here and is killed without warning.
func TestDaemonOutlivesTheAgentAndIsAdopted(t *testing.T) {
	dir := t.TempDir()
	agent := exec.Command(os.Args[0])
	agent.Env = append(os.Environ(), agentDir+"="+dir)
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := output.Read(line)
	// The whole process group, as a terminal or a supervisor does it.
	if err := unix.Kill(-agent.Process.Pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = agent.Wait()
	if string(line[:n]) != "started\n" {
		t.Fatalf("agent said %q", line[:n])
	}

	p, err := Adopt(sleeper(dir))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "output", func() bool { return p.Tail() == "up" })
	if parent := parentOf(t, p.PID()); parent == os.Getpid() {
		t.Fatal("the daemon is a child of the test, so this tests nothing")
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	waitDone(t, p)
	if p.Exit() != "ended" {
		t.Errorf("exit %q", p.Exit())
	}
	if _, err := Adopt(sleeper(dir)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("adopt after the end: %v", err)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	parent := 0
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			if _, err := fmt.Sscan(value, &parent); err != nil {
				t.Fatal(err)
			}
		}
	}
	return parent
}

// A process id that now belongs to someone else is neither adopted nor
// signalled.
func TestRecycledProcessIDIsNotAdopted(t *testing.T) {
	stranger := startForTest(t, sleeper(t.TempDir()))
	who := stranger.identity
	for name, change := range map[string]func(*identity){
		"started at another time": func(i *identity) { i.start-- },
		"of an earlier boot":      func(i *identity) { i.boot = "00000000-0000-0000-0000-000000000000" },
	} {
		t.Run(name, func(t *testing.T) {
			spec := sleeper(t.TempDir())
			recorded := who
			change(&recorded)
			if err := writeIdentity(spec.PIDFile, recorded); err != nil {
				t.Fatal(err)
			}
			if _, err := Adopt(spec); !errors.Is(err, ErrNotRunning) {
				t.Errorf("adopt: %v", err)
			}
			own := startForTest(t, spec)
			if own.PID() == stranger.PID() {
				t.Error("took the stranger for its own")
			}
		})
	}
	if err := stranger.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was harmed: %v", err)
	}
}

// The agent dies between the start of the process and the record of its
// identity: the process must not become a daemon that nobody knows.
func TestGateHoldsUntilTheIdentityIsKnown(t *testing.T) {
	dir := t.TempDir()
	spec := script(dir, `echo ran`)
	spec.PIDFile = filepath.Join(dir, "missing", "pid")
	if _, err := start(spec); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("start: %v", err)
	}
	if log, err := os.ReadFile(spec.LogFile); err != nil || len(log) != 0 {
		t.Errorf("the daemon ran: %q, %v", log, err)
	}
}

func TestStartTime(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for stat, want := range map[string]uint64{
		"7 (sleep)" + tail:         4242,
		"7 (a) b) S 1 (c))" + tail: 4242,
		"7 (sleep) S 1":            0,
		"":                         0,
	} {
		got, err := startTime(stat)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("startTime(%q) = %d, %v; want %d", stat, got, err, want)
		}
	}
}

// KillAll ends the children too, also those that are stopped.
func TestKillAll(t *testing.T) {
	dir := t.TempDir()
	p := startForTest(t, script(dir, `sleep 1000 & echo $! >`+dir+`/child; kill -STOP $!; wait; exec sleep 1000`))
	var child int
	eventually(t, "the child is stopped", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "child"))
		if err != nil {
			return false
		}
		if _, err := fmt.Sscan(string(text), &child); err != nil {
			return false
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	if err := p.KillAll(); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	eventually(t, "the child has ended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if err := p.KillAll(); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
