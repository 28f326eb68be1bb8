package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		a.pause = func() time.Duration { return time.Minute }
		var got *agentv1.Command
		a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			got = c
			if c.GetProbe().GetUrl() == "silence" {
				return nil
			}
			return &agentv1.CommandResult{Output: "done"}
		}
		probe := func(url string) *agentv1.Command {
			return &agentv1.Command{Kind: &agentv1.Command_Probe{Probe: &agentv1.ProbeCommand{Url: url}}}
		}
		r, err := l.fleet.Command(l.ctx, home, "lb-master", probe("http://127.0.0.1/"))
		if err != nil || r.GetOutput() != "done" || r.GetId() == "" {
			t.Errorf("Command = %v, %v", r, err)
		}
		if d := time.Until(got.GetDeadline().AsTime()); d != commandTimeout {
			t.Errorf("deadline in %v, want %v", d, commandTimeout)
		}
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		if _, err := l.fleet.Command(ctx, home, "lb-master", probe("silence")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Command without an answer = %v", err)
		}
		if _, err := l.fleet.Command(l.ctx, home, "nobody", probe("")); !errors.Is(err, ErrDisconnected) {
			t.Errorf("Command to nobody = %v", err)
		}
		// Those that wait when the session ends are told.
		failed := make(chan error, 1)
		l.all.Go(func() {
			_, err := l.fleet.Command(l.ctx, home, "lb-master", probe("silence"))
			failed <- err
		})
		synctest.Wait()
		_ = a.disconnect()
		if err := <-failed; !errors.Is(err, ErrUnanswered) {
			t.Errorf("Command whose session ended = %v", err)
		}
	})
}

func TestUnansweredCommandsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		command := &agentv1.Command{Kind: &agentv1.Command_Check{Check: &agentv1.CheckCommand{}}}
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
		busy := make(chan error, maxPending+1)
		for range maxPending + 1 {
			l.all.Go(func() {
				_, err := l.fleet.Command(l.ctx, home, "lb-master", command)
				busy <- err
			})
		}
		synctest.Wait()
		if err := <-busy; !errors.Is(err, ErrBusy) || len(busy) != 0 {
			t.Errorf("the first answer = %v, %d more; want ErrBusy alone", err, len(busy))
		}
		pass(commandTimeout)
		// Those that have given up make room.
		a.mu.Lock()
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return &agentv1.CommandResult{} }
		a.mu.Unlock()
		if _, err := l.fleet.Command(l.ctx, home, "lb-master", command); err != nil {
			t.Errorf("Command = %v", err)
		}
	})
}

// What an agent cannot do is not asked of it; what it will not do, it does not
// count as having answered.
func TestCommandsThatAreNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master")
		a.capabilities = []string{"command/check"}
		asked := 0
		answer := &agentv1.CommandResult{}
		a.commands = func(*agentv1.Command) *agentv1.CommandResult {
			asked++
			return answer
		}
		a.connect()
		synctest.Wait()
		for name, test := range map[string]struct {
			command *agentv1.Command
			answer  *agentv1.CommandResult
			want    error
			asked   int
		}{
			"not known to the agent": {
				command: &agentv1.Command{Kind: &agentv1.Command_Fence{Fence: &agentv1.FenceCommand{Vip: "web"}}},
				want:    ErrTooOld,
			},
			"of no kind": {command: &agentv1.Command{}, want: ErrTooOld},
			"too large": {
				command: check(strings.Repeat("x", maxCommand)),
				want:    ErrTooLarge,
			},
			"refused by the agent": {
				command: check(""), asked: 1, want: ErrNotDone,
				answer: &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, Error: "busy"},
			},
		} {
			asked, answer = 0, test.answer
			if r, err := l.fleet.Command(l.ctx, home, "lb-master", test.command); !errors.Is(err, test.want) || asked != test.asked {
				t.Errorf("a command that is %s gives %v, %v, asked %d times; want %v, %d", name, r, err, asked, test.want, test.asked)
			}
		}
	})
}

func check(key string) *agentv1.Command {
	return &agentv1.Command{Kind: &agentv1.Command_Check{Check: &agentv1.CheckCommand{
		Config: &agentv1.NodeConfig{Resources: []*agentv1.Resource{{Key: key}}},
	}}}
}

// An answer that comes late, twice or unasked is nobody's; a long one is cut.
func TestAnswersThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		var ids []string
		a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			ids = append(ids, c.GetId())
			return nil
		}
		say := func(id, text string) {
			a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{Id: id, Error: text}}})
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		if _, err := l.fleet.Command(ctx, home, "lb-master", check("")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Command = %v, want that the time is over", err)
		}
		answered := make(chan string, 1)
		l.all.Go(func() {
			r, err := l.fleet.Command(l.ctx, home, "lb-master", check(""))
			if err != nil {
				t.Errorf("Command = %v", err)
			}
			answered <- r.GetError()
		})
		synctest.Wait()
		say(ids[0], "late")
		say("unasked", "unasked")
		say("", "without an id")
		if len(answered) != 0 {
			t.Fatalf("another command's answer was taken: %q", <-answered)
		}
		say(ids[1], strings.Repeat("x", 2*maxAnswer))
		say(ids[1], "again")
		if got := <-answered; len(got) != maxAnswer {
			t.Errorf("an answer of %d bytes, want %d", len(got), maxAnswer)
		}
	})
}

// Check asks the checkers of all nodes about what is not desired yet, beside an
// update that is under way, and tells who did not say.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "accepts", "refuses", "silent", "old", "away")
		for _, node := range []string{"accepts", "refuses", "silent", "old"} {
			a := l.agent(node)
			if node == "old" {
				a.capabilities = nil
			}
			a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
				if got := c.GetCheck().GetConfig(); !slices.ContainsFunc(got.GetResources(), func(r *agentv1.Resource) bool {
					return r.GetServer().GetName() == "web3"
				}) {
					t.Errorf("%s is asked about %v", node, got)
				}
				switch node {
				case "refuses":
					return &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_FAILED, Error: "[ALERT] no"}
				case "silent":
					return nil
				default:
					return &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_DONE}
				}
			}
			a.connect()
		}
		synctest.Wait()
		head, err := l.ledger.Head(home)
		if err != nil {
			t.Fatal(err)
		}
		next := l.apply(head, state.CreateBackend("web_servers", "web3", &tandemv1.Backend{Address: "192.168.1.22", Port: 80}))
		checks, err := l.fleet.Check(l.ctx, next)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range checks {
			got = append(got, fmt.Sprintf("%s %s %s", lastID(c.GetNode()), strings.TrimPrefix(c.GetVerdict().String(), "NODE_VERDICT_"), c.GetMessage()))
		}
		want := []string{
			"accepts ACCEPTED ",
			"refuses REFUSED [ALERT] no",
			"silent UNKNOWN node silent: its agent did not answer: no verdict within 10 s",
			"old UNKNOWN node old: its agent is too old: lb-agent 1.0 does not know command/check, it needs agent ≥ test",
			"away UNKNOWN node away: its agent is not connected",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("verdicts (-want +got):\n%s", d)
		}
		if n := l.node("accepts"); n.GetSent() != head.Revision() {
			t.Errorf("a check sent revision %d", n.GetSent())
		}
	})
}
