package fleet

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/crash"
)

// push brings the node nearer to its target: at most one update is under way,
// always to the newest target. What the node has already costs nothing, what
// it could not apply is not sent again.
func (s *session) push() error {
	if !s.open || s.inflight != nil {
		return nil
	}
	s.open = false
	version := s.target.Version()
	switch {
	case version.GetHash() == s.refused:
		s.cluster.stillFailed(s, version)
		return nil
	case sameHash(version, s.applied):
		s.base = s.target
	}
	if proto.Equal(version, s.applied) {
		s.cluster.current(s, version)
		return nil
	}
	s.nonce++
	u, chunks := messages(fmt.Sprintf("%s-%d", s.id, s.nonce), s.base, s.target)
	for _, m := range chunks {
		if err := s.send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Update{Update: m}}); err != nil {
			return err
		}
	}
	crash.UpdateSent.Pass()
	s.inflight, s.last = u, s.target
	s.cluster.sent(s, version)
	return nil
}

// ack takes the agent's word that a version is in effect, whenever it comes: a
// node may succeed long after it has nacked.
func (s *session) ack(a *agentv1.Ack) {
	crash.AckReceived.Pass()
	version := boundedVersion(a.GetVersion())
	changes := !proto.Equal(version, s.applied)
	if u := s.inflight; u != nil && (a.GetNonce() == u.nonce || sameHash(version, u.target.Version())) {
		s.inflight = nil
		version, changes = u.target.Version(), u.changes
	}
	s.applied = version
	if s.refused == version.GetHash() {
		s.refused, s.open = "", true // the target may differ by its number only
	}
	switch {
	case s.last != nil && sameHash(version, s.last.Version()):
		s.base = s.last
	case s.base != nil && !sameHash(version, s.base.Version()):
		s.base = nil
	}
	s.cluster.acked(s, a, version, changes)
}

// nack takes the agent's word that the update under way is not in effect.
func (s *session) nack(n *agentv1.Nack) {
	u := s.inflight
	if u == nil || n.GetNonce() != u.nonce {
		return
	}
	s.inflight = nil
	if n.GetReason() == agentv1.NackReason_NACK_REASON_BASE_MISMATCH && !u.snapshot {
		s.base, s.applied, s.open = nil, nil, true
		return
	}
	s.refused = u.target.Version().GetHash()
	s.cluster.nacked(s, n, u.target.Version())
}

func sameHash(a, b *agentv1.Version) bool { return a.GetHash() == b.GetHash() }
