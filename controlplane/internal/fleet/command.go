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
	// maxAnswer bounds each text in an answer, in bytes.
	maxAnswer = 16 << 10
	// maxCommand bounds a command, in bytes; agents take messages of 4 MiB.
	maxCommand = 4<<20 - 4096
)

// Errors of a command. After none of them is it known that the node did what it
// was told.
var (
	// ErrDisconnected means that the node has no session, and was not asked.
	ErrDisconnected = errors.New("its agent is not connected")
	// ErrUnanswered means that the session ended before the agent answered, which may
	// have done it.
	ErrUnanswered = errors.New("its agent was lost before it answered")
	// ErrBusy means that the agent has left 64 commands unanswered.
	ErrBusy = errors.New("its agent has too many commands to answer")
	// ErrTooOld means that the agent does not know the command.
	ErrTooOld = errors.New("its agent is too old")
	// ErrTooLarge means that the command does not fit into a message.
	ErrTooLarge = errors.New("the command is larger than an agent takes")
	// ErrNotDone means that the agent did not carry the command out.
	ErrNotDone = errors.New("its agent did not carry it out")
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

// Command has a node do one thing once and returns the agent's answer: what was
// asked is done, or the result's error is the answer. It gives the command an id
// and, from ctx, a deadline (30 s without one), waits for no configuration that
// is under way, and fails with one of the errors above or the end of ctx.
func (f *Fleet) Command(ctx context.Context, cluster, node string, command *agentv1.Command) (*agentv1.CommandResult, error) {
	result, err := f.call(ctx, cluster, node, command)
	if err == nil && result.GetOutcome() == agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE {
		err = fmt.Errorf("%w: %s", ErrNotDone, result.GetError())
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	return result, nil
}

func (f *Fleet) call(ctx context.Context, cluster, node string, command *agentv1.Command) (*agentv1.CommandResult, error) {
	c, err := f.cluster(cluster)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, node, command)
}

// ask is Command, without a look at the outcome.
func (c *cluster) ask(ctx context.Context, node string, command *agentv1.Command) (*agentv1.CommandResult, error) {
	s, err := c.capable(node, command)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, command)
}

// ask sends a command and waits for its answer.
func (s *session) ask(ctx context.Context, command *agentv1.Command) (*agentv1.CommandResult, error) {
	if proto.Size(command) > maxCommand {
		return nil, ErrTooLarge
	}
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = time.Now().Add(commandTimeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	command = &agentv1.Command{Id: uuid.NewString(), Deadline: timestamppb.New(deadline), Kind: command.GetKind()}
	k := &call{command: command, answer: make(chan answer, 1), gone: ctx.Done()}
	select {
	case s.calls <- k:
	case <-s.ended:
		return nil, ErrDisconnected
	case <-ctx.Done():
		return nil, fmt.Errorf("its agent did not take the command: %w", context.Cause(ctx))
	}
	select {
	case a := <-k.answer:
		return a.result, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("its agent did not answer: %w", context.Cause(ctx))
	}
}

// capable returns the session of a node whose agent knows a command.
func (c *cluster) capable(node string, command *agentv1.Command) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node]
	if n == nil || n.session == nil {
		return nil, ErrDisconnected
	}
	if what := capability(command); !n.capabilities[what] {
		return nil, fmt.Errorf("%w: lb-agent %s does not know %s, it needs agent ≥ %s", ErrTooOld, n.agentVersion, what, c.options.Version)
	}
	return n.session, nil
}

// capability is what an agent calls a command in its hello: "command/" and the
// name of its kind.
func capability(command *agentv1.Command) string {
	m := command.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if kind == nil {
		return ""
	}
	return "command/" + string(kind.Name())
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
// too late, or to a question that was never asked, is dropped.
func (s *session) result(r *agentv1.CommandResult) {
	k := s.pending[r.GetId()]
	if k == nil {
		return
	}
	delete(s.pending, r.GetId())
	k.answer <- answer{result: &agentv1.CommandResult{
		Id: k.command.GetId(), Outcome: r.GetOutcome(),
		Error: bounded(r.GetError(), maxAnswer), Output: bounded(r.GetOutput(), maxAnswer),
		Diagnosis: boundedDiagnosis(r.GetDiagnosis()),
	}}
}

// abandonCalls tells those who wait that no answer will come.
func (s *session) abandonCalls() {
	close(s.ended)
	for _, k := range s.pending {
		k.answer <- answer{err: ErrUnanswered}
	}
}
