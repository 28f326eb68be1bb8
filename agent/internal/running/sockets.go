package running

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Listens tells whether a process or a child of it has a TCP socket that
// accepts connections. A process that has ended has none.
func Listens(pid int) (bool, error) {
	listening, err := listeningSockets()
	if err != nil {
		return false, err
	}
	return anyOf(pid, listening)
}

// anyOf looks through the descriptors of a process and its children.
func anyOf(pid int, sockets map[string]bool) (bool, error) {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if hidden(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, "fd", e.Name())); err == nil && sockets[to] {
			return true, nil
		}
	}
	children, err := childrenOf(dir)
	for _, child := range children {
		if err != nil {
			break
		}
		var found bool
		if found, err = anyOf(child, sockets); found {
			return true, err
		}
	}
	return false, err
}

// childrenOf are the processes that the threads of a process have started.
func childrenOf(dir string) ([]int, error) {
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if hidden(err) {
		return nil, nil
	}
	var children []int
	for _, thread := range threads {
		list, err := os.ReadFile(filepath.Join(dir, "task", thread.Name(), "children"))
		if hidden(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for child := range strings.FieldsSeq(string(list)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				return nil, err
			}
			children = append(children, pid)
		}
	}
	return children, err
}

// listeningSockets are those of this network namespace, as descriptors name
// them.
func listeningSockets() (map[string]bool, error) {
	sockets := make(map[string]bool)
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(filepath.Join(proc, "net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(table)) {
			// sl local remote st … inode; 0A is LISTEN.
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" {
				sockets[fmt.Sprintf("socket:[%s]", f[9])] = true
			}
		}
	}
	return sockets, nil
}
