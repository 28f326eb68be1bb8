package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/identity"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// wire is the controller's end of a session, without buffers: it reads what the
// test hears.
type wire struct {
	grpc.ClientStream
	ctx  context.Context //nolint:containedctx // a stream has one
	up   chan *agentv1.SessionRequest
	down chan *agentv1.SessionResponse
}

func (w *wire) Send(m *agentv1.SessionRequest) error {
	select {
	case w.up <- m:
		return nil
	case <-w.ctx.Done():
		return io.EOF
	}
}

func (w *wire) Recv() (*agentv1.SessionResponse, error) {
	select {
	case m := <-w.down:
		return m, nil
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	}
}

// checker stands where the reconciler is.
type checker struct {
	at
	submitted []string // nonces
	outcomes  chan reconcile.Outcome
	check     func(context.Context) error
}

func (c *checker) Submit(nonce string, _ *target.Target)             { c.submitted = append(c.submitted, nonce) }
func (c *checker) Outcomes() <-chan reconcile.Outcome                { return c.outcomes }
func (c *checker) Check(ctx context.Context, _ *target.Target) error { return c.check(ctx) }

// desk is an agent's session with a controller that the test plays.
type desk struct {
	*wire
	t       *testing.T
	report  *report.Report
	checker *checker
	hello   *agentv1.Hello
	ended   chan error
	end     func()

	diagnose func(context.Context) *agentv1.Diagnosis
}

// newDesk begins a session; it is to be used in a bubble and ends with end.
func newDesk(t *testing.T, welcome *agentv1.Welcome) *desk {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	w := &wire{ctx: ctx, up: make(chan *agentv1.SessionRequest), down: make(chan *agentv1.SessionResponse)}
	conn, err := grpc.NewClient("passthrough:///controller", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{
		wire: w, t: t, report: report.New("boot"), checker: &checker{outcomes: make(chan reconcile.Outcome, 1)},
		ended: make(chan error, 1),
		end: func() {
			cancel(nil)
			synctest.Wait()
			_ = conn.Close()
		},
	}
	s := &session{
		Uplink: &Uplink{Options: Options{Version: "1.0", Report: d.report, Reconciler: d.checker, Problem: func(string, string) {}, Logger: hclog.NewNullLogger(),
			Diagnose: func(ctx context.Context) *agentv1.Diagnosis { return d.diagnose(ctx) }}, identity: someone(t)},
		conn: conn, stream: w, cancel: cancel, received: make(chan received),
		outbox: make(chan *agentv1.SessionRequest), results: make(chan carried),
		renewer: newRenewer(t.TempDir(), conn, func(string) {}, hclog.NewNullLogger()),
	}
	go s.receive(ctx)
	go func() {
		if err := s.greet(ctx); err != nil {
			d.ended <- err
			return
		}
		d.ended <- s.run(ctx)
	}()
	d.hello = d.hear().GetHello()
	welcome.Protocol = newestProtocol
	d.say(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Welcome{Welcome: welcome}})
	return d
}

// someone is an identity that is good for an hour.
func someone(t *testing.T) *identity.Identity {
	t.Helper()
	return first(t, t.TempDir(), &renewals{ca: newCA(t)})
}

// hear returns the next message from the agent.
func (d *desk) hear() *agentv1.SessionRequest {
	d.t.Helper()
	select {
	case m := <-d.up:
		return m
	case <-time.After(time.Minute):
		d.t.Fatal("the agent says nothing for a minute")
		return nil
	}
}

// answer returns the next answer to a command, and passes over reports.
func (d *desk) answer() *agentv1.CommandResult {
	d.t.Helper()
	for {
		if r := d.hear().GetResult(); r != nil {
			return r
		}
	}
}

func (d *desk) say(m *agentv1.SessionResponse) {
	d.t.Helper()
	select {
	case d.down <- m:
	case <-time.After(time.Minute):
		d.t.Fatal("the agent does not read for a minute")
	}
}

func (d *desk) command(id string, in time.Duration, kind *agentv1.Command) {
	d.t.Helper()
	kind.Id, kind.Deadline = id, timestamppb.New(time.Now().Add(in))
	d.say(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Command{Command: kind}})
}

