package uplink

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxResources bounds an update, so that a controller gone wrong cannot fill
// the node's memory.
const maxResources = 1 << 18

// assembly puts the chunks of an update together.
type assembly struct {
	update *agentv1.Update
}

// add returns the update once its last chunk has come, nil before. A chunk of
// another update drops the unfinished one: latest wins.
func (a *assembly) add(chunk *agentv1.Update) (*agentv1.Update, error) {
	if a.update == nil || a.update.GetNonce() != chunk.GetNonce() {
		a.update = chunk
	} else {
		a.update.Upserts = append(a.update.Upserts, chunk.GetUpserts()...)
		a.update.Removals = append(a.update.Removals, chunk.GetRemovals()...)
	}
	if n := len(a.update.GetUpserts()) + len(a.update.GetRemovals()); n > maxResources {
		return nil, fmt.Errorf("an update with more than %d resources", maxResources)
	}
	if chunk.GetMore() {
		return nil, nil
	}
	whole := a.update
	a.update = nil
	return whole, nil
}

// update hands a new target to the reconciler, or nacks it.
func (s *session) update(chunk *agentv1.Update) error {
	u, err := s.assembly.add(chunk)
	if u == nil || err != nil {
		return err
	}
	next, reason, err := s.next(u)
	if err != nil {
		s.Logger.Warn("update refused", "revision", u.GetVersion().GetRuntime(), "error", err)
		return s.nack(&agentv1.Nack{Nonce: u.GetNonce(), Version: u.GetVersion(), Reason: reason, Message: err.Error()})
	}
	s.Reconciler.Submit(u.GetNonce(), next)
	return nil
}

// next computes the target that an update asks for.
func (s *session) next(u *agentv1.Update) (*target.Target, agentv1.NackReason, error) {
	if applied := s.Reconciler.Applied(); applied != nil {
		have, want := applied.Version(), u.GetVersion()
		if have.GetEpoch() == want.GetEpoch() && want.GetRuntime() < have.GetRuntime() {
			return nil, agentv1.NackReason_NACK_REASON_OLD_VERSION,
				fmt.Errorf("revision %d is older than %d, which is in effect", want.GetRuntime(), have.GetRuntime())
		}
	}
	var next *target.Target
	var err error
	if u.GetBaseHash() == "" {
		next, err = target.FromConfig(&agentv1.NodeConfig{Version: u.GetVersion(), Resources: u.GetUpserts()})
	} else {
		base := s.Reconciler.Known(u.GetBaseHash())
		if base == nil {
			return nil, agentv1.NackReason_NACK_REASON_BASE_MISMATCH,
				fmt.Errorf("this node does not have configuration %q", u.GetBaseHash())
		}
		next, err = base.Apply(u.GetVersion(), u.GetUpserts(), u.GetRemovals())
	}
	var unknown *target.UnknownError
	if errors.As(err, &unknown) {
		return nil, agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD, err
	}
	if err != nil {
		return nil, agentv1.NackReason_NACK_REASON_REFUSED, err
	}
	return next, agentv1.NackReason_NACK_REASON_UNSPECIFIED, nil
}

// command starts a command. It runs beside the session, so that a slow check
// delays neither targets nor reports; its result comes back through results.
func (s *session) command(ctx context.Context, c *agentv1.Command) {
	ctx, cancel := context.WithDeadline(ctx, c.GetDeadline().AsTime())
	go func() {
		defer cancel()
		result := &agentv1.CommandResult{Id: c.GetId()}
		if err := s.execute(ctx, c); err != nil {
			result.Error = err.Error()
		}
		select {
		case s.results <- result:
		case <-ctx.Done():
		}
	}()
}

func (s *session) execute(ctx context.Context, c *agentv1.Command) error {
	switch {
	case ctx.Err() != nil:
		return errors.New("the deadline has passed")
	case c.GetCheck() != nil:
		t, err := target.FromConfig(c.GetCheck().GetConfig())
		if err != nil {
			return err
		}
		return s.Reconciler.Check(ctx, t)
	case c.GetDiscard() != nil:
		return s.Drift.DiscardFor(ctx, c.GetDiscard())
	default:
		return errors.New("this agent does not know the command: it needs a newer lb-agent")
	}
}
