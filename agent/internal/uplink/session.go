package uplink

import (
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

	"github.com/tandem-lb/tandem/agent/internal/identity"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// protocol is the version of the session's protocol.
const protocol = 1

// received is one message, or the error that ended the stream.
type received struct {
	message *agentv1.SessionResponse
	err     error
}

// session is one stream. run's goroutine owns it and alone sends.
type session struct {
	*Uplink
	conn     *grpc.ClientConn
	stream   agentv1.AgentService_SessionClient
	received chan received
	results  chan *agentv1.CommandResult
	assembly assembly
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
		Protocol:      protocol,
		AgentVersion:  s.Version,
		BootId:        s.Report.BootID(),
		SessionId:     rand.Text(),
		Applied:       &agentv1.Version{},
		Capabilities:  []string{"command/check", "command/discard"},
		Interfaces:    s.Interfaces,
		NotPersistent: s.Report.NotPersistent(),
	}
	if t := s.Reconciler.Applied(); t != nil {
		hello.Applied = t.Version()
	}
	if err := s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: hello}}); err != nil {
		return s.cause(ctx, err)
	}
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
		if welcome.GetProtocol() != protocol {
			return fmt.Errorf("the controller speaks version %d of the agent protocol, this agent %d: upgrade the older one", welcome.GetProtocol(), protocol)
		}
		s.welcome(welcome)
		return nil
	case <-timeout.C:
		return fmt.Errorf("no welcome within %s", callTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) welcome(w *agentv1.Welcome) {
	for _, address := range w.GetControllers() {
		if !slices.Contains(s.addresses, address) {
			s.addresses = append(s.addresses, address)
		}
	}
	s.board.connected(strings.TrimPrefix(s.conn.Target(), direct))
	s.Report.Begin(w.GetLastEvent())
	s.Logger.Info("session with the controller", "address", s.conn.Target(), "controller_version", w.GetControllerVersion())
}

// run is the session's one loop.
func (s *session) run(ctx context.Context) error {
	renew := time.NewTimer(time.Until(s.identity.RenewAt()))
	defer renew.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-s.received:
			if err = r.err; err == nil {
				err = s.handle(ctx, r.message)
			}
		case outcome := <-s.Reconciler.Outcomes():
			err = s.answer(outcome)
		case result := <-s.results:
			err = s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: result}})
		case <-s.Report.Ready():
			err = s.report()
		case <-renew.C:
			s.renew(ctx)
			renew.Reset(max(time.Until(s.identity.RenewAt()), time.Hour))
		}
		if err != nil {
			return s.cause(ctx, err)
		}
	}
}

// cause returns why the stream ended: Send says io.EOF and Recv has the reason.
func (s *session) cause(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	select {
	case r := <-s.received:
		if r.err != nil {
			return r.err
		}
	case <-ctx.Done():
	}
	return err
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
	default:
		// A newer controller may say more; what it must have understood is in
		// updates, which are nacked, and commands, which are answered.
		s.Logger.Debug("message of an unknown kind from the controller")
		return nil
	}
}

// report sends what is new of the node's state.
func (s *session) report() error {
	for {
		observation, events := s.Report.Next()
		if observation == nil && events == nil {
			return nil
		}
		if events != nil {
			if err := s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: events}}); err != nil {
				return err
			}
		}
		if observation != nil {
			if err := s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: observation}}); err != nil {
				return err
			}
		}
	}
}

// answer sends ack or nack for a target.
func (s *session) answer(o reconcile.Outcome) error {
	if o.Err == nil {
		return s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{
			Nonce: o.Nonce, Version: o.Target.Version(), Reloaded: o.Reloaded, Duration: durationpb.New(o.Duration),
			NotPersistent: s.Report.NotPersistent(),
		}}})
	}
	reason := agentv1.NackReason_NACK_REASON_FAILED
	if o.Refused {
		reason = agentv1.NackReason_NACK_REASON_REFUSED
	}
	return s.nack(&agentv1.Nack{
		Nonce: o.Nonce, Version: o.Target.Version(), Reason: reason, Message: o.Err.Error(), Retrying: true,
	})
}

func (s *session) nack(n *agentv1.Nack) error {
	return s.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Nack{Nack: n}})
}

// renew replaces the certificate. The running session goes on with the old one.
func (s *session) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := identity.Renew(ctx, s.IdentityDir, s.conn)
	if err != nil {
		s.Logger.Warn("certificate not renewed", "error", err)
		return
	}
	s.identity = id
	s.Logger.Info("certificate renewed", "next", id.RenewAt())
}
