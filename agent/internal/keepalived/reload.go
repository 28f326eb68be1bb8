package keepalived

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// reload has keepalived read its file again, and returns what answered does, which
// is to wait until keepalived has done so. keepalived closes its watches over the
// track files meanwhile, and the kernel lets whoever closes the last descriptor of
// such watches wait for a worker of its own: on a busy machine for longer than the
// peer waits for an advertisement. So the agent has the last one (decision 0020).
func (d *Driver) reload(ctx context.Context, c *control, answered func(context.Context, *control) error) error {
	held, err := holdWatches(c.process.PID())
	if err != nil {
		d.log.Warn("keepalived may be silent for a moment while it reloads", "error", err)
	}
	err = send(ctx, c.process, unix.SIGHUP)
	if err == nil {
		err = answered(ctx, c)
	}
	for _, fd := range held {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// watches is what the kernel calls a descriptor of inotify(7) in /proc.
const watches = "anon_inode:inotify"

// holdWatches returns descriptors of this process for the watches of a process and
// its children. It needs Linux 5.6, and CAP_SYS_PTRACE for a process that has
// capabilities which this one lacks; see ptrace(2), "Ptrace access mode checking".
// What it has got is returned beside the error.
func holdWatches(pid int) ([]int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var held []int
	failed := []error{err}
	for _, word := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		pid, err := strconv.Atoi(word)
		if err == nil {
			held, err = appendWatches(held, pid)
		}
		failed = append(failed, err)
	}
	return held, errors.Join(failed...)
}

// appendWatches appends those of one process.
func appendWatches(held []int, pid int) ([]int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return held, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	failed := []error{err}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || to != watches {
			continue // one that is closed by now is none to hold
		}
		number, err := strconv.Atoi(e.Name())
		if err == nil {
			var fd int
			if fd, err = unix.PidfdGetfd(process, number, 0); err == nil {
				held = append(held, fd)
			}
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("descriptor %s of process %d: %w", e.Name(), pid, err))
		}
	}
	return held, errors.Join(append(failed, unix.Close(process))...)
}
