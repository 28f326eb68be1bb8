package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Processes is a master and its workers.
type Processes struct {
	Master Process
	// Failed counts the reloads in a row that failed. HAProxy before 2.5 does
	// not count.
	Failed int
	// Workers are those that accept connections, one in general.
	Workers []Process
	// OldWorkers finish what they have after a reload.
	OldWorkers []Process
}

// Process is one process of HAProxy.
type Process struct {
	PID int
	// Reloads that it has seen.
	Reloads int
	Uptime  time.Duration
	Version string
}

var (
	columnNames = regexp.MustCompile(`<([^<>]+)>`)
	failedCount = regexp.MustCompile(`\[failed: ([0-9]+)\]`)
)

// ParseProcesses parses the reply to "show proc".
func ParseProcesses(r io.Reader) (*Processes, error) {
	var p Processes
	var columns []string
	section := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "#<"):
			for _, match := range columnNames.FindAllStringSubmatch(line, -1) {
				columns = append(columns, match[1])
			}
			continue
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(line[1:])
			continue
		}
		if match := failedCount.FindStringSubmatchIndex(line); match != nil {
			p.Failed, _ = strconv.Atoi(line[match[2]:match[3]])
			line = line[:match[0]] + line[match[1]:]
		}
		process, kind, err := parseProcess(columns, strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("show proc: %q: %w", line, err)
		}
		switch {
		case kind == "master":
			p.Master = process
		case kind != "worker":
		case section == "workers":
			p.Workers = append(p.Workers, process)
		case section == "old workers":
			p.OldWorkers = append(p.OldWorkers, process)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("show proc: %w", err)
	}
	if p.Master.PID == 0 {
		return nil, errors.New("show proc: no master in the reply")
	}
	return &p, nil
}

func parseProcess(columns, fields []string) (p Process, kind string, err error) {
	for i, name := range columns {
		if i >= len(fields) {
			break
		}
		switch field := fields[i]; name {
		case "PID":
			p.PID, err = strconv.Atoi(field)
		case "type":
			kind = field
		case "reloads":
			p.Reloads, err = strconv.Atoi(field)
		case "uptime":
			p.Uptime, err = parseUptime(field)
		case "version":
			p.Version = field
		}
		if err != nil {
			return p, "", err
		}
	}
	if p.PID <= 0 {
		return p, "", errors.New("no process id")
	}
	return p, kind, nil
}

// parseUptime parses "1d02h03m04s".
func parseUptime(s string) (time.Duration, error) {
	days, rest, found := strings.Cut(s, "d")
	n, err := strconv.ParseUint(days, 10, 16)
	if !found || err != nil {
		return 0, fmt.Errorf("uptime %q is not like 1d02h03m04s", s)
	}
	d, err := time.ParseDuration(rest)
	return d + time.Duration(n)*24*time.Hour, err
}

// Info tells about one worker.
type Info struct {
	PID int
	// Description is what the file that it has loaded says.
	Description string
	Version     string
	// Stopping tells that it accepts no more connections.
	Stopping bool
}

// ParseInfo parses the reply to "show info".
func ParseInfo(r io.Reader) (Info, error) {
	var info Info
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "Pid":
			info.PID, _ = strconv.Atoi(value)
		case "description":
			info.Description = value
		case "Version":
			info.Version = value
		case "Stopping":
			info.Stopping = value != "0"
		}
	}
	if err := lines.Err(); err != nil {
		return info, fmt.Errorf("show info: %w", err)
	}
	if info.PID <= 0 {
		return info, errors.New("show info: no process id in the reply")
	}
	return info, nil
}
