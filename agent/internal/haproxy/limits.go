package haproxy

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

const (
	// filesPerConnection: one to the client, one to the server.
	filesPerConnection = 2
	// filesPerThread: one for polling and two to be woken by (HAProxy 2.6,
	// compute_ideal_maxsock in haproxy.c).
	filesPerThread = 3
	// filesBeside is for sockets of its own, logs and what libraries open.
	filesBeside = 90 + config.StatsSessions
)

// checkFiles checks that the process, or one that the agent starts, may open as
// many files as the file's maxconn takes. HAProxy's checker does not look, and a
// worker that cannot have them does not start. The error is a *FailedError.
func (d *Driver) checkFiles(file *config.File) error {
	pid := os.Getpid()
	if d.process != nil {
		pid = d.process.PID()
	}
	most, err := maxFiles(pid)
	if err != nil {
		return &FailedError{What: "cannot tell how many files it may open", Err: err}
	}
	threads, err := processors(pid)
	if err != nil {
		return &FailedError{What: "cannot tell how many threads it will have", Err: err}
	}
	beside := filesBeside + filesPerThread*threads + len(file.Servers)
	for _, b := range file.Binds {
		beside += 2 * (int(b.Last) - int(b.First) + 1) // perhaps in both families
	}
	need := beside + filesPerConnection*file.MaxConnections
	if uint64(need) <= most {
		return nil
	}
	return &FailedError{What: fmt.Sprintf("maxconn %d takes %d open files, and haproxy may have %d on this node: "+
		"set max_connections to %d at most, or raise its limit (LimitNOFILE= of haproxy.service, then systemctl restart haproxy)",
		file.MaxConnections, need, most, max(0, int(most)-beside)/filesPerConnection)}
}

// checkProcess makes sure of what a new process needs and HAProxy's checker does
// not look at. A worker that cannot change its root directory ends, and its
// master with it. The error is a *FailedError.
func (d *Driver) checkProcess(file *config.File) error {
	if err := os.MkdirAll(d.paths.jail, 0o755); err != nil {
		return &FailedError{What: "its workers have no root directory", Err: err}
	}
	return d.checkFiles(file)
}

// maxFiles is how many files a process may open, once it has raised its limit as
// far as it may.
func maxFiles(pid int) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t"); name == "CapEff" {
			capabilities, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/status: CapEff: %w", pid, err)
			}
			if capabilities&(1<<unix.CAP_SYS_RESOURCE) != 0 {
				return kernelMaxFiles()
			}
		}
	}
	var limit unix.Rlimit
	err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit)
	return limit.Max, err
}

// kernelMaxFiles is the most that any process may open.
func kernelMaxFiles() (uint64, error) {
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// processors is how many a process may run on, and so HAProxy's threads.
func processors(pid int) (int, error) {
	var set unix.CPUSet
	err := unix.SchedGetaffinity(pid, &set)
	return set.Count(), err
}
