package keepalived

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A keepalived that reloads closes its watches, and they live on while they are
// held. It does not notice: what it watches anew works.
func TestReloadClosesNoLastWatch(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	pids := a.keepalived()
	held, err := holdWatches(pids[0])
	if err != nil || len(held) != 1 {
		t.Fatalf("held are %v, %v; want the child's watches", held, err)
	}
	watched := func() bool {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", held[0]))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(info), "inotify wd:")
	}
	config := web("lb-master", 230)
	config.Instances[0].Addresses = []string{"10.9.0.101/24"}
	if !a.mustApply(config) {
		t.Fatal("no reload")
	}
	if !watched() {
		t.Error("what was watched before the reload is no longer watched: keepalived has waited for that")
	}
	if err := unix.Close(held[0]); err != nil {
		t.Error(err)
	}
	a.setHealth(false)
	waitMaster(t, 5*time.Second, "web", "10.9.0.100", b, a)
}

// The agent holds them in a reload, and no longer.
func TestReloadHoldsWatches(t *testing.T) {
	t.Parallel()
	namespace, _ := newPair(t)
	n := newNode(t, namespace, namespace)
	config := web("lb-master", 230)
	n.mustApply(config)
	// The agent is what ip has become.
	dir := fmt.Sprintf("/proc/%d/fd", n.command.Process.Pid)
	holds := func() bool {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			to, err := os.Readlink(filepath.Join(dir, e.Name()))
			return err == nil && to == watches
		})
	}
	if holds() {
		t.Error("the agent holds watches without a reload")
	}
	parent := n.keepalived()[0]
	if err := unix.Kill(parent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	config.Instances[0].Addresses = []string{"10.9.0.101/24"}
	applied := make(chan reply, 1)
	go func() { applied <- n.apply(config) }()
	within(t, 5*time.Second, "the agent to hold them while the reload is under way", holds)
	if err := unix.Kill(parent, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := <-applied; r.Error != "" || !r.Reloaded {
		t.Errorf("applied: %+v", r)
	}
	if holds() {
		t.Error("the agent holds them after the reload")
	}
}
