// Package drift keeps what operators change on the node itself, with lb-agent,
// while the controller is away or whatever it wants. Such a change lies on top
// of every target until the controller wants the same or somebody discards it:
// it survives a reboot, holds back no target, and takes the ordinary way to the
// daemons.
package drift

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Report is told of every change. Its methods must not block.
type Report interface {
	// LocalChanges are all that there are now.
	LocalChanges(all []*agentv1.LocalChange)
	// LocalBegun is one that has begun, or become another one.
	LocalBegun(c *agentv1.LocalChange)
	// LocalEnded is one that is over; how says why.
	LocalEnded(c *agentv1.LocalChange, how string)
	// Unsaved tells why the changes are not on disk, "" when they are.
	Unsaved(key, text string)
}

// By is who makes a change, and why.
type By struct {
	Author, Reason string
}

// Node is the subject of the node's own drain, among subjects that are
// "pool/backend" else.
const Node = ""

// Set is the local changes of one node. Its methods are safe for concurrent use.
type Set struct {
	report Report
	file   file

	mu      sync.Mutex
	changes map[string]*agentv1.LocalChange // by subject; a change is replaced, never altered
}

// Subject names what a change is about: Node, or "pool/backend".
func Subject(c *agentv1.LocalChange) string {
	if b := c.GetBackend(); b != nil {
		return b.GetPool() + "/" + b.GetBackend()
	}
	return Node
}

// All returns the changes, the node's own first.
func (s *Set) All() []*agentv1.LocalChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all()
}

func (s *Set) all() []*agentv1.LocalChange {
	return slices.SortedFunc(maps.Values(s.changes), func(a, b *agentv1.LocalChange) int {
		return cmp.Compare(Subject(a), Subject(b))
	})
}

// SetDrain drains the node, or ends its drain. It returns the change that this
// makes, nil when t wants the same, and a warning when it is not on disk.
func (s *Set) SetDrain(t *target.Target, drain bool, by By) (change *agentv1.LocalChange, warning error) {
	return s.put(t, Node, func(*agentv1.LocalChange) *agentv1.LocalChange {
		return by.change(&agentv1.LocalChange{Kind: &agentv1.LocalChange_Drain{Drain: drain}})
	})
}

// SetBackend sets a backend's state, or its weight when ready, or both; what is
// not given stays as it is on this node. It returns what SetDrain returns. The
// backend must be one of t.
func (s *Set) SetBackend(t *target.Target, b *agentv1.LocalBackend, by By) (change *agentv1.LocalChange, warning error) {
	return s.put(t, b.GetPool()+"/"+b.GetBackend(), func(old *agentv1.LocalChange) *agentv1.LocalChange {
		next, was := proto.CloneOf(b), old.GetBackend()
		if next.State == agentv1.AdminState_ADMIN_STATE_UNSPECIFIED {
			next.State = cmp.Or(was.GetState(), stateOf(t.Server(b.GetPool(), b.GetBackend())))
		}
		if next.Weight == nil && was != nil {
			next.Weight = was.Weight
		}
		return by.change(&agentv1.LocalChange{Kind: &agentv1.LocalChange_Backend{Backend: next}})
	})
}

func (by By) change(c *agentv1.LocalChange) *agentv1.LocalChange {
	c.Author, c.Reason, c.Time = by.Author, by.Reason, timestamppb.New(time.Now())
	return c
}

// put makes a change one of the set, or ends the one that it undoes.
func (s *Set) put(t *target.Target, subject string, make func(old *agentv1.LocalChange) *agentv1.LocalChange) (*agentv1.LocalChange, error) {
	c, changed := s.replace(t, subject, make)
	if !changed {
		return c, nil
	}
	return c, s.save()
}

func (s *Set) replace(t *target.Target, subject string, make func(old *agentv1.LocalChange) *agentv1.LocalChange) (now *agentv1.LocalChange, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.changes[subject]
	c := make(old)
	switch {
	case old != nil && same(old, c):
		return old, false
	case differs(t, c):
		s.changes[subject] = c
		s.report.LocalBegun(c)
	case old != nil:
		delete(s.changes, subject)
		s.report.LocalEnded(old, "undone on the node by "+c.GetAuthor())
		c = nil
	default:
		return nil, false
	}
	s.report.LocalChanges(s.all())
	return c, true
}

// same tells whether two changes do the same.
func same(a, b *agentv1.LocalChange) bool {
	if a.GetBackend() != nil {
		return proto.Equal(a.GetBackend(), b.GetBackend())
	}
	return a.GetDrain() == b.GetDrain()
}

// Discard ends the changes of the subjects given, all without any, and returns
// them. The warning tells that this is not on disk.
func (s *Set) Discard(subjects []string, how string) (discarded []*agentv1.LocalChange, warning error) {
	discarded = s.end(how, func(c *agentv1.LocalChange) bool {
		return len(subjects) == 0 || slices.Contains(subjects, Subject(c))
	})
	if len(discarded) == 0 {
		return nil, nil
	}
	return discarded, s.save()
}

// Settle is told of each target that is in effect and ends the changes that the
// controller has come to want too. One of a backend that is not there makes no
// difference either, but stays: the backend may come back.
func (s *Set) Settle(t *target.Target) {
	settled := s.end("the controller wants the same", func(c *agentv1.LocalChange) bool {
		if b := c.GetBackend(); b != nil && t.Server(b.GetPool(), b.GetBackend()) == nil {
			return false
		}
		return !differs(t, c)
	})
	if len(settled) > 0 {
		_ = s.save() // reported
	}
}

// end ends the changes for which over holds and returns them in order.
func (s *Set) end(how string, over func(*agentv1.LocalChange) bool) []*agentv1.LocalChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ended []*agentv1.LocalChange
	for _, c := range s.all() {
		if over(c) {
			delete(s.changes, Subject(c))
			s.report.LocalEnded(c, how)
			ended = append(ended, c)
		}
	}
	if len(ended) > 0 {
		s.report.LocalChanges(s.all())
	}
	return ended
}
