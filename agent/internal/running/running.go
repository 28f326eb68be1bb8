// Package running finds the daemons of this machine that somebody else has
// started, and the file that each of them reads.
package running

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Daemon is a running daemon: the process that was started, not its children.
type Daemon struct {
	// PID of the process.
	PID int
	// Program is the path of its program.
	Program string
	// Args is its command line, the program's name first.
	Args []string
	// Dir is its working directory.
	Dir string
	// File is the configuration file that it reads, absolute.
	File string
	// Unit is the systemd service that it belongs to; empty: none.
	Unit string
}

// proc is where the kernel tells about processes.
const proc = "/proc"

// HAProxies finds every HAProxy in this network namespace, the oldest first.
func HAProxies() ([]Daemon, error) { return find(proc, "haproxy", haproxyFile) }

// Keepaliveds finds every keepalived in this network namespace, the oldest
// first.
func Keepaliveds() ([]Daemon, error) { return find(proc, "keepalived", keepalivedFile) }

// find looks through all processes. One that ends meanwhile is left out; one that has
// only begun is waited for, for settling at most.
func find(root, name string, file func(args []string) (string, error)) ([]Daemon, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	here, err := os.Readlink(filepath.Join(root, "self", "ns", "net"))
	if err != nil {
		return nil, err
	}
	var found []Daemon
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		d, err := settled(func() (*Daemon, error) { return look(root, pid, name, here, file) })
		if hidden(err) || errors.Is(err, errNoDaemon) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s (process %d): %w", name, pid, err)
		}
		found = append(found, *d)
	}
	return found, nil
}

const (
	// settling is how long a process may be without a command line. It takes the kernel
	// microseconds, and longer where all processors are busy.
	settling = time.Second
	// settlingTick is how often it is looked at meanwhile.
	settlingTick = time.Millisecond
)

// errNameless tells that a process has no command line: it has the new program and not
// yet its arguments, or has given its memory back and is about to be gone. What it does
// cannot be told from that.
var errNameless = errors.New("has no command line, neither starts nor ends: look what it does, or stop it")

// settled looks at a process until it has a command line or is none any more, for
// settling at most.
func settled(look func() (*Daemon, error)) (d *Daemon, err error) {
	tick := time.NewTicker(settlingTick)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		d, err = look()
		if !errors.Is(err, errNameless) || time.Since(began) >= settling {
			return d, err
		}
	}
}

// look describes a process. The error is errNoDaemon when it is not the first of that
// name, or another one's.
func look(root string, pid int, name, namespace string, file func(args []string) (string, error)) (*Daemon, error) {
	dir := filepath.Join(root, strconv.Itoa(pid))
	first, err := isFirst(root, dir, name, namespace)
	if err != nil {
		return nil, err
	}
	if !first {
		return nil, errNoDaemon
	}
	return describe(dir, pid, file)
}

// isFirst tells whether a process has that name, is in the network namespace,
// and was not started by another one of that name.
func isFirst(root, dir, name, namespace string) (bool, error) {
	if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err != nil || strings.TrimSpace(string(comm)) != name {
		return false, err
	}
	if where, err := os.Readlink(filepath.Join(dir, "ns", "net")); err != nil || where != namespace {
		return false, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false, err
	}
	// The name in parentheses may hold anything; state and parent follow.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return false, fmt.Errorf("%s: %q is not what the kernel writes", filepath.Join(dir, "stat"), stat)
	}
	if fields[0] == "Z" {
		return false, nil
	}
	parent, err := os.ReadFile(filepath.Join(root, fields[1], "comm"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return strings.TrimSpace(string(parent)) != name, err
}

// hidden tells whether a process has ended meanwhile, or is none of this user's
// business. Root that may not look (without CAP_SYS_PTRACE) must not take it for
// nothing.
func hidden(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 || errors.Is(err, syscall.ESRCH)
}

func describe(dir string, pid int, file func(args []string) (string, error)) (*Daemon, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return nil, err
	}
	if len(bytes.Trim(raw, "\x00")) == 0 {
		return nil, errNameless
	}
	d := &Daemon{PID: pid, Args: strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")}
	if d.File, err = file(d.Args); err != nil {
		return nil, err
	}
	if d.Dir, err = os.Readlink(filepath.Join(dir, "cwd")); err != nil {
		return nil, err
	}
	if d.Program, err = os.Readlink(filepath.Join(dir, "exe")); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(d.File) {
		d.File = filepath.Join(d.Dir, d.File)
	}
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return nil, err
	}
	d.Unit = unitOf(string(cgroup))
	return d, nil
}

// unitOf finds the service in a line such as "0::/system.slice/x.service".
func unitOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if strings.HasSuffix(part, ".service") && !strings.HasPrefix(part, "user@") {
				return part
			}
		}
	}
	return ""
}

// errNoDaemon tells that a process is not one that is looked for, or only answers a
// question, such as for the version, and ends.
var errNoDaemon = errors.New("is no daemon")

// asks tells whether a program is asked something, and does not serve.
func asks(args []string, questions ...string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return slices.Contains(questions, name)
	})
}

// haproxyFile finds the file in HAProxy's command line (manual: management
// guide, 3).
func haproxyFile(args []string) (string, error) {
	if asks(args, "-c", "-v", "-vv", "-h") {
		return "", errNoDaemon
	}
	var files []string
	dir := ""
	for n := 1; n < len(args); n++ {
		switch args[n] {
		case "-f":
			if n++; n < len(args) {
				files = append(files, args[n])
			}
		case "-C":
			if n++; n < len(args) {
				dir = args[n]
			}
		case "--":
			files = append(files, args[n+1:]...)
			n = len(args)
		}
	}
	if len(files) != 1 {
		return "", fmt.Errorf("reads %d configuration files: Tandem takes over one that reads a single file", len(files))
	}
	if filepath.IsAbs(files[0]) {
		return files[0], nil
	}
	return filepath.Join(dir, files[0]), nil
}

// keepalivedFile finds the file in keepalived's command line, or the one that
// it reads without being told.
func keepalivedFile(args []string) (string, error) {
	if asks(args, "-t", "--config-test", "-v", "--version", "--signum", "-h", "--help") {
		return "", errNoDaemon
	}
	file := "/etc/keepalived/keepalived.conf"
	for n := 1; n < len(args); n++ {
		switch arg := args[n]; {
		case (arg == "-f" || arg == "--use-file") && n+1 < len(args):
			n++
			file = args[n]
		case strings.HasPrefix(arg, "--use-file="):
			file = strings.TrimPrefix(arg, "--use-file=")
		case strings.HasPrefix(arg, "-f") && len(arg) > 2:
			file = arg[2:]
		}
	}
	return file, nil
}

// OwnUnit is the systemd service that this process belongs to; empty: none.
func OwnUnit() (string, error) {
	cgroup, err := os.ReadFile(filepath.Join(proc, "self", "cgroup"))
	return unitOf(string(cgroup)), err
}
