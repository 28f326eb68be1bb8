package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// PowerCut ends the host as a power cut does, but for its process 1: its port
// goes down, every process is killed, and what the kernel and /run held is gone.
// Files elsewhere stay.
func (h *Host) PowerCut(ctx context.Context) error {
	if err := h.Cut(ctx); err != nil {
		return err
	}
	if err := h.killEverything(ctx); err != nil {
		return err
	}
	return errors.Join(
		h.removeDevices(ctx),
		h.machine.ip(ctx, "link", "set", "dev", "eth0", "down"),
		h.machine.ip(ctx, "address", "flush", "dev", "eth0"),
		h.nft(ctx, "flush ruleset\n"),
		empty(h.Path("/run")),
	)
}

// removeDevices removes those that programs have put on top of eth0.
func (h *Host) removeDevices(ctx context.Context) error {
	out, err := output(ctx, "ip", "-n", h.machine.netns, "-brief", "link", "show", "type", "macvlan")
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, "@")
		err = errors.Join(err, h.machine.ip(ctx, "link", "delete", "dev", name))
	}
	return err
}

// PowerBack gives the host its network again. Nothing runs on it yet.
func (h *Host) PowerBack(ctx context.Context) error {
	return errors.Join(
		h.machine.ip(ctx, "address", "add", h.Address.String(), "dev", "eth0"),
		h.machine.ip(ctx, "link", "set", "dev", "eth0", "up"),
		h.Plug(ctx),
	)
}

// killEverything kills until nothing is left: what is killed may just have
// started something.
func (h *Host) killEverything(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return Until(ctx, "every process of "+h.Name+" to be gone", func(context.Context) error {
		pids, err := h.Pids("")
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range pids {
			if pid == h.pid() {
				continue
			}
			left++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if left > 0 {
			return fmt.Errorf("%d were there", left)
		}
		return nil
	})
}

// empty removes what is in a directory.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
