// Package settings reads the agent's own configuration file.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

// Settings is the agent's configuration file.
type Settings struct {
	// Node is this node's id in its cluster; by default the hostname's first
	// label.
	Node string `json:"node"`
	// NameByDefault tells that Node is the hostname.
	NameByDefault bool `json:"-"`
	// Controllers are addresses, host:port, tried in turn.
	Controllers []string `json:"controllers"`
	// JoinTokenFile holds the one-time token; it is read only while the node has
	// no certificate.
	JoinTokenFile string `json:"join_token_file"`
	// Interface is the interface of every network that Networks leaves out.
	Interface string `json:"interface"`
	// Networks maps network names to interfaces.
	Networks map[string]string `json:"networks"`
	// StateDir survives a reboot; by default DefaultStateDir.
	StateDir string `json:"state_dir"`
	// RunDir does not; by default DefaultRunDir.
	RunDir string `json:"run_dir"`
	// Runner says who starts the daemons: RunnerExec (the default) or
	// RunnerSystemd.
	Runner string `json:"runner"`
	// HAProxy says how HAProxy is run.
	HAProxy HAProxy `json:"haproxy"`
	// Keepalived says how keepalived is run.
	Keepalived Keepalived `json:"keepalived"`
	// Logs says where log files lie and how they are rotated.
	Logs Logs `json:"logs"`
	// LogLevel is trace, debug, info (the default), warn or error.
	LogLevel string `json:"log_level"`
}

// HAProxy says how HAProxy is run.
type HAProxy struct {
	// Binary is a path, or a name to look up in PATH; by default "haproxy".
	Binary string `json:"binary"`
	// User that the workers run as; by default "haproxy" where it exists.
	User string `json:"user"`
	// Group that the workers run as; by default "haproxy" where it exists.
	Group string `json:"group"`
}

// Keepalived says how keepalived is run.
type Keepalived struct {
	// Binary is a path, or a name to look up in PATH; by default "keepalived".
	Binary string `json:"binary"`
}

// Logs says where log files lie and how they are rotated.
type Logs struct {
	// Directory of access.log and keepalived-state.log; by default
	// /var/log/tandem.
	Directory string `json:"directory"`
	// MaxSizeMB is the size in MiB, 1 to 100,000, at which a file is rotated; by
	// default 100.
	MaxSizeMB int64 `json:"max_size_mb"`
	// Keep is how many older files stay beside each, 1 to 1000; by default 5.
	Keep int `json:"keep"`
}

// File is the log file of that name.
func (l Logs) File(name string) logfile.Options {
	return logfile.Options{Path: filepath.Join(l.Directory, name), MaxSize: l.MaxSizeMB << 20, Keep: l.Keep}
}

// FrontNetwork is the network of a VIP that names none.
const FrontNetwork = "front"

// Who starts the daemons.
const (
	RunnerExec    = "exec"    // the agent itself
	RunnerSystemd = "systemd" // systemd, as haproxy.service and keepalived.service
)

// Directories, unless the file names others.
const (
	DefaultStateDir = "/var/lib/tandem/agent"
	DefaultRunDir   = "/run/tandem/agent"
)

var (
	nodePattern      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	networkPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	interfacePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
)

// Read reads and checks a file. Unknown and duplicate keys are errors.
func Read(path string) (*Settings, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("agent configuration: %w: name the right file with --config, or make it as the README tells", err)
	}
	if err != nil {
		return nil, fmt.Errorf("agent configuration: %w", err)
	}
	s := &Settings{}
	if err := yaml.UnmarshalStrict(data, s); err != nil {
		return nil, fmt.Errorf("agent configuration %s: %w", path, err)
	}
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("agent configuration %s: %w", path, err)
	}
	return s, nil
}

