package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// debian is a whole Debian on a host: systemd as process 1 in namespaces of its
// own inside the host's, which stay what they are, like a machine's hardware,
// while it is switched off and on. It ends with the host.
type debian struct {
	host    *Host
	console *Process // systemd-nspawn; nil: never switched on
	pid     int      // of its process 1, as seen from outside; 0: it is off
}

// diskScript mounts the host's disk: what is written over the image is the
// host's own. Arguments: image, then the directory of the disk.
const diskScript = `
mkdir -p "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
`

// powerScript switches a Debian on. Two of them in one control group would end
// each other's processes. What a machine may and nspawn's containers may not is
// allowed where the agent needs it. Arguments: host name, directory of the disk, then the
// control groups to go into.
const powerScript = `
set -e
name=$1 disk=$2
shift 2
for group in "$@"; do
	mkdir -p "$group"
	echo 0 >"$group/cgroup.procs"
done
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network # as sysctl files are for it
exec systemd-nspawn --quiet --directory="$disk/root" --boot --hostname="$name" \
	--network-namespace-path=/proc/1/ns/net --capability=CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_BPF \
	--system-call-filter="pidfd_getfd bpf" \
	--register=no --keep-unit \
	--resolv-conf=off --timezone=off --link-journal=no
`

// disk is where a Debian's own files are kept, outside.
func (h *Host) disk() string { return filepath.Join(h.Dir(), "disk") }

// Install gives the host a disk with the system of an image, such as that of
// DebianImage. It is off until Boot.
func (h *Host) Install(ctx context.Context, image string) error {
	if err := h.run(ctx, "sh", "-ec", diskScript, "disk", image, h.disk()); err != nil {
		return err
	}
	h.system = &debian{host: h}
	return nil
}

// OnDisk returns where a file of an installed host is outside, whether it is on
// or off. What is on a tmpfs in it, such as /run, is not there.
func (h *Host) OnDisk(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(h.machine.pid()), "root", h.disk(), "root", inside)
}

// bootTimeout bounds Boot; a machine takes about a second.
const bootTimeout = 60 * time.Second

// Boot switches an installed host on and returns when its multi-user.target is
// reached. From then on until it is off, commands run in it.
func (h *Host) Boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	d := h.system
	args := append([]string{"bash", "-c", powerScript, "power", h.Name, h.disk()}, h.machine.cgroups()...)
	var err error
	if d.console, err = h.Start(ctx, ProcessSpec{Name: "console", Args: args}); err != nil {
		return err
	}
	return Until(ctx, h.Name+" to boot", func(ctx context.Context) error {
		if d.console.ended() {
			cancel()
			return fmt.Errorf("it has ended: %w: %s", d.console.err, d.console.Tail(10))
		}
		if d.pid == 0 {
			pid, err := initOf(d.console.pid)
			if err != nil {
				return err
			}
			d.pid = pid
		}
		return h.run(ctx, "systemctl", "is-active", "multi-user.target")
	})
}

// initOf returns process 1 of the system that a systemd-nspawn has started.
func initOf(nspawn int) (int, error) {
	pid, err := childOf(nspawn)
	if err != nil {
		return 0, err
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err == nil && strings.TrimSpace(string(name)) != "systemd" {
		err = fmt.Errorf("process %d is %q, not systemd yet", pid, name)
	}
	return pid, err
}

// PowerOff shuts the system of the host down, as "systemctl poweroff" does.
func (h *Host) PowerOff(ctx context.Context) error {
	if err := h.run(ctx, "systemctl", "poweroff", "--no-block"); err != nil {
		return err
	}
	return h.off(ctx)
}

// PullPlug ends every process of the system at once: with its process 1 the kernel
// ends all others.
func (h *Host) PullPlug(ctx context.Context) error {
	if err := syscall.Kill(h.system.pid, syscall.SIGKILL); err != nil {
		return err
	}
	return h.off(ctx)
}

// off waits until the system is off.
func (h *Host) off(ctx context.Context) error {
	d := h.system
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := d.console.Wait(ctx); ctx.Err() != nil {
		return fmt.Errorf("%s is not off: %w", h.Name, err)
	}
	d.pid = 0
	return nil
}

// pid of the process whose namespaces commands of the host run in.
func (h *Host) pid() int {
	if h.system != nil && h.system.pid != 0 {
		return h.system.pid
	}
	return h.machine.pid()
}

// cgroups are control groups for a system on the machine alone: where this
// process is, one in each hierarchy that systemd uses.
func (m *machine) cgroups() []string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var groups []string
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var roots []string
		switch fields[1] {
		case "name=systemd":
			roots = []string{"/sys/fs/cgroup/systemd"}
		case "":
			roots = []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}
		}
		i := slices.IndexFunc(roots, func(root string) bool {
			_, err := os.Stat(filepath.Join(root, "cgroup.procs"))
			return err == nil
		})
		if i >= 0 {
			groups = append(groups, filepath.Join(roots[i], m.netns))
		}
	}
	return groups
}

// removeCgroups removes the control groups of machines whose names begin like
// this, and what is left below them. They are empty, as their processes are
// gone.
func removeCgroups(prefix string) error {
	var failed []error
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		groups, err := filepath.Glob(filepath.Join(root, prefix+"*"))
		if err != nil {
			return err
		}
		for _, group := range groups {
			failed = append(failed, removeCgroup(group))
		}
	}
	return errors.Join(failed...)
}

// removeCgroup removes a control group, the innermost first.
func removeCgroup(group string) error {
	var dirs []string
	err := filepath.WalkDir(group, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(dir))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
