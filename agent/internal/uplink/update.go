package uplink

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxResources and maxUpdate, in bytes, bound an update, so that a controller
// gone wrong cannot fill the node's memory. 10,000 backends are 2 MiB.
const (
	maxResources = 1 << 18
	maxUpdate    = target.MaxSize
)

// assembly puts the chunks of an update together.
type assembly struct {
	update *agentv1.Update
	size   int // bytes
}

// add returns the update once its last chunk has come, nil before. A chunk of
// another update drops the unfinished one: latest wins.
func (a *assembly) add(chunk *agentv1.Update) (*agentv1.Update, error) {
	if a.update == nil || a.update.GetNonce() != chunk.GetNonce() {
		a.update, a.size = chunk, 0
	} else {
		a.update.Upserts = append(a.update.Upserts, chunk.GetUpserts()...)
		a.update.Removals = append(a.update.Removals, chunk.GetRemovals()...)
	}
	if n := len(a.update.GetUpserts()) + len(a.update.GetRemovals()); n > maxResources {
		return nil, fmt.Errorf("an update with more than %d resources", maxResources)
	}
	if a.size += proto.Size(chunk); a.size > maxUpdate {
		return nil, fmt.Errorf("an update of more than %d MiB", maxUpdate>>20)
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
		level := hclog.Warn
		if reason == agentv1.NackReason_NACK_REASON_BASE_MISMATCH {
			level = hclog.Info // and the whole configuration comes
		}
		s.Logger.Log(level, "update refused", "revision", u.GetVersion().GetRuntime(), "error", err)
		s.nack(&agentv1.Nack{Nonce: u.GetNonce(), Version: u.GetVersion(), Reason: reason, Message: err.Error()})
		return nil
	}
	s.submitted = u.GetNonce()
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
	err := target.CheckKnown(u)
	switch {
	case err != nil:
	case u.GetBaseHash() == "":
		next, err = target.FromConfig(&agentv1.NodeConfig{Version: u.GetVersion(), Resources: u.GetUpserts()})
	default:
		base := s.Reconciler.Known(u.GetBaseHash())
		if base == nil {
			return nil, agentv1.NackReason_NACK_REASON_BASE_MISMATCH,
				fmt.Errorf("this node does not have configuration %q", u.GetBaseHash())
		}
		next, err = base.Apply(u.GetVersion(), u.GetUpserts(), u.GetRemovals())
	}
	if s.tooNew(&err) {
		return nil, agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD, err
	}
	if err != nil {
		return nil, agentv1.NackReason_NACK_REASON_REFUSED, err
	}
	return next, agentv1.NackReason_NACK_REASON_UNSPECIFIED, nil
}

// tooNew tells whether an error is that this agent does not know something, and
// then says which agent does: at the latest that of the controller's version.
func (s *session) tooNew(err *error) bool {
	var unknown *target.UnknownError
	if !errors.As(*err, &unknown) {
		return false
	}
	*err = fmt.Errorf("lb-agent %s does not know %s: it needs agent ≥ %s, the controller's version", s.Version, unknown.What, s.controller)
	return true
}
