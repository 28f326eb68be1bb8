package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// oldestProtocol and newestProtocol are the versions of the agent protocol
	// that are spoken here. With an agent the newest is spoken that both speak.
	oldestProtocol, newestProtocol = 1, 1
	// helloTimeout bounds the wait for an agent's first message.
	helloTimeout = 10 * time.Second
	// sendTimeout bounds how long an agent may leave a message unread.
	sendTimeout = 30 * time.Second
)

// Why a session ends, beside errors of its stream.
var (
	// ErrHello means that the first message was late or no hello.
	ErrHello = errors.New("the session must begin with a hello within 10 s")
	// ErrVersion means that the agent is too old for this controller.
	ErrVersion = errors.New("no version of the agent protocol in common")
	// ErrTooOften means that a node has begun 64 sessions within 10 s.
	ErrTooOften = errors.New("the node begins sessions too often: wait 10 s")
	// ErrSuperseded means that a newer session of the same node has begun.
	ErrSuperseded = errors.New("a newer session of this node has begun")
	// ErrRevoked means that the node is not, or no longer, part of its cluster.
	ErrRevoked = errors.New("the node is not part of the cluster: join it again with a new token")
	// ErrStalled means that the agent left a message unread for 30 s.
	ErrStalled = errors.New("the agent left a message unread for 30 s")
	// ErrSilent means that the agent did not answer whether it is there, when its last
	// word was in doubt.
	ErrSilent = errors.New("the agent did not answer within 0.7 s whether it is there")
	// ErrLost means that the stream has ended or failed.
	ErrLost = errors.New("the connection to the agent was lost")
	// ErrProtocol means that the agent said what the protocol does not allow.
	ErrProtocol = errors.New("the agent broke the protocol")
	// ErrShutdown means that the controller ends.
	ErrShutdown = errors.New("the controller is shutting down: connect again")
)

// Stream is the controller's end of one agent session. Send and Recv may run
// at the same time, each in one goroutine. Both must fail soon after Serve has
// returned, as they do on a gRPC stream whose handler has returned.
type Stream interface {
	Send(*agentv1.SessionResponse) error
	Recv() (*agentv1.SessionRequest, error)
}

// Identity is what an agent's certificate says about it.
type Identity struct {
	// Cluster and Node are ids.
	Cluster, Node string
	// UID never changes, and is never given to another node.
	UID string
}

// session is one agent's session. Its loop goroutine owns all below the first
// block and alone calls Send.
type session struct {
	id      string // random: an answer to another session's update is none to this one's
	cluster *cluster
	node    *node     // set by attach
	began   time.Time // likewise
	stream  Stream
	log     hclog.Logger
	cancel  context.CancelCauseFunc
	closed  bool // Serve has returned; guarded by the cluster's lock

	targets mailbox[*compile.Config]
	safe    mailbox[*agentv1.EventAck]
	calls   chan *call
	// outdated has an entry when the agent's identity may be.
	outdated mailbox[struct{}]
	ended    chan struct{} // closed when the loop takes no more calls

	protocol     uint32          // that both speak
	resume       events.Position // the node's last event that is here already
	nonce        uint64          // of the last update
	target       *compile.Config // the newest
	open         bool            // target is still to be dealt with
	inflight     *update         // sent, neither acked nor nacked
	last         *compile.Config // last one sent
	base         *compile.Config // in effect on the node; nil: not known
	applied      *agentv1.Version
	refused      string // hash of the target that the node could not apply
	pending      map[string]*call
	waiting      []waiting
	waitingBytes int
	rest         *time.Timer // until the next portion of waiting
	stalled      *time.Timer
}

// Serve runs one agent's session until it ends, and says why it ended: the
// cause of ctx's end, or one of the errors above. It returns at once
// when ctx ends or a newer session begins, even while the agent leaves a
// message unread; the session's two goroutines end when the stream then fails.
func (f *Fleet) Serve(ctx context.Context, id Identity, stream Stream) error {
	c, err := f.cluster(id.Cluster)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{
		id:      rand.Text()[:8],
		cluster: c, stream: stream, cancel: cancel,
		log:      c.log.With("node", id.Node),
		targets:  newMailbox[*compile.Config](),
		safe:     newMailbox[*agentv1.EventAck](),
		calls:    make(chan *call),
		outdated: newMailbox[struct{}](),
		ended:    make(chan struct{}),
		pending:  make(map[string]*call),
	}
	inbox := make(chan *agentv1.SessionRequest)
	go s.receive(ctx, inbox)
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, id, inbox) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.detach(s, err)
	return err
}

