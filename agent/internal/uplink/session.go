package uplink

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// oldestProtocol and newestProtocol are the versions of the session's protocol
// that this agent speaks. The controller chooses the newest that both speak.
const oldestProtocol, newestProtocol = 1, 1

// received is one message, or the error that ended the stream.
type received struct {
	message *agentv1.SessionResponse
	err     error
}

// maxControllers bounds the addresses that an agent tries, maxAddress each of
// them, in bytes.
const (
	maxControllers = 16
	maxAddress     = 300
)

// errNewCA ends a session of which the certificate is of a CA that will not be
// trusted for long. The next one shows the new certificate.
var errNewCA = errors.New("the session begins anew, with a certificate of the controller's new CA")

// maxQueue bounds the answers that wait for a controller that does not read:
// until it does, nothing more is taken from it.
const maxQueue = 64

// session is one stream. run's goroutine owns it.
type session struct {
	*Uplink
	conn     *grpc.ClientConn
	stream   agentv1.AgentService_SessionClient
	cancel   context.CancelCauseFunc
	received chan received
	outbox   chan *agentv1.SessionRequest // to the one who sends
	results  chan carried                 // of commands
	renewer  *renewer

	queue      []*agentv1.SessionRequest // to be sent, in order
	reporting  bool                      // the report may have something new
	assembly   assembly
	controller string        // its version
	ahead      time.Duration // this node's clock, of the controller's
	commands   int           // being carried out
	diagnoses  int           // likewise, beside them
	// submitted is the nonce of the newest update of this session that the
	// reconciler was given.
	submitted string
}

