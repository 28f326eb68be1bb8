package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// version of HAProxy, as far as features depend on it.
type version struct{ major, minor int }

var (
	// oldest that has option idle-close-on-response.
	oldest = version{2, 4}
	// addsServers is the first that adds a server at run time for good.
	addsServers = version{2, 6}
)

func (v version) atLeast(other version) bool {
	return v.major > other.major || v.major == other.major && v.minor >= other.minor
}

var versionLine = regexp.MustCompile(`(?m)^HA-?Proxy version (([0-9]+)\.([0-9]+)[^ ]*)`)

// parseVersion parses what "haproxy -v" prints.
func parseVersion(output []byte) (v version, full string, ok bool) {
	match := versionLine.FindSubmatch(output)
	if match == nil {
		return version{}, "", false
	}
	v.major, _ = strconv.Atoi(string(match[2]))
	v.minor, _ = strconv.Atoi(string(match[3]))
	return v, string(match[1]), true
}

// binary is HAProxy's executable.
type binary struct{ path string }

// How long a run of the binary that ends by itself may take. 10,000 servers in
// one backend need 0.4 s on an idle machine.
const runTimeout = 30 * time.Second

// run runs the binary to its end and returns what it printed.
func (b binary) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.path, args...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return output.Bytes(), err
}

// version asks the binary for its version. The error is a *MissingError.
func (b binary) version(ctx context.Context) (version, string, error) {
	output, err := b.run(ctx, "-v")
	switch {
	case ctx.Err() != nil:
		return version{}, "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return version{}, "", &MissingError{Binary: b.path, Problem: "is not installed"}
	case err != nil:
		return version{}, "", &MissingError{Binary: b.path, Problem: fmt.Sprintf("cannot be run (%v)", err)}
	}
	v, full, ok := parseVersion(output)
	if !ok {
		return version{}, "", &MissingError{Binary: b.path, Problem: "does not tell its version"}
	}
	if !v.atLeast(oldest) {
		return version{}, "", &MissingError{Binary: b.path, Problem: "is version " + full + ", which is too old"}
	}
	return v, full, nil
}

// check has HAProxy's checker read a file. The error is a *RefusedError.
func (b binary) check(ctx context.Context, path string) error {
	output, err := b.run(ctx, "-c", "-f", path)
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &RefusedError{Words: alerts(string(output), 0)}
	}
	return &FailedError{What: "cannot run its checker", Words: string(output), Err: err}
}