func checkOf(resources ...*agentv1.Resource) *agentv1.Command {
	return &agentv1.Command{Kind: &agentv1.Command_Check{Check: &agentv1.CheckCommand{Config: &agentv1.NodeConfig{Resources: resources}}}}
}

func TestCommandsAreAnswered(t *testing.T) {
	const (
		done    = agentv1.CommandOutcome_COMMAND_OUTCOME_DONE
		failed  = agentv1.CommandOutcome_COMMAND_OUTCOME_FAILED
		notDone = agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE
	)
	unknown := backend("c")
	unknown.GetBackend().Mode = 99
	newer := checkOf(backend("a"))
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	ready := func(context.Context) error { return nil }
	for name, test := range map[string]struct {
		command *agentv1.Command
		check   func(context.Context) error
		in      time.Duration
		outcome agentv1.CommandOutcome
		words   string
	}{
		"the checkers accept":  {checkOf(backend("a")), ready, time.Second, done, ""},
		"a checker refuses":    {checkOf(backend("a")), func(context.Context) error { return errors.New("[ALERT] no") }, time.Second, failed, "[ALERT] no"},
		"it is no target":      {checkOf(backend("a"), backend("a")), ready, time.Second, failed, "comes twice"},
		"the deadline is over": {checkOf(backend("a")), ready, -time.Second, notDone, "deadline"},
		"the deadline ends it": {checkOf(backend("a")), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, time.Second, notDone, "deadline"},
		"an unknown value":     {checkOf(unknown), ready, time.Second, notDone, "lb-agent 1.0 does not know value 99 of tandem.agent.haproxy.v1.Backend.mode: it needs agent ≥ 1.1"},
		"an unknown field":     {newer, ready, time.Second, notDone, "it needs agent ≥ 1.1"},
		"an unknown command":   {&agentv1.Command{}, ready, time.Second, notDone, "does not know the command: it needs agent ≥ 1.1"},
		"one for later agents": {&agentv1.Command{Kind: &agentv1.Command_Probe{Probe: &agentv1.ProbeCommand{}}}, ready, time.Second, notDone, "it needs agent ≥ 1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, &agentv1.Welcome{ControllerVersion: "1.1"})
				defer d.end()
				d.checker.check = test.check
				d.command("7", test.in, test.command)
				r := d.answer()
				if r.GetId() != "7" || r.GetOutcome() != test.outcome || !strings.Contains(r.GetError(), test.words) || (test.words == "") != (r.GetError() == "") {
					t.Errorf("the answer is %v, want %v with %q", r, test.outcome, test.words)
				}
			})
		})
	}
}

// The deadline is the controller's; a node whose clock is wrong keeps it all
// the same.
func TestDeadlineByTheControllersClock(t *testing.T) {
	for _, wrong := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, &agentv1.Welcome{Time: timestamppb.New(time.Now().Add(-wrong))})
			defer d.end()
			begin := time.Now()
			d.checker.check = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			d.command("7", 10*time.Second-wrong, checkOf())
			if d.answer(); time.Since(begin) != 10*time.Second {
				t.Errorf("a clock %v ahead makes a deadline of 10 s one of %v", wrong, time.Since(begin))
			}
		})
	}
}

// Commands beyond a number are answered at once, delay no target, and end with
// the session.
func TestCommandsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, &agentv1.Welcome{})
		var running atomic.Int32
		d.checker.check = func(ctx context.Context) error {
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			return ctx.Err()
		}
		const flood = 40
		for i := range flood {
			d.command(fmt.Sprint(i), time.Hour, checkOf())
		}
		for range flood - maxCommands {
			if r := d.answer(); r.GetOutcome() != agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE || !strings.Contains(r.GetError(), "ask again") {
				t.Errorf("a command beyond the bound is answered %v", r)
			}
		}
		synctest.Wait()
		if n := running.Load(); n != maxCommands {
			t.Errorf("%d commands at a time, want %d", n, maxCommands)
		}
		d.say(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Update{Update: &agentv1.Update{Nonce: "n", Version: &agentv1.Version{Hash: "h"}}}})
		synctest.Wait()
		if len(d.checker.submitted) != 1 {
			t.Error("a target waits behind commands")
		}
		d.end()
		if n := running.Load(); n != 0 {
			t.Errorf("%d commands outlive their session", n)
		}
	})
}

