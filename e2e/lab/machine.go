package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// initScript is process 1 of a machine: a shell, because it reaps orphans and
// needs no binary of ours. It ends when its standard input does, that is when
// the owner closes it or dies, and the kernel then kills every other process
// of the machine. Arguments: host name, then pairs of source and target to
// mount.
const initScript = `
set -e
mount --make-rprivate /
mount -t proc proc /proc
echo "$1" >/proc/sys/kernel/hostname
shift
while [ $# -gt 0 ]; do
	mount --bind "$1" "$2"
	shift 2
done
ip link set lo up
echo ready
while read -r _; do :; done
`

// machine is one set of namespaces and its process 1.
type machine struct {
	netns string // name of the network namespace
	dir   string // logs and private directories, outside
	init  *exec.Cmd
	stdin io.Closer
	named bool // netns has a name that stop must remove
}

// startMachine starts a machine whose private directories begin empty.
func startMachine(ctx context.Context, lab, name, dir string, private []string) (*machine, error) {
	m := &machine{netns: lab + "-" + name, dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	args := []string{"-c", initScript, "init", name}
	for _, target := range private {
		source := m.path(target)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, err
		}
		args = append(args, source, target)
	}
	// The context bounds the start, not the life of the machine.
	m.init = exec.Command("bash", args...)
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // Ctrl-C is the owner's to handle
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
	}
	if err := m.boot(ctx); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	return m, nil
}

// boot starts process 1, waits until it is ready and names the network
// namespace.
func (m *machine) boot(ctx context.Context) error {
	stdin, err := m.init.StdinPipe()
	if err != nil {
		return err
	}
	m.stdin = stdin
	stdout, err := m.init.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	m.init.Stderr = &stderr
	if err := m.init.Start(); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = m.init.Process.Kill() })
	defer stop()
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		_ = m.init.Wait()
		return fmt.Errorf("process 1 ended before it was ready: %s", bytes.TrimSpace(stderr.Bytes()))
	}
	if _, err := output(ctx, "ip", "netns", "attach", m.netns, strconv.Itoa(m.pid())); err != nil {
		return err
	}
	m.named = true
	return nil
}

// stop ends every process of the machine and removes the namespace's name. Its
// context is its own: a lab is taken down also after its caller was cancelled.
func (m *machine) stop() error {
	if m.stdin != nil {
		_ = m.stdin.Close()
	}
	if m.init.Process != nil && m.init.ProcessState == nil {
		_ = m.init.Process.Kill()
		_ = m.init.Wait() // "signal: killed" is what was asked for
	}
	if !m.named {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := output(ctx, "ip", "netns", "delete", m.netns); err != nil {
		return err
	}
	m.named = false
	return nil
}

func (m *machine) pid() int { return m.init.Process.Pid }

// path returns where a file of a private directory is outside.
func (m *machine) path(inside string) string { return filepath.Join(m.dir, "root", inside) }

// ip runs iproute2 on the machine's network namespace.
func (m *machine) ip(ctx context.Context, args ...string) error {
	_, err := output(ctx, "ip", append([]string{"-n", m.netns}, args...)...)
	return err
}

// output runs a command of the host system and returns its standard output. The
// error carries what the command said.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return capture(exec.CommandContext(ctx, name, args...))
}

func capture(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return out, fmt.Errorf("%s: %w: %s", cmd.String(), err, bytes.TrimSpace(exit.Stderr))
	}
	return out, fmt.Errorf("%s: %w", cmd.String(), err)
}
