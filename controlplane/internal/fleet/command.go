package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// commandTimeout bounds a command whose caller set no deadline.
	commandTimeout = 30 * time.Second
	// maxPending bounds the commands that one agent has not answered.
	maxPending = 64
)

// Errors of a command.
var (
	// ErrDisconnected means that the node has no session, or lost it before it
	// answered: whether it did what it was told is not known.
	ErrDisconnected = errors.New("the node's agent is not connected")
	// ErrBusy means that the agent has left 64 commands unanswered.
	ErrBusy = errors.New("the node's agent has too many commands to answer")
)

// call is a command on its way to a node and back.
type call struct {
	command *agentv1.Command
	answer  chan answer     // room for one
	gone    <-chan struct{} // closed when nobody waits any more
}

type answer struct {
	result *agentv1.CommandResult
	err    error
}

// Command has a node do one thing once and returns its answer. It gives the
// command an id and, from ctx, a deadline (30 s without one), waits for no
// configuration that is under way, and fails with ErrDisconnected, ErrBusy or
// the end of ctx.
func (f *Fleet) Command(ctx context.Context, cluster, node string, command *agentv1.Command) (*agentv1.CommandResult, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	s := c.session(node)
	if s == nil {
		return nil, fmt.Errorf("node %s: %w", node, ErrDisconnected)
	}
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = time.Now().Add(commandTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	command = proto.CloneOf(command)
	command.Id, command.Deadline = uuid.NewString(), timestamppb.New(deadline)
	k := &call{command: command, answer: make(chan answer, 1), gone: ctx.Done()}
	select {
	case s.calls <- k:
	case <-s.ended:
		return nil, fmt.Errorf("node %s: %w", node, ErrDisconnected)
	case <-ctx.Done():
		return nil, fmt.Errorf("node %s did not take the command: %w", node, context.Cause(ctx))
	}
	select {
	case a := <-k.answer:
		return a.result, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("node %s did not answer: %w", node, context.Cause(ctx))
	}
}

// command sends k to the agent.
func (s *session) command(k *call) error {
	for id, p := range s.pending {
		select {
		case <-p.gone:
			delete(s.pending, id)
		default:
		}
	}
	if len(s.pending) >= maxPending {
		k.answer <- answer{err: ErrBusy}
		return nil
	}
	s.pending[k.command.GetId()] = k
	return s.send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Command{Command: k.command}})
}

// result hands the agent's answer to the one who waits for it. One that comes
// too late is dropped.
func (s *session) result(r *agentv1.CommandResult) {
	if k := s.pending[r.GetId()]; k != nil {
		delete(s.pending, r.GetId())
		k.answer <- answer{result: r}
	}
}

// abandonCalls tells those who wait that no answer will come.
func (s *session) abandonCalls() {
	close(s.ended)
	for _, k := range s.pending {
		k.answer <- answer{err: ErrDisconnected}
	}
}