// receive feeds inbox until the stream fails or ctx ends.
func (s *session) receive(ctx context.Context, inbox chan<- *agentv1.SessionRequest) {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.cancel(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		select {
		case inbox <- m:
		case <-ctx.Done():
			return
		}
	}
}

// run greets the agent and then speaks with it until ctx ends.
func (s *session) run(ctx context.Context, id Identity, inbox <-chan *agentv1.SessionRequest) error {
	if err := s.greet(ctx, id, inbox); err != nil {
		return err
	}
	defer s.abandonCalls()
	s.stalled = time.AfterFunc(sendTimeout, func() { s.cancel(ErrStalled) })
	s.stalled.Stop()
	defer s.stalled.Stop()
	s.rest = time.NewTimer(time.Hour)
	s.rest.Stop()
	defer s.rest.Stop()
	if err := errors.Join(s.welcome(), s.askRenewal()); err != nil {
		return err
	}
	for {
		if err := s.push(); err != nil {
			return err
		}
		var err error
		select {
		case m := <-inbox:
			err = s.handle(m)
		case s.target = <-s.targets:
			s.open = true
		case <-s.rest.C:
			s.logPortion()
		case ack := <-s.safe:
			err = s.send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_EventAck{EventAck: ack}})
		case <-s.outdated:
			err = s.askRenewal()
		case k := <-s.calls:
			err = s.command(k)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// greet waits for hello and makes this the node's session.
func (s *session) greet(ctx context.Context, id Identity, inbox <-chan *agentv1.SessionRequest) error {
	var hello *agentv1.Hello
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	select {
	case m := <-inbox:
		hello = m.GetHello()
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch spoken := hello.GetProtocol(); {
	case hello == nil:
		return ErrHello
	case spoken < oldestProtocol:
		return fmt.Errorf("%w: agent %s speaks version %d, this controller %d to %d: it needs agent ≥ %s", ErrVersion,
			bounded(hello.GetAgentVersion(), maxWord), spoken, oldestProtocol, newestProtocol, s.cluster.options.Version)
	default:
		s.protocol = min(spoken, newestProtocol)
	}
	return s.cluster.attach(ctx, s, id, hello)
}

func (s *session) welcome() error {
	return s.send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Welcome{Welcome: &agentv1.Welcome{
		Protocol:          s.protocol,
		ControllerVersion: s.cluster.options.Version,
		Controllers:       s.cluster.options.Controllers,
		Time:              timestamppb.Now(),
		LastEvent:         eventAck(s.resume),
	}}})
}

// send writes one message. It blocks while the agent does not read, for
// sendTimeout at most: then the session ends.
func (s *session) send(m *agentv1.SessionResponse) error {
	s.stalled.Reset(sendTimeout)
	err := s.stream.Send(m)
	s.stalled.Stop()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// handle takes one message from the agent.
func (s *session) handle(m *agentv1.SessionRequest) error {
	s.node.seen.Store(time.Now().UnixNano())
	switch k := m.GetKind().(type) {
	case *agentv1.SessionRequest_Ack:
		s.ack(k.Ack)
	case *agentv1.SessionRequest_Nack:
		s.nack(k.Nack)
	case *agentv1.SessionRequest_Result:
		s.result(k.Result)
	case *agentv1.SessionRequest_Events:
		s.events(k.Events)
	case *agentv1.SessionRequest_Observation:
		s.cluster.observe(s, k.Observation)
	case *agentv1.SessionRequest_Identity:
		s.cluster.with(s, func(n *node) { n.identity = boundedIdentity(k.Identity) })
	case *agentv1.SessionRequest_Hello:
		return fmt.Errorf("%w: a second hello", ErrProtocol)
	default:
		// A newer agent may say more than is understood here.
		s.log.Debug("ignored a message of an unknown kind")
	}
	return nil
}
