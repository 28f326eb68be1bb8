package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Host is one machine of a lab.
type Host struct {
	// Name is the host name and the name of its port on the switch.
	Name string
	// Address is eth0's own address.
	Address netip.Prefix

	machine   *machine
	system    *debian // nil: a shell that only waits
	sw        *machine
	processes sync.WaitGroup // one goroutine a started process, until its end
}

// Netns returns the name of the host's network namespace, for people who want
// to look inside with "ip netns exec".
func (h *Host) Netns() string { return h.machine.netns }

// Dir returns the directory, outside, of the host's log files. Programs inside
// the host see it under the same path.
func (h *Host) Dir() string { return h.machine.dir }

// Path returns where a file of one of the host's private directories is
// outside.
func (h *Host) Path(inside string) string {
	if h.Plain() {
		return inside
	}
	return h.machine.path(inside)
}

// Command returns a short-lived command that will run in the host. If the
// context ends first, the command and what it started in its process group are
// killed.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := h.argv(name, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// Output runs a command in the host and returns its standard output. The error
// carries its standard error.
func (h *Host) Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := capture(h.Command(ctx, name, args...))
	if err != nil {
		return out, fmt.Errorf("on %s: %w", h.Name, err)
	}
	return out, nil
}

func (h *Host) run(ctx context.Context, name string, args ...string) error {
	_, err := h.Output(ctx, name, args...)
	return err
}

// argv returns the command line, outside, of a command in the host.
func (h *Host) argv(name string, args []string) []string {
	return append(append(h.Enter(), name), args...)
}

// Enter returns what goes before a command line to run it in the host, for
// people who want to look inside. It is empty if the host is Plain.
func (h *Host) Enter() []string {
	if h.Plain() {
		return nil
	}
	return []string{"nsenter", "--target", strconv.Itoa(h.pid()), "--mount", "--uts", "--net", "--pid", "--"}
}

// Addresses returns what the host's interfaces hold now, VIPs included, eth0's first.
func (h *Host) Addresses(ctx context.Context) ([]netip.Prefix, error) {
	out, err := output(ctx, "ip", "-n", h.machine.netns, "-j", "address", "show")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Name     string `json:"ifname"`
		AddrInfo []struct {
			Local     netip.Addr `json:"local"`
			PrefixLen int        `json:"prefixlen"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", h.Name, err)
	}
	var held []netip.Prefix
	for _, link := range links {
		if link.Name == "lo" {
			continue
		}
		for _, a := range link.AddrInfo {
			held = append(held, netip.PrefixFrom(a.Local, a.PrefixLen))
		}
	}
	return held, nil
}

// Holders returns the names of the hosts that hold an address now.
func (l *Lab) Holders(ctx context.Context, addr netip.Addr) ([]string, error) {
	var names []string
	for _, h := range l.hosts {
		held, err := h.Addresses(ctx)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(held, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			names = append(names, h.Name)
		}
	}
	return names, nil
}

// Pids returns the processes of the host with that command name, or all if it
// is empty, as seen from outside, oldest first; for daemons that another
// process of the host started. Zombies are left out.
func (h *Host) Pids(command string) ([]int, error) {
	owns, err := h.ownership()
	if err != nil {
		return nil, err
	}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	started := map[int]uint64{}
	for _, dir := range entries {
		// A process may end between any two reads: then it is not one of ours.
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || command != "" && strings.TrimSpace(string(comm)) != command || !owns(dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && !zombie(dir) {
			started[pid] = startTime(dir)
		}
	}
	// Numbers begin anew at the kernel's pid_max; those of one clock tick are in
	// order all but then.
	return slices.SortedFunc(maps.Keys(started), func(a, b int) int {
		return cmp.Or(cmp.Compare(started[a], started[b]), cmp.Compare(a, b))
	}), nil
}

// ownership returns what tells whether the process of a directory in /proc
// belongs to the host.
func (h *Host) ownership() (func(proc string) bool, error) {
	if h.Plain() {
		return h.owns, nil
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.pid()))
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return func(proc string) bool {
		own, err := os.Readlink(filepath.Join(proc, "ns/pid"))
		return err == nil && own == ns
	}, nil
}

// SignalAll sends a signal to every process of the host with that command name
// and returns their ids. It fails if there is none. One that ends by itself
// meanwhile, as HAProxy's old workers do, is no failure.
func (h *Host) SignalAll(command string, sig syscall.Signal) ([]int, error) {
	pids, err := h.Pids(command)
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("host %s runs no process named %s", h.Name, command)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return nil, fmt.Errorf("host %s: signal %s (%d): %w", h.Name, command, pid, err)
		}
	}
	return pids, nil
}

// KillAll kills every process of the host with that command name and waits
// until they are gone. Something may have started new ones by then.
func (h *Host) KillAll(ctx context.Context, command string) error {
	killed, err := h.SignalAll(command, syscall.SIGKILL)
	if err != nil {
		return err
	}
	return Until(ctx, "killed "+command+" on "+h.Name+" to be gone", func(context.Context) error {
		left, err := h.Pids(command)
		if err == nil && slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(killed, pid) }) {
			err = fmt.Errorf("still there: %v of %v", left, killed)
		}
		return err
	})
}