// complete fills in defaults and checks every value.
func (s *Settings) complete() error {
	if s.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("node: not set, and the hostname is unknown: %w", err)
		}
		s.Node, _, _ = strings.Cut(host, ".")
		s.NameByDefault = true
	}
	s.StateDir = orDefault(s.StateDir, DefaultStateDir)
	s.RunDir = orDefault(s.RunDir, DefaultRunDir)
	s.Runner = orDefault(s.Runner, RunnerExec)
	s.HAProxy.Binary = orDefault(s.HAProxy.Binary, "haproxy")
	s.Keepalived.Binary = orDefault(s.Keepalived.Binary, "keepalived")
	s.Logs.Directory = orDefault(s.Logs.Directory, "/var/log/tandem")
	s.Logs.MaxSizeMB = cmp.Or(s.Logs.MaxSizeMB, 100)
	s.Logs.Keep = cmp.Or(s.Logs.Keep, 5)
	s.LogLevel = orDefault(s.LogLevel, "info")
	if s.Networks == nil {
		s.Networks = make(map[string]string)
	}
	if _, ok := s.Networks[FrontNetwork]; !ok && s.Interface != "" {
		s.Networks[FrontNetwork] = s.Interface
	}
	return s.check()
}

func orDefault(value, def string) string {
	if value == "" {
		return def
	}
	return value
}

func (s *Settings) check() error {
	var errs []error
	if !nodePattern.MatchString(s.Node) {
		errs = append(errs, fmt.Errorf("node: %q must be 1 to 32 letters, digits, _ or -, beginning with a letter or digit", s.Node))
	}
	if len(s.Controllers) == 0 {
		errs = append(errs, errors.New("controllers: must name at least one, such as 192.168.1.5:9443"))
	}
	for i, address := range s.Controllers {
		host, port, err := net.SplitHostPort(address)
		if n, convErr := strconv.Atoi(port); err != nil || host == "" || convErr != nil || n < 1 || n > 65535 {
			errs = append(errs, fmt.Errorf("controllers[%d]: %q must be host:port, such as 192.168.1.5:9443", i, address))
		}
	}
	for network, name := range s.Networks {
		if !networkPattern.MatchString(network) {
			errs = append(errs, fmt.Errorf("networks: %q must be 1 to 32 letters, digits, _ or -", network))
		}
		if !interfacePattern.MatchString(name) {
			errs = append(errs, fmt.Errorf("networks.%s: %q is not the name of an interface", network, name))
		}
	}
	if s.Interface != "" && !interfacePattern.MatchString(s.Interface) {
		errs = append(errs, fmt.Errorf("interface: %q is not the name of an interface", s.Interface))
	}
	errs = append(errs, s.checkRunner())
	errs = append(errs, s.Logs.check()...)
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, s.LogLevel) {
		errs = append(errs, fmt.Errorf("log_level: %q must be trace, debug, info, warn or error", s.LogLevel))
	}
	return errors.Join(errs...)
}

func (l Logs) check() (errs []error) {
	if !filepath.IsAbs(l.Directory) {
		errs = append(errs, fmt.Errorf("logs.directory: %q must begin with /, such as /var/log/tandem", l.Directory))
	}
	if l.MaxSizeMB < 1 || l.MaxSizeMB > 100_000 {
		errs = append(errs, fmt.Errorf("logs.max_size_mb: %d must be 1 to 100000", l.MaxSizeMB))
	}
	if l.Keep < 1 || l.Keep > 1000 {
		errs = append(errs, fmt.Errorf("logs.keep: %d must be 1 to 1000", l.Keep))
	}
	return errs
}

// checkRunner holds the directories to those that the units name.
func (s *Settings) checkRunner() error {
	switch s.Runner {
	case RunnerExec:
		return nil
	case RunnerSystemd:
		if s.StateDir != DefaultStateDir || s.RunDir != DefaultRunDir {
			return fmt.Errorf("state_dir, run_dir: must be left out with runner %s, as the units of HAProxy and keepalived name %s and %s",
				s.Runner, DefaultStateDir, DefaultRunDir)
		}
		return nil
	default:
		return fmt.Errorf("runner: %q must be %s or %s", s.Runner, RunnerExec, RunnerSystemd)
	}
}
