package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxCommands bounds the commands that are carried out at a time, maxDiagnoses the
// diagnoses beside them: one takes seconds, for which no fence and no failover may be
// refused. What comes beyond is answered at once as not done.
const (
	maxCommands  = 4
	maxDiagnoses = 1
)

// capabilities are the commands that this agent carries out.
var capabilities = []string{"command/check", "command/discard", "command/failover", "command/fence", "command/announce", "command/diagnose", "command/ping"}

// errLate is the answer to a command whose deadline has passed.
var errLate = errors.New("the deadline has passed")

// carried is a command that is carried out, or not: its answer, and which of the session's counts it is part of.
type carried struct {
	answer *agentv1.SessionRequest
	slots  *int
}

// command starts a command. It runs beside the session, so that a slow check
// delays neither targets nor reports, and ends with it; its result comes back
// through results.
func (s *session) command(ctx context.Context, c *agentv1.Command) {
	if c.GetPing() != nil {
		s.send(result(c, agentv1.CommandOutcome_COMMAND_OUTCOME_DONE, nil))
		return
	}
	slots, most, what := &s.commands, maxCommands, "commands to carry out"
	if c.GetDiagnose() != nil {
		slots, most, what = &s.diagnoses, maxDiagnoses, "diagnosis under way"
	}
	if *slots >= most {
		err := fmt.Errorf("the agent has %d %s: ask again", most, what)
		s.send(result(c, agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, err))
		return
	}
	*slots++
	// The controller's clock set the deadline; this node's may be wrong.
	deadline := c.GetDeadline().AsTime().Add(s.ahead)
	go func() {
		limited, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		answer := s.obey(limited, c)
		select {
		case s.results <- carried{answer, slots}:
		case <-ctx.Done():
		}
	}()
}

func result(c *agentv1.Command, outcome agentv1.CommandOutcome, err error) *agentv1.SessionRequest {
	r := &agentv1.CommandResult{Id: c.GetId(), Outcome: outcome}
	if err != nil {
		r.Error = err.Error()
	}
	return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: r}}
}

// obey carries a command out and returns the answer.
func (s *session) obey(ctx context.Context, c *agentv1.Command) *agentv1.SessionRequest {
	if c.GetDiagnose() == nil || ctx.Err() != nil || target.CheckKnown(c) != nil {
		outcome, err := s.execute(ctx, c)
		return result(c, outcome, err)
	}
	// What was found until the deadline is an answer.
	found := s.Diagnose(ctx)
	r := result(c, agentv1.CommandOutcome_COMMAND_OUTCOME_DONE, nil)
	r.GetResult().Diagnosis = found
	return r
}

// execute carries a command out until it is done or ctx ends. It must not use
// what the session's loop owns.
func (s *session) execute(ctx context.Context, c *agentv1.Command) (agentv1.CommandOutcome, error) {
	err := target.CheckKnown(c)
	switch {
	case ctx.Err() != nil:
		return agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, errLate
	case s.tooNew(&err):
		return agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, err
	case c.GetCheck() != nil:
		err = s.check(ctx, c.GetCheck())
	case c.GetDiscard() != nil:
		err = s.Drift.DiscardFor(ctx, c.GetDiscard())
	case c.GetFence() != nil:
		err = s.Fence(ctx, c.GetFence().GetVip(), c.GetFence().GetLease().AsDuration())
	case c.GetAnnounce() != nil:
		err = s.Announce(ctx, c.GetAnnounce().GetVip())
	case c.GetFailover() != nil:
		err = s.Failover(ctx, c.GetFailover())
	default:
		err = &target.UnknownError{What: "the command"}
		s.tooNew(&err)
		return agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, err
	}
	switch {
	case ctx.Err() != nil:
		return agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, errLate
	case err != nil:
		return agentv1.CommandOutcome_COMMAND_OUTCOME_FAILED, err
	}
	return agentv1.CommandOutcome_COMMAND_OUTCOME_DONE, nil
}

// check asks the daemons' checkers about a configuration.
func (s *session) check(ctx context.Context, c *agentv1.CheckCommand) error {
	t, err := target.FromConfig(c.GetConfig())
	if err != nil {
		return err
	}
	return s.Reconciler.Check(ctx, t)
}

// aheadOf is how far this node's clock is ahead of the controller's; 0 when the
// controller does not tell its time.
func aheadOf(w *agentv1.Welcome) time.Duration {
	if w.GetTime() == nil {
		return 0
	}
	return time.Since(w.GetTime().AsTime())
}
