package lab_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// A daemon is told apart from its like on another plain host by the files that
// it names, and Close ends it though its parent has ended before.
func TestPlainHostsOwnTheirDaemons(t *testing.T) {
	l, err := lab.Plain("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(l.Dir)
	defer l.Close()
	daemons := map[string][]int{}
	for _, h := range l.Hosts() {
		// The pipe makes the daemon hold nothing of its parent's.
		script := `setsid sh -c ': >"$0.up"; read -r line <&3' "$1" 3<>"$1" </dev/null >/dev/null 2>&1 &`
		fifo := h.RunDir() + "/daemon"
		p, err := h.Start(t.Context(), lab.ProcessSpec{
			Name: "parent",
			Args: []string{"sh", "-c", `mkfifo "$1" && ` + script, "parent", fifo},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(labtest.Deadline(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		until(t, "the daemon on "+h.Name, func(context.Context) error {
			pids, err := h.Pids("sh")
			if err == nil && len(pids) != 1 {
				err = errors.New("not there")
			}
			if err == nil {
				_, err = os.Stat(fifo + ".up") // before, it is the shell that is to become it
			}
			daemons[h.Name] = pids
			return err
		})
	}
	if cmp.Equal(daemons["a"], daemons["b"]) {
		t.Errorf("hosts share a daemon: %v", daemons)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts() {
		if pids, err := h.Pids(""); err != nil || len(pids) > 0 {
			t.Errorf("after Close %s runs %v, %v", h.Name, pids, err)
		}
	}
}

// Zombies of a real lab would come to this process, which waits for none of them,
// and the end of that lab for all.
func TestPlainLabIsReaperUntilClose(t *testing.T) {
	l, err := lab.Plain("a")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(l.Dir)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var reaper int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&reaper)), 0, 0, 0); err != nil || reaper != 0 {
		t.Errorf("still the reaper of orphans: %d, %v", reaper, err)
	}
}
