package keepalived

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probed is what a keepalived binary says of itself.
type probed struct {
	path    string // absolute
	version string // such as "2.2.7"
	dumper  dumper
}

// probeTimeout is for commands that answer within milliseconds.
const probeTimeout = 10 * time.Second

var versionLine = regexp.MustCompile(`(?m)^Keepalived v((\d+)\.(\d+)\.(\d+))`)

// probe finds the binary and asks what it is. The error is a MissingError.
func probe(ctx context.Context, binary, dumpDir string) (*probed, error) {
	path, err := exec.LookPath(binary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, &MissingError{fmt.Sprintf("%v: install keepalived 2.2 or newer (`apt install keepalived`), "+
			"or name the binary in the agent's configuration file", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return nil, &MissingError{fmt.Sprintf("%s --version: %v", path, err)}
	}
	version, numbers, err := parseVersion(string(said))
	if err != nil {
		return nil, &MissingError{fmt.Sprintf("%s: %v", path, err)}
	}
	signal, err := dumpSignal(ctx, path)
	if err != nil {
		return nil, &MissingError{fmt.Sprintf("%s has no JSON dump (%v): install a build with --enable-json, "+
			"such as Debian's or Ubuntu's", path, err)}
	}
	dir := dumpDir
	if numbers < 20205 {
		dir = "/tmp" // TMPDIR is honoured from 2.2.5 on
	}
	return &probed{path, version, dumper{filepath.Join(dir, "keepalived.json"), signal}}, nil
}

// parseVersion reads the output of keepalived --version; numbers are
// comparable, 20207 for 2.2.7.
func parseVersion(said string) (version string, numbers int, err error) {
	match := versionLine.FindStringSubmatch(said)
	if match == nil {
		first, _, _ := strings.Cut(said, "\n")
		return "", 0, fmt.Errorf("is not keepalived: --version says %q", first)
	}
	for _, part := range match[2:] {
		n, err := strconv.Atoi(part)
		if err != nil || n > 99 {
			return "", 0, fmt.Errorf("version %s makes no sense", match[1])
		}
		numbers = numbers*100 + n
	}
	if numbers < 20200 {
		return "", 0, fmt.Errorf("version %s is too old: install keepalived 2.2 or newer", match[1])
	}
	return match[1], numbers, nil
}

// dumpSignal asks for the number of the signal that makes a dump.
func dumpSignal(ctx context.Context, path string) (syscall.Signal, error) {
	said, err := exec.CommandContext(ctx, path, "--signum=JSON").Output()
	if err != nil {
		return 0, err
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(said)))
	if err != nil || number <= 0 || number > 64 {
		return 0, fmt.Errorf("--signum=JSON says %q", said)
	}
	return syscall.Signal(number), nil
}

// checkFile has keepalived read a file. It returns keepalived's words as a
// RefusedError for every exit code but 0.
func checkFile(ctx context.Context, binary, file string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--config-test", "--vrrp", "--use-file", file)
	cmd.Env = []string{"TMPDIR=" + filepath.Dir(file)}
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("%s --config-test: %w", binary, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		words := strings.ReplaceAll(strings.TrimSpace(string(said)), file, "keepalived.conf")
		return &RefusedError{fmt.Sprintf("keepalived --config-test: %v: %s", exit, words)}
	}
	if err != nil {
		return fmt.Errorf("%s --config-test: %w", binary, err)
	}
	return nil
}

// canLockMemory tells whether a daemon of the agent may keep its memory from
// being swapped out.
func canLockMemory() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

// IsOurs tells whether the text of a file was rendered by this driver.
func IsOurs(text []byte) bool { return bytes.HasPrefix(text, []byte(header)) }

// ownFile reads a file that the driver may overwrite: one with its header, or
// none, which is empty.
func ownFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !IsOurs(data) {
		return nil, fmt.Errorf("%s was not written by Tandem: move it away", path)
	}
	return data, nil
}