// receive hands messages over until the stream ends.
func (s *session) receive(ctx context.Context) {
	for {
		message, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errors.New("the controller ended the session")
		}
		select {
		case s.received <- received{message, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// greet says hello and waits for the welcome.
func (s *session) greet(ctx context.Context) error {
	hello := &agentv1.Hello{
		Protocol:      newestProtocol,
		AgentVersion:  s.Version,
		BootId:        s.Report.BootID(),
		SessionId:     rand.Text(),
		Applied:       &agentv1.Version{},
		Capabilities:  capabilities,
		Interfaces:    s.Interfaces,
		NotPersistent: s.Report.NotPersistent(),
		Identity:      s.identity.State(),
	}
	// A node that has joined anew takes nothing over from its former life.
	if t := s.Reconciler.Applied(); t != nil && s.removal == nil {
		hello.Applied = t.Version()
	}
	sent := time.Now()
	// An error of Send is told by receive, with its reason.
	_ = s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: hello}})
	timeout := time.NewTimer(callTimeout)
	defer timeout.Stop()
	select {
	case r := <-s.received:
		welcome := r.message.GetWelcome()
		if r.err != nil {
			return r.err
		}
		if welcome == nil {
			return errNoWelcome
		}
		if spoken := welcome.GetProtocol(); spoken < oldestProtocol || spoken > newestProtocol {
			return fmt.Errorf("controller %s speaks version %d of the agent protocol, agent %s %d to %d: upgrade the older one",
				welcome.GetControllerVersion(), spoken, s.Version, oldestProtocol, newestProtocol)
		}
		s.welcome(welcome, sent)
		return nil
	case <-timeout.C:
		return fmt.Errorf("no welcome within %s", callTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// welcome takes over what the answer to a hello sent at sent tells.
func (s *session) welcome(w *agentv1.Welcome, sent time.Time) {
	for _, address := range w.GetControllers() {
		if len(s.addresses) >= maxControllers || len(address) > maxAddress {
			break
		}
		if !slices.Contains(s.addresses, address) {
			s.addresses = append(s.addresses, address)
		}
	}
	s.board.connected(strings.TrimPrefix(s.conn.Target(), direct))
	s.controller, s.ahead = w.GetControllerVersion(), aheadOf(w)
	if w.GetTime() != nil {
		s.Problem(problemClock, clockProblem(w.GetTime().AsTime(), sent, time.Now()))
	}
	s.Report.Begin(w.GetLastEvent())
	s.Logger.Info("session with the controller", "address", s.conn.Target(), "controller_version", w.GetControllerVersion())
}

// run is the session's one loop. It never waits for the controller to read, so
// that it always reads itself: two that both wait would do so for ever.
func (s *session) run(ctx context.Context) error {
	go s.transmit(ctx)
	for {
		if s.reporting && len(s.queue) == 0 {
			s.report()
		}
		received, outcomes := s.received, s.Reconciler.Outcomes()
		var outbox chan<- *agentv1.SessionRequest
		var next *agentv1.SessionRequest
		if len(s.queue) > 0 {
			outbox, next = s.outbox, s.queue[0]
		}
		if len(s.queue) >= maxQueue {
			received, outcomes = nil, nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case r := <-received:
			if r.err != nil {
				return cmp.Or(context.Cause(ctx), r.err)
			}
			if err := s.handle(ctx, r.message); err != nil {
				return err
			}
		case outbox <- next:
			s.queue = s.queue[1:]
		case outcome := <-outcomes:
			s.answer(outcome)
		case r := <-s.results:
			*r.slots--
			s.send(r.answer)
		case <-s.Report.Ready():
			s.reporting = true
		case next := <-s.renewer.renewed:
			before := s.identity.State()
			s.identity = next
			if !bytes.Equal(before.GetIssuer(), next.State().GetIssuer()) {
				return errNewCA
			}
			s.send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Identity{Identity: next.State()}})
		}
	}
}

// send queues one message.
func (s *session) send(m *agentv1.SessionRequest) { s.queue = append(s.queue, m) }

// transmit writes what is queued until ctx ends. A controller that leaves a
// message unread for sendTimeout loses the session; the next one may be with
// another controller.
func (s *session) transmit(ctx context.Context) {
	stalled := time.AfterFunc(sendTimeout, func() { s.cancel(errStalled) })
	defer stalled.Stop()
	for {
		stalled.Stop()
		select {
		case m := <-s.outbox:
			stalled.Reset(sendTimeout)
			if err := s.stream.Send(m); err != nil {
				return // receive has the reason
			}
			if m.GetAck() != nil {
				crash.Acked.Pass()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) handle(ctx context.Context, m *agentv1.SessionResponse) error {
	switch kind := m.GetKind().(type) {
	case *agentv1.SessionResponse_Update:
		return s.update(kind.Update)
	case *agentv1.SessionResponse_Command:
		s.command(ctx, kind.Command)
		return nil
	case *agentv1.SessionResponse_EventAck:
		s.Report.Ack(kind.EventAck.GetBootId(), kind.EventAck.GetSequence())
		return nil
	case *agentv1.SessionResponse_Renew:
		s.renewer.ask()
		return nil
	default:
		// A newer controller may say more; what it must have understood is in
		// updates, which are nacked, and commands, which are answered.
		s.Logger.Debug("message of an unknown kind from the controller")
		return nil
	}
}

// report queues what is new of the node's state, the next part of it.
func (s *session) report() {
	observation, events := s.Report.Next()
	s.reporting = observation != nil || events != nil
	if events != nil {
		s.send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: events}})
	}
	if observation != nil {
		s.send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: observation}})
	}
}

// answer sends ack or nack for a target.
func (s *session) answer(o reconcile.Outcome) {
	if o.Err == nil {
		if o.Nonce == s.submitted {
			s.returned()
		}
		s.send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{
			Nonce: o.Nonce, Version: o.Target.Version(), Reloaded: o.Reloaded, Duration: durationpb.New(o.Duration),
			NotPersistent: s.Report.NotPersistent(),
		}}})
		return
	}
	reason := agentv1.NackReason_NACK_REASON_FAILED
	if o.Refused {
		reason = agentv1.NackReason_NACK_REASON_REFUSED
	}
	s.nack(&agentv1.Nack{
		Nonce: o.Nonce, Version: o.Target.Version(), Reason: reason, Message: o.Err.Error(), Retrying: true,
	})
}

func (s *session) nack(n *agentv1.Nack) {
	s.send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Nack{Nack: n}})
}
