package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

var update = flag.Bool("update", false, "write the golden file")

func TestWriteStatus(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	s := &localv1.GetStatusResponse{
		Node: "lb-master", AgentVersion: "v0.1",
		Session: &localv1.Session{Controller: "192.168.1.5:9443", Since: ago(3 * time.Minute), Problem: "the controller cannot be reached: \x1b[2Jconnection refused"},
		Applied: &agentv1.Version{Structure: 11, Runtime: 12},
		Haproxy: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED, Message: "exited with status 1"},
		Keepalived: &agentv1.DaemonObservation{
			State: agentv1.DaemonState_DAEMON_STATE_RUNNING, Version: "2.2.7", StartTime: ago(50 * time.Hour),
		},
		Score: &localv1.Score{Total: -150, Health: -100, Drain: -50},
		Vips: []*localv1.VipStatus{
			{Vip: "web", Instance: "web", State: agentv1.VrrpState_VRRP_STATE_BACKUP, Priority: 58, FailBack: -22,
				Failover: -22, FailoverEnd: timestamppb.New(now.Add(40 * time.Second)), Listens: true,
				Heard: []*agentv1.Advertiser{{Node: "lb-backup", Address: "192.168.1.11", Priority: 220}, {Address: "192.168.1.9", Priority: 1}}},
			{Vip: "hand", Instance: "hand", Holds: true},
			{Vip: "mail", Instance: "mail", State: agentv1.VrrpState_VRRP_STATE_MASTER, Holds: true, Priority: 80, Listens: true},
		},
		Backends: []*agentv1.BackendObservation{
			{Pool: "web_servers", Backend: "web1", State: agentv1.ServerState_SERVER_STATE_DRAIN, Since: ago(time.Hour), Reason: "Layer7 check passed"},
		},
		LocalChanges: []*agentv1.LocalChange{
			{Author: "ann", Time: ago(time.Minute), Reason: "new kernel", Kind: &agentv1.LocalChange_Drain{Drain: true}},
			{Author: "root", Time: ago(time.Second), Kind: &agentv1.LocalChange_Backend{Backend: &agentv1.LocalBackend{
				Pool: "web_servers", Backend: "web1", State: agentv1.AdminState_ADMIN_STATE_DRAIN, Weight: proto.Uint32(7)}}},
		},
		Problems: []string{"interface eth9 of network front does not exist"},
		Reloads:  3,
		Process:  &localv1.Process{ResidentBytes: 21<<20 + 1, OpenFiles: 34, Goroutines: 40},
	}
	var out bytes.Buffer
	if err := writeStatus(&out, s, now); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "status.golden")
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestOutcome(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		says string
		code int
	}{
		"usage":        {usagef("--weight is missing"), "--weight is missing", exitUsage},
		"not found":    {status.Error(codes.NotFound, "no backend"), "no backend", exitNotFound},
		"not root":     {status.Error(codes.PermissionDenied, "only root"), "only root", exitNotAllowed},
		"not held":     {status.Error(codes.FailedPrecondition, "does not hold it"), "does not hold it", exitConflict},
		"too late":     {status.Error(codes.DeadlineExceeded, "not yet"), "not yet", exitTimeout},
		"not yet":      {status.Error(codes.Unavailable, "goes on\x1b[2J trying"), "goes on?[2J trying", exitFailed},
		"something":    {errors.New("broken"), "broken", exitFailed},
		"no agent":     {explain(fmt.Errorf("dial: %w", fs.ErrNotExist), "/run/a/agent.sock", "systemd"), `"systemctl stop haproxy" moves`, exitFailed},
		"dead agent":   {explain(syscall.ECONNREFUSED, "/run/a/agent.sock", "exec"), `"kill $(cat /run/a/keepalived/keepalived.pid)" moves`, exitFailed},
		"not its root": {explain(fmt.Errorf("dial: %w", fs.ErrPermission), "/run/a/agent.sock", "exec"), "only root may do this", exitNotAllowed},
	} {
		if text, code := outcome(test.err); code != test.code || !strings.Contains(text, test.says) {
			t.Errorf("%s: %q, %d; want %q, %d", name, text, code, test.says, test.code)
		}
	}
}

// What an operator on the machine needs works without the agent's file, which he is
// told.
func TestWithoutAConfigurationFile(t *testing.T) {
	cmd := root()
	missing := filepath.Join(t.TempDir(), "agent.yaml")
	cmd.SetArgs([]string{"status", "--config", missing})
	text, code := outcome(cmd.Execute())
	for _, want := range []string{missing, "--config", "the README tells", "--run-dir /run/tandem/agent"} {
		if code != exitFailed || !strings.Contains(text, want) {
			t.Errorf("%q, %d; want %q", text, code, want)
		}
	}
}

// Mistakes in the command line are found before the agent is asked.
func TestUsage(t *testing.T) {
	for line, says := range map[string]string{
		"backend drain web1":                       "POOL/BACKEND",
		"backend drain":                            "accepts 1 arg",
		"backend set web_servers/web1":             "--weight is missing",
		"backend set web_servers/web1 --weight -1": "invalid argument",
		"backend":                       "say what to do",
		"backend drian web_servers/w":   "unknown command",
		"failover":                      "--all",
		"failover web --all":            "--all",
		"status -o yaml":                "table or json",
		"status now":                    "unknown command",
		"drain --resaon x":              "unknown flag: --resaon",
		"discard --backend web_servers": "POOL/BACKEND",
	} {
		cmd := root()
		cmd.SetArgs(append(strings.Fields(line), "--run-dir", t.TempDir()))
		err := cmd.Execute()
		if err == nil {
			t.Errorf("%s: no error", line)
			continue
		}
		if text, code := outcome(err); code != exitUsage || !strings.Contains(text, says) {
			t.Errorf("%s: %q, %d; want %q, %d", line, text, code, says, exitUsage)
		}
	}
}

func TestNoSuchCommand(t *testing.T) {
	for typed, want := range map[string]string{
		"statsu": "unknown command \"statsu\" for \"lb-agent\": did you mean status?\nsee \"lb-agent --help\"",
		"xyzzy":  "unknown command \"xyzzy\" for \"lb-agent\"\nsee \"lb-agent --help\"",
	} {
		cmd := root()
		cmd.SetArgs([]string{typed})
		if text, code := outcome(cmd.Execute()); code != exitUsage || text != want {
			t.Errorf("%s: %q, %d; want %q, %d", typed, text, code, want, exitUsage)
		}
	}
}
