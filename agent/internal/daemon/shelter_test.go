package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRealTimePriorityIsInherited(t *testing.T) {
	spec := script(t.TempDir(), `sleep 1000 & echo $!; wait`)
	spec.RealTime = 50
	p := startForTest(t, spec)
	eventually(t, "a child", func() bool { return p.Tail() != "" })
	var child int
	if _, err := fmt.Sscan(p.Tail(), &child); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(child, unix.SIGKILL) }()
	if err := setRealTime(p.PID(), 50); err != nil {
		t.Skipf("real-time priority is not permitted here: %v", err)
	}
	for _, pid := range []int{p.PID(), child} {
		attr, err := unix.SchedGetAttr(pid, 0)
		if err != nil || attr.Policy != unix.SCHED_RR || attr.Priority != 50 {
			t.Errorf("process %d has %+v, %v", pid, attr, err)
		}
	}
}

func TestCgroup(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
		t.Skipf("cannot mount cgroup2 here: %v", err)
	}
	old := cgroupRoot
	t.Cleanup(func() {
		cgroupRoot = old
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cgroupRoot = root
	p := startForTest(t, sleeper(t.TempDir()))
	if p.cgroup == "" {
		t.Fatal("no cgroup of its own")
	}
	got, err := os.ReadFile(filepath.Join(p.cgroup, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(p.PID()) {
		t.Errorf("cgroup holds %q, %v; want process %d", got, err, p.PID())
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup is left behind: %v", err)
	}
}

// A plain directory in place of cgroup v2 gets nothing written.
func TestWithoutCgroup(t *testing.T) {
	old := cgroupRoot
	t.Cleanup(func() { cgroupRoot = old })
	cgroupRoot = t.TempDir()
	p := startForTest(t, sleeper(t.TempDir()))
	if entries, err := os.ReadDir(cgroupRoot); p.cgroup != "" || err != nil || len(entries) != 0 {
		t.Errorf("cgroup %q, entries %v, %v", p.cgroup, entries, err)
	}
}