// A diagnosis takes seconds: it has a slot of its own, so that the node is fenced, and
// gives VIPs up, whatever is diagnosed meanwhile. A second one is refused.
func TestDiagnosesKeepNoCommandOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, &agentv1.Welcome{})
		defer d.end()
		d.diagnose = func(ctx context.Context) *agentv1.Diagnosis { <-ctx.Done(); return &agentv1.Diagnosis{} }
		const flood = 2 * maxCommands
		for i := range flood {
			d.command(fmt.Sprint(i), 30*time.Second, &agentv1.Command{Kind: &agentv1.Command_Diagnose{Diagnose: &agentv1.DiagnoseCommand{}}})
		}
		for i := range flood - maxDiagnoses {
			if r := d.answer(); r.GetId() != fmt.Sprint(i+maxDiagnoses) || r.GetOutcome() != agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE || !strings.Contains(r.GetError(), "1 diagnosis under way: ask again") {
				t.Errorf("a diagnosis beside another one is answered %v", r)
			}
		}
		d.checker.check = func(context.Context) error { return nil }
		d.command("check", time.Second, checkOf())
		if r := d.answer(); r.GetId() != "check" || r.GetOutcome() != agentv1.CommandOutcome_COMMAND_OUTCOME_DONE {
			t.Errorf("a command beside diagnoses is answered %v", r)
		}
		if r := d.answer(); r.GetId() != "0" || r.GetDiagnosis() == nil {
			t.Errorf("the diagnosis that was begun is answered %v", r)
		}
		d.diagnose = func(context.Context) *agentv1.Diagnosis { return &agentv1.Diagnosis{} }
		d.command("again", 30*time.Second, &agentv1.Command{Kind: &agentv1.Command_Diagnose{Diagnose: &agentv1.DiagnoseCommand{}}})
		if r := d.answer(); r.GetId() != "again" || r.GetDiagnosis() == nil {
			t.Errorf("the next one is answered %v", r)
		}
	})
}

// Whether the agent is there is answered at once, with all its hands full.
func TestAPingIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, &agentv1.Welcome{})
		defer d.end()
		d.checker.check = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		for i := range maxCommands {
			d.command(fmt.Sprint(i), time.Hour, checkOf())
		}
		begin := time.Now()
		d.command("ping", time.Second, &agentv1.Command{Kind: &agentv1.Command_Ping{Ping: &agentv1.PingCommand{}}})
		if r := d.answer(); r.GetId() != "ping" || r.GetOutcome() != agentv1.CommandOutcome_COMMAND_OUTCOME_DONE || time.Since(begin) != 0 {
			t.Errorf("it is answered %v after %v", r, time.Since(begin))
		}
	})
}

// An agent reads though its controller does not: with both waiting, neither
// would get on. A controller that reads nothing loses the session.
func TestI9StalledController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, &agentv1.Welcome{})
		defer d.end()
		begin := time.Now()
		out := time.After(2 * sendTimeout)
		for i := range 3 * maxQueue {
			d.report.Note("something")
			// The second half has no base, so each is an answer that waits.
			u := &agentv1.Update{Nonce: fmt.Sprint(i), Version: &agentv1.Version{Hash: "h"}}
			if i > maxQueue {
				u.BaseHash = "unknown"
			}
			select {
			case d.down <- &agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Update{Update: u}}:
			case <-d.ctx.Done():
			case <-out:
				t.Fatal("the session goes on")
			}
		}
		if got := len(d.checker.submitted); got <= maxQueue {
			t.Errorf("%d targets are taken from a controller that does not read, want %d", got, maxQueue+1)
		}
		err := <-d.ended
		if !errors.Is(err, errStalled) || time.Since(begin) != sendTimeout {
			t.Errorf("the session ends with %v after %v, want errStalled after %v", err, time.Since(begin), sendTimeout)
		}
	})
}
