package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// identity of a process: the process id alone is used again.
type identity struct {
	pid   int
	start uint64 // clock ticks from boot to the process's start
	boot  string // the kernel's boot id
}

// identify reads the identity of a live process.
func identify(pid int) (identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, err
	}
	start, err := startTime(string(stat))
	if err != nil {
		return identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, err
	}
	return identity{pid: pid, start: start, boot: strings.TrimSpace(string(boot))}, nil
}

// startTime is field 22 of /proc/PID/stat. Field 2, the command's name in
// parentheses, may hold spaces and parentheses itself.
func startTime(stat string) (uint64, error) {
	text, err := statField(stat, 22)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

// statField is a field after the command's name, of the number that proc(5) gives it.
func statField(stat string, number int) (string, error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return "", errors.New("no command name")
	}
	fields := strings.Fields(stat[end+1:])
	index := number - 3 // the first field after the name is number 3
	if len(fields) <= index {
		return "", fmt.Errorf("only %d fields", len(fields)+2)
	}
	return fields[index], nil
}

// writeIdentity keeps the identity in one line: "PID START BOOT".
func writeIdentity(path string, who identity) error {
	return atomicfile.WriteFile(path, fmt.Appendf(nil, "%d %d %s\n", who.pid, who.start, who.boot), 0o644)
}

// readIdentity returns ErrNotRunning when the file is missing or is of an
// earlier boot.
func readIdentity(path string) (identity, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, ErrNotRunning
	}
	if err != nil {
		return identity{}, err
	}
	var who identity
	if _, err := fmt.Sscanf(string(data), "%d %d %s\n", &who.pid, &who.start, &who.boot); err != nil || who.pid <= 0 {
		return identity{}, fmt.Errorf("%s is %q, not \"PID START BOOT\"; "+
			"stop the daemon by hand and remove the file", path, data)
	}
	return who, nil
}
