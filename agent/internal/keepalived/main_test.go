package keepalived

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// nodeOptions in the environment makes the test binary play an agent with only
// this driver. A driver must be in the network namespace of its keepalived
// with all of its threads, so it gets a process of its own.
const nodeOptions = "TANDEM_TEST_NODE"

// fenceGuard as the first argument makes it play a guard.
const fenceGuard = "fence-guard"

// trackGuard likewise, with the state directory before the files.
const trackGuard = "track-guard"

// releaseGuard likewise, with the state and run directories.
const releaseGuard = "release-guard"

// request to a node, one a line on its standard input.
type request struct {
	Apply  json.RawMessage `json:",omitempty"` // keepalivedv1.Config
	Check  json.RawMessage `json:",omitempty"`
	Watch  json.RawMessage `json:",omitempty"`
	Health *bool           `json:",omitempty"`
	Hung   bool            `json:",omitempty"` // the proxy hangs
	Trial  time.Duration   `json:",omitempty"` // of Health; 0: it is proven
	// Failover of a VIP, with a lease of FailoverFor.
	Failover    string        `json:",omitempty"`
	FailoverFor time.Duration `json:",omitempty"`
	Withdraw    *bool
	// Fence off a VIP, with a lease of FenceFor.
	Fence    string        `json:",omitempty"`
	FenceFor time.Duration `json:",omitempty"`
	Announce string        `json:",omitempty"` // a VIP
	// TakeOver applies a configuration to a keepalived that somebody else has
	// started; GiveBack gives it back.
	TakeOver *foreignRequest
	GiveBack *foreignRequest
}

// reply of a node, one a line on its standard output. One without ID is an
// event, with the snapshot after it.
type reply struct {
	Answer   bool
	Error    string
	Kind     string // of the error: refused, failed, missing
	Reloaded bool
	Event    *Event
	Snapshot *Snapshot
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fenceGuard {
		if err := GuardFence(context.Background(), os.Stdin, os.Stdout, os.Args[2:]); err != nil {
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == trackGuard {
		unlessAgent := func(do func() error) error {
			lock, err := lockAgent(os.Args[2])
			if err != nil {
				return nil // an agent lives
			}
			return errors.Join(do(), lock.Close())
		}
		if err := GuardTracks(context.Background(), os.Stdin, os.Stdout, os.Args[3:], unlessAgent); err != nil {
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 3 && os.Args[1] == releaseGuard {
		hooks, err := NewHooks(os.Args[2], os.Args[3])
		if err == nil {
			err = hooks.GuardRelease(context.Background(), os.Stdin, os.Stdout)
		}
		if err != nil {
			os.Exit(1)
		}
		return
	}
	options := os.Getenv(nodeOptions)
	if options == "" {
		runWide()
		os.Exit(m.Run())
	}
	if err := playNode(options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// noGuard is one that takes no lease.
var noGuard = []string{"false"}

// withoutGuards has an agent have none.
func withoutGuards(o *Options) {
	o.FenceGuard, o.TrackGuard, o.ReleaseGuard = noGuard, noGuard, noGuard
}

// lockAgent is held by an agent for as long as it lives.
func lockAgent(stateDir string) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Create(filepath.Join(stateDir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// runWide lets more tests run at once than there are processors, unless a number
// is asked for: each has its own lab, where it mostly waits.
func runWide() {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", "6")
	}
}

// playNode ends with its standard input.
func playNode(options string) error {
	var opts Options
	if err := json.Unmarshal([]byte(options), &opts); err != nil {
		return err
	}
	for guard, command := range map[*[]string][]string{
		&opts.FenceGuard:   {os.Args[0], fenceGuard},
		&opts.TrackGuard:   {os.Args[0], trackGuard, opts.StateDir},
		&opts.ReleaseGuard: {os.Args[0], releaseGuard, opts.StateDir, opts.RunDir},
	} {
		if len(*guard) == 0 {
			*guard = command
		}
	}
	lock, err := lockAgent(opts.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	opts.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr})
	replies := make(chan reply, 10000)
	var d *Driver
	ready := make(chan struct{})
	opts.Notify = func(e Event) {
		<-ready
		s := d.Snapshot()
		replies <- reply{Event: &e, Snapshot: &s}
	}
	d, err = New(context.Background(), opts)
	if err != nil {
		return err
	}
	close(ready)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	go func() {
		out := json.NewEncoder(os.Stdout)
		for r := range replies {
			if err := out.Encode(r); err != nil {
				return
			}
		}
	}()
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			cancel()
			return errors.Join(<-ran, nothingRuns())
		}
		if err != nil {
			return err
		}
		replies <- serve(ctx, d, line)
	}
}

// nothingRuns waits until no goroutine of the driver and what it uses is left.
func nothingRuns() error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(5 * time.Second); ; <-poll.C {
		text := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(text, "internal/daemon.") && !strings.Contains(text, "vishvananda/netlink.") &&
			!strings.Contains(text, "keepalived.(*Driver)") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("goroutines are left:\n%s", text)
		}
	}
}

func serve(ctx context.Context, d *Driver, line []byte) reply {
	var r request
	err := json.Unmarshal(line, &r)
	result := Result{}
	var config keepalivedv1.Config
	switch {
	case err != nil:
	case r.Apply != nil:
		if err = protojson.Unmarshal(r.Apply, &config); err == nil {
			result, err = d.Apply(ctx, &config)
		}
	case r.Watch != nil:
		if err = protojson.Unmarshal(r.Watch, &config); err == nil {
			err = d.Watch(ctx, &config)
		}
	case r.TakeOver != nil:
		if err = protojson.Unmarshal(r.TakeOver.Config, &config); err == nil {
			result, err = d.TakeOver(ctx, &config, r.TakeOver.foreign())
		}
	case r.GiveBack != nil:
		err = d.GiveBack(ctx, r.GiveBack.foreign().Restore)
	case r.Check != nil:
		if err = protojson.Unmarshal(r.Check, &config); err == nil {
			err = d.Check(ctx, &config)
		}
	case r.Health != nil:
		var proven time.Time
		if r.Trial > 0 {
			proven = time.Now().Add(r.Trial)
		}
		err = d.SetHealth(*r.Health, proven)
	case r.Hung:
		err = d.SetHung()
	case r.Failover != "":
		err = d.Failover(ctx, r.Failover, r.FailoverFor)
	case r.Fence != "":
		err = d.Fence(ctx, r.Fence, r.FenceFor)
	case r.Announce != "":
		err = d.Announce(ctx, r.Announce)
	case r.Withdraw != nil:
		err = d.Withdraw(*r.Withdraw)
	}
	answer := reply{Answer: true, Reloaded: result.Reloaded}
	snapshot := d.Snapshot()
	answer.Snapshot = &snapshot
	if err != nil {
		answer.Error = err.Error()
		answer.Kind = kind(err)
	}
	return answer
}

func kind(err error) string {
	var refused *RefusedError
	var failed *FailedError
	var missing *MissingError
	switch {
	case errors.As(err, &refused):
		return "refused"
	case errors.As(err, &failed):
		return "failed"
	case errors.As(err, &missing):
		return "missing"
	default:
		return "other"
	}
}
