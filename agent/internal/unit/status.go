package unit

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// status is what systemd says of a unit.
type status struct {
	load    string // loaded, not-found, masked
	file    string // enabled, disabled, masked, static
	active  string // active, inactive, failed, activating
	sub     string // auto-restart
	result  string // success, exit-code, signal, start-limit-hit
	code    int32  // how the main process ended: CLD_EXITED and the like
	exit    int32  // its exit code or signal
	pid     int    // main process; 0: none
	started bool   // in this boot
	skipped bool   // a condition of the unit did not hold when it was last started
}

// status asks systemd.
func (u *Unit) status(ctx context.Context) (*status, error) {
	c, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	properties, err := c.GetUnitPropertiesContext(ctx, u.name)
	if err != nil {
		return nil, fmt.Errorf("systemd: %s: %w", u.name, err)
	}
	service, err := c.GetUnitTypePropertiesContext(ctx, u.name, "Service")
	if err != nil {
		return nil, fmt.Errorf("systemd: %s: %w", u.name, err)
	}
	maps.Copy(properties, service)
	return parseStatus(properties), nil
}

// parseStatus takes what is missing for empty.
func parseStatus(properties map[string]any) *status {
	text := func(name string) string { s, _ := properties[name].(string); return s }
	number := func(name string) int32 { n, _ := properties[name].(int32); return n }
	pid, _ := properties["MainPID"].(uint32)
	micros, _ := properties["ExecMainStartTimestamp"].(uint64)
	condition, _ := properties["ConditionResult"].(bool)
	tried, _ := properties["ConditionTimestamp"].(uint64)
	return &status{
		load: text("LoadState"), file: text("UnitFileState"), active: text("ActiveState"), sub: text("SubState"),
		result: text("Result"), code: number("ExecMainCode"), exit: number("ExecMainStatus"), pid: int(pid),
		started: micros > 0, skipped: tried > 0 && !condition,
	}
}

// mayStart tells whether it is the agent's to start a unit that does not run.
func (s *status) mayStart(stoppedByUs bool) bool {
	if s.load != "loaded" || s.file == "disabled" || s.active != "inactive" {
		return false
	}
	return stoppedByUs || !s.started || s.skipped
}

// starting tells whether systemd starts the unit now. One that it will start again after a
// crash is not: when that is due is systemd's to say.
func (s *status) starting() bool {
	return s.active == "activating" && !strings.HasPrefix(s.sub, "auto-restart")
}

// reason says why the unit does not run, and what would help.
func (s *status) reason(name string) string {
	switch {
	case s.load == "not-found":
		return "is not installed: install the package that has it"
	case s.load == "masked":
		return "is masked: systemctl unmask " + name
	case s.load != "loaded":
		return "cannot be loaded (" + s.load + "): systemctl status " + name
	case s.sub == "auto-restart":
		return s.end() + ", and systemd starts it again (journalctl -u " + name + " tells more)"
	case s.active == "activating" || s.active == "reloading":
		return "is starting"
	case s.active == "deactivating":
		return "is stopping"
	case s.result == "start-limit-hit":
		return "has ended too often, and systemd has given up: systemctl reset-failed " + name + "; systemctl start " + name
	case s.active == "failed":
		return s.end() + ", and systemd does not start it again: systemctl start " + name
	case s.started && !s.skipped:
		return "was stopped by an operator: systemctl start " + name
	case s.file == "disabled":
		return "is disabled: systemctl enable --now " + name
	case s.result == "exec-condition":
		return "has nothing to start with (journalctl -u " + name + " tells why)"
	default:
		return "has not been started"
	}
}

// end says how the main process ended.
func (s *status) end() string {
	const exited, killed, dumped = 1, 2, 3 // CLD_EXITED and the like, sigaction(2)
	switch s.code {
	case exited:
		return fmt.Sprintf("exited with status %d", s.exit)
	case killed, dumped:
		if name := unix.SignalName(syscall.Signal(s.exit)); name != "" {
			return "was killed by " + name
		}
		return fmt.Sprintf("was killed by signal %d", s.exit)
	default:
		return "failed (" + s.result + ")"
	}
}
