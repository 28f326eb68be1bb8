package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/local"
	"github.com/tandem-lb/tandem/agent/internal/settings"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
)

// here is what the commands that speak to the running agent share.
type here struct {
	config, runDir, output string
	timeout                time.Duration
}

// maxStatus bounds what an agent may answer, in bytes: a status of 10,000
// backends takes one or two megabytes.
const maxStatus = 64 << 20

// breakGlass are the commands that need no controller.
func breakGlass() []*cobra.Command {
	var h here
	all := []*cobra.Command{
		h.status(), h.drain(), h.undrain(), h.failover(), h.backend(), h.discard(),
	}
	for _, cmd := range all {
		flags := cmd.PersistentFlags()
		flags.StringVar(&h.config, "config", "/etc/tandem/agent.yaml", "the agent's configuration file, for its run_dir")
		flags.StringVar(&h.runDir, "run-dir", "", "the agent's run_dir; the configuration file is not read then")
		flags.StringVarP(&h.output, "output", "o", "table", "how data is written: table or json")
		flags.DurationVar(&h.timeout, "timeout", 30*time.Second, "how long it may take")
	}
	return all
}

// run makes the function of a command that speaks to the agent.
func (h *here) run(do func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if h.output != "table" && h.output != "json" {
			return usagef("--output must be table or json (got %q)", h.output)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), h.timeout)
		defer cancel()
		runDir, runner := h.runDir, ""
		if runDir == "" {
			s, err := settings.Read(h.config)
			if err != nil {
				return withoutFile(err)
			}
			runDir, runner = s.RunDir, s.Runner
		}
		socket := local.Socket(runDir)
		if err := reach(ctx, socket); err != nil {
			return explain(err, socket, runner)
		}
		conn, err := grpc.NewClient("unix:"+socket,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxStatus)))
		if err != nil {
			return err
		}
		defer conn.Close()
		return do(ctx, localv1.NewLocalServiceClient(conn), cmd, args)
	}
}

// reach tells whether an agent listens.
func reach(ctx context.Context, socket string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// withoutFile says how to reach an agent that runs though its configuration file is
// wrong by now.
func withoutFile(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return needsRoot(err)
	}
	return fmt.Errorf("%w\nan agent that runs is reached without that file by its run_dir: --run-dir %s", err, settings.DefaultRunDir)
}

// needsRoot says what a lack of permission means here.
func needsRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &exitError{exitNotAllowed, fmt.Errorf("%w: only root may do this, try it with sudo", err)}
	}
	return err
}

// explain says why no agent answers, and what works without one.
func explain(err error, socket, runner string) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return needsRoot(err)
	}
	stop := "\"systemctl stop haproxy\""
	if runner == "exec" {
		stop = fmt.Sprintf("\"kill $(cat %s)\"", filepath.Join(filepath.Dir(socket), "keepalived", "keepalived.pid"))
	}
	return fmt.Errorf(`the agent does not run on this machine: nobody listens at %s.
HAProxy and keepalived go on as they are. To change something, start the agent.
What works without it: %s moves this node's VIPs to the other node`, socket, stop)
}

// print writes data: a message as JSON, or what table writes.
func (h *here) print(cmd *cobra.Command, m proto.Message, table func() error) error {
	if h.output != "json" {
		return table()
	}
	data, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	var pretty bytes.Buffer // protojson's own spaces vary on purpose
	if err := json.Indent(&pretty, data, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), pretty.String())
	return err
}

// say writes words, which are no data.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// warn writes a warning of the agent's, if there is one.
func warn(text string) {
	if text != "" {
		say("warning: %s", clean(text))
	}
}

// clean keeps words of others from steering the terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
