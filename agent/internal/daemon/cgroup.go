package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// cgroupRoot is where cgroup v2 is mounted; a test mounts its own.
var cgroupRoot = "/sys/fs/cgroup"

// joinCgroup moves the process into a cgroup outside the agent's, so that what
// a service manager or container runtime does to the agent's does not reach
// it. It returns the directory, or nothing where cgroup v2 cannot be written:
// a session of its own is then all the shelter that the daemon has.
func joinCgroup(spec Spec, pid int) string {
	dir := filepath.Join(cgroupRoot, fmt.Sprintf("tandem-%s-%d", spec.Name, pid))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = moveInto(dir, pid)
		if err != nil {
			leaveCgroup(dir)
		}
	}
	if err != nil {
		logDebug(spec, "daemon stays in the agent's cgroup", err)
		return ""
	}
	return dir
}

// moveInto fails where the directory is none of a cgroup file system, as no
// cgroup.procs appeared in it.
func moveInto(dir string, pid int) (err error) {
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, procs.Close()) }()
	_, err = procs.WriteString(strconv.Itoa(pid))
	return err
}

// leaveCgroup removes the empty cgroup of a process that has ended. One with
// other processes left, or of an adopted daemon, stays; an empty cgroup costs
// nothing and goes with the next boot.
func leaveCgroup(dir string) {
	if dir != "" {
		_ = os.Remove(dir)
	}
}
