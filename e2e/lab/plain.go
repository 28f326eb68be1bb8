package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Plain returns a lab without namespaces, for where none can be made: each of
// its hosts is this machine, with a directory of its own. There is no switch,
// no cable to cut and no address to hold. The processes of a host are those
// that it started, with what they start, and daemons that name a file of its
// directory on their command line.
//
// The calling process is the reaper of daemons whose parent has ended until Close,
// so that it finds them. It waits for none of them, and the end of a namespace's
// process 1 does: it must not have a real lab meanwhile. The caller must call Close:
// unlike those of a real lab, daemons outlive an owner that dies without.
func Plain(names ...string) (*Lab, error) {
	if err := reapOrphans(true); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tandem-")
	if err != nil {
		return nil, err
	}
	// Daemons that give up their privileges find their files by path.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	l := &Lab{Name: filepath.Base(dir), Dir: dir, reaps: true}
	for _, name := range names {
		h := &Host{Name: name, machine: &machine{dir: filepath.Join(dir, name)}}
		if err := os.MkdirAll(h.RunDir(), 0o755); err != nil {
			return nil, err
		}
		l.hosts = append(l.hosts, h)
	}
	return l, nil
}

// reapOrphans makes this process the parent of orphans among its descendants, or
// none any more (prctl(2), PR_SET_CHILD_SUBREAPER).
func reapOrphans(reap bool) error {
	var on uintptr
	if reap {
		on = 1
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, on, 0, 0, 0); err != nil {
		return fmt.Errorf("be the reaper of orphans: %w", err)
	}
	return nil
}

// Plain tells whether the host is one of a Plain lab.
func (h *Host) Plain() bool { return h.machine.init == nil }

// RunDir returns a directory for sockets and the like, as programs in the host
// see it: /run, or one of its own if the host is Plain.
func (h *Host) RunDir() string {
	if h.Plain() {
		return filepath.Join(h.Dir(), "run")
	}
	return "/run"
}

// plainEnv marks what a Plain host starts. Daemons may begin with an
// environment of their own.
const plainEnv = "TANDEM_LAB_HOST="

// owns tells whether a process belongs to a Plain host.
func (h *Host) owns(proc string) bool {
	for file, mark := range map[string]string{"environ": plainEnv + h.Dir() + "\x00", "cmdline": h.Dir() + "/"} {
		text, err := os.ReadFile(filepath.Join(proc, file))
		if err == nil && bytes.Contains(text, []byte(mark)) {
			return descends(proc)
		}
	}
	return false
}

// descends tells whether a process descends from this one.
func descends(proc string) bool {
	self := strconv.Itoa(os.Getpid())
	for {
		fields := stat(proc)
		if len(fields) < 2 || string(fields[1]) == "0" {
			return false
		}
		parent := string(fields[1])
		if parent == self {
			return true
		}
		proc = filepath.Join("/proc", parent)
	}
}

// stop ends every process of the host.
func (h *Host) stop() error {
	if !h.Plain() {
		return h.machine.stop()
	}
	return h.killAll()
}

// killAll ends every process of a Plain host, also those that others started
// meanwhile.
func (h *Host) killAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Until(ctx, "processes of "+h.Name+" to end", func(context.Context) error {
		pids, err := h.Pids("")
		for _, pid := range pids {
			if e := syscall.Kill(pid, syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
				err = errors.Join(err, fmt.Errorf("kill %d: %w", pid, e))
			}
		}
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("still running: %v", pids)
		}
		return err
	})
}
