package unit

import (
	"strings"
	"testing"
)

// properties of a unit as systemd gives them.
func properties(changes map[string]any) map[string]any {
	all := map[string]any{
		"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "inactive", "SubState": "dead",
		"Result": "success", "ExecMainCode": int32(0), "ExecMainStatus": int32(0), "MainPID": uint32(0),
		"ExecMainStartTimestamp": uint64(0), "ConditionResult": true, "ConditionTimestamp": uint64(1),
	}
	for name, value := range changes {
		all[name] = value
	}
	return all
}

func TestWhoStartsAUnit(t *testing.T) {
	ran := uint64(1_700_000_000_000_000)
	for name, test := range map[string]struct {
		changes map[string]any
		by      string // "agent", or what the agent says instead
	}{
		"never started":                       {nil, "agent"},
		"skipped for want of a configuration": {map[string]any{"ConditionResult": false}, "agent"},
		"skipped after it ran":                {map[string]any{"ConditionResult": false, "ExecMainStartTimestamp": ran}, "agent"},
		"skipped as there is no usable file":  {map[string]any{"ConditionResult": false, "ExecMainStartTimestamp": ran, "Result": "exec-condition"}, "agent"},
		"stopped by an operator": {map[string]any{"ExecMainStartTimestamp": ran, "ExecMainCode": int32(1), "ExecMainStatus": int32(143)},
			"was stopped by an operator: systemctl start x.service"},
		"disabled":      {map[string]any{"UnitFileState": "disabled"}, "is disabled: systemctl enable --now x.service"},
		"masked":        {map[string]any{"LoadState": "masked", "UnitFileState": "masked"}, "is masked: systemctl unmask x.service"},
		"not installed": {map[string]any{"LoadState": "not-found", "UnitFileState": ""}, "is not installed"},
		"bad unit file": {map[string]any{"LoadState": "bad-setting"}, "cannot be loaded (bad-setting): systemctl status x.service"},
		"crashed": {map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "ExecMainStartTimestamp": ran,
			"Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(9)}, "was killed by SIGKILL, and systemd starts it again"},
		"does not start": {map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "ExecMainStartTimestamp": ran,
			"Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(1)}, "exited with status 1, and systemd starts it again"},
		"given up": {map[string]any{"ActiveState": "failed", "ExecMainStartTimestamp": ran, "Result": "start-limit-hit"},
			"systemd has given up: systemctl reset-failed x.service"},
		"failed": {map[string]any{"ActiveState": "failed", "ExecMainStartTimestamp": ran, "Result": "exit-code",
			"ExecMainCode": int32(1), "ExecMainStatus": int32(2)}, "exited with status 2, and systemd does not start it again: systemctl start x.service"},
		"starting": {map[string]any{"ActiveState": "activating", "SubState": "start-pre"}, "is starting"},
		"stopping": {map[string]any{"ActiveState": "deactivating", "ExecMainStartTimestamp": ran}, "is stopping"},
	} {
		s := parseStatus(properties(test.changes))
		if got, want := s.mayStart(false), test.by == "agent"; got != want {
			t.Errorf("%s: the agent may start it: %v, want %v", name, got, want)
		}
		if reason := s.reason("x.service"); test.by != "agent" && !strings.Contains(reason, test.by) {
			t.Errorf("%s: %q, want %q in it", name, reason, test.by)
		}
	}
}

// A start that is under way is waited for; the next one after a crash is not.
func TestStarting(t *testing.T) {
	for sub, want := range map[string]bool{
		"start-pre": true, "start": true, "start-post": true, "auto-restart": false, "auto-restart-queued": false,
	} {
		if got := parseStatus(properties(map[string]any{"ActiveState": "activating", "SubState": sub})).starting(); got != want {
			t.Errorf("%s: %v, want %v", sub, got, want)
		}
	}
	for _, state := range []string{"active", "inactive", "reloading", "deactivating", "failed"} {
		if parseStatus(properties(map[string]any{"ActiveState": state})).starting() {
			t.Errorf("%s counts as a start", state)
		}
	}
}

func TestASkippedUnitSaysWhereToLook(t *testing.T) {
	s := parseStatus(properties(map[string]any{"ConditionResult": false, "ExecMainStartTimestamp": uint64(1), "Result": "exec-condition"}))
	if got := s.reason("x.service"); got != "has nothing to start with (journalctl -u x.service tells why)" {
		t.Errorf("%q", got)
	}
}

// What the agent has stopped it may start again, unless an operator has a say.
func TestAgentStartsWhatItStopped(t *testing.T) {
	ran := map[string]any{"ExecMainStartTimestamp": uint64(1)}
	if !parseStatus(properties(ran)).mayStart(true) {
		t.Error("the agent may not start what it has stopped")
	}
	ran["UnitFileState"] = "disabled"
	if parseStatus(properties(ran)).mayStart(true) {
		t.Error("the agent may start what an operator has disabled")
	}
}

func TestLastWholeLines(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
	}{{"one\ntwo\n", 100, "one\ntwo\n"}, {"one\ntwo\n", 6, "two\n"}, {"one\ntwo\n", 4, ""}} {
		if got := last(test.text, test.most); got != test.want {
			t.Errorf("last %d of %q is %q, want %q", test.most, test.text, got, test.want)
		}
	}
}
