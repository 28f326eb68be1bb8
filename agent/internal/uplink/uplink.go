// Package uplink keeps the node's one session with its controller: it dials,
// joins, hands targets in and reports out. Nothing on the node waits for it.
package uplink

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/agent/internal/identity"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// callTimeout bounds joining, renewing and the wait for the welcome.
	callTimeout = 10 * time.Second
	// sendTimeout bounds how long the controller may leave a message unread.
	sendTimeout = 30 * time.Second
	// maxMessage bounds one message from the controller, in bytes.
	maxMessage = 4 << 20
	// minDelay and maxDelay bound the wait between two attempts.
	minDelay = 200 * time.Millisecond
	maxDelay = 10 * time.Second
)

// direct keeps gRPC from resolving an address by itself.
const direct = "passthrough:///"

// Drift is what operators have changed on the node itself.
type Drift interface {
	// DiscardFor ends local changes, for an operator of the controller.
	DiscardFor(ctx context.Context, c *agentv1.DiscardCommand) error
}

// Reconciler is what the uplink needs of the one who applies targets.
type Reconciler interface {
	// Known returns the target with that hash, nil when it is not at hand.
	Known(hash string) *target.Target
	// Applied returns the target in effect, nil when there is none.
	Applied() *target.Target
	// Begun is closed when the good target from disk has been tried.
	Begun() <-chan struct{}
	// Submit hands over the newest target; it does not block.
	Submit(nonce string, t *target.Target)
	// Outcomes tells what became of targets.
	Outcomes() <-chan reconcile.Outcome
	// Check asks the daemons' checkers about a target and changes nothing.
	Check(ctx context.Context, t *target.Target) error
}

// Options of an Uplink.
type Options struct {
	Node          string            // id of this node
	NameByDefault bool              // Node is only the hostname
	Controllers   []string          // host:port each
	TokenFile     string            // join token, read only while there is no identity that the controller takes
	IdentityDir   string            // where the identity is kept
	Version       string            // of this agent
	Interfaces    map[string]string // by network
	Report        *report.Report
	Reconciler    Reconciler
	Drift         Drift
	// Fence keeps a VIP away from this node for the lease; 0 ends that.
	Fence func(ctx context.Context, vip string, lease time.Duration) error
	// Announce tells the network that this node has a VIP.
	Announce func(ctx context.Context, vip string) error
	// Failover gives a VIP up to another node, for an operator of the controller,
	// and returns when it is gone from this one.
	Failover func(ctx context.Context, c *agentv1.FailoverCommand) error
	// Diagnose finds out what keeps VIPs from moving.
	Diagnose func(ctx context.Context) *agentv1.Diagnosis
	// Problem tells what keeps the node from being well, one text a key; an empty
	// text ends it.
	Problem func(key, text string)
	// Withdraw keeps the VIPs away from this node, durably, or ends that.
	Withdraw func(withdrawn bool) error
	Logger   hclog.Logger
}

// Uplink is run by one goroutine, which owns the session's stream.
type Uplink struct {
	Options
	identity  *identity.Identity
	removal   *identity.Removal // nil: the node is a member, or none yet
	addresses []string
	board     board
}

// New returns an uplink; Run does the work.
func New(o Options) *Uplink {
	addresses := slices.Clone(o.Controllers)
	// Nodes must not all begin with the same controller.
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] }) //nolint:gosec // G404: spreads load, guards nothing
	return &Uplink{Options: o, addresses: addresses}
}

// Run keeps a session until ctx ends, trying one address after the other. It
// returns no error: everything may get better, by itself or by an operator, and
// the daemons need the agent meanwhile.
func (u *Uplink) Run(ctx context.Context) error {
	u.untilBegun(ctx)
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = minDelay, maxDelay
	for i := 0; ctx.Err() == nil; i++ {
		address := u.addresses[i%len(u.addresses)]
		welcomed, err := u.attempt(ctx, address)
		if ctx.Err() != nil {
			break
		}
		// Another agent with this identity would take the session back at once.
		if welcomed && status.Code(err) != codes.Aborted {
			delay.Reset()
		}
		u.board.lost(address, describe(err))
		wait := delay.NextBackOff()
		u.Logger.Warn("no session with the controller", "address", address, "error", describe(err), "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// attempt is one connection to one address.
type attempt struct {
	address string
	conn    *grpc.ClientConn

	mu      sync.Mutex
	verdict error // on the controller's certificate
}

// trust is the last verdict on the controller's certificate.
func (a *attempt) trust() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.verdict
}

// attempt joins if need be and holds one session until it breaks. It tells
// whether the controller accepted the session.
func (u *Uplink) attempt(ctx context.Context, address string) (welcomed bool, err error) {
	// What is on disk is soon in effect; saying so spares the controller a
	// snapshot.
	select {
	case <-u.Reconciler.Begun():
	case <-time.After(callTimeout):
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if u.identity == nil {
		joinCtx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if u.identity, err = identity.Enrol(joinCtx, u.IdentityDir, u.Node, u.TokenFile, address); err != nil {
			u.clock(err)
			return false, err
		}
		u.Logger.Info("joined the cluster", "controller", address, "node", u.identity.Node())
	}
	a := &attempt{address: address}
	if a.conn, err = u.dial(a); err != nil {
		return false, err
	}
	defer func() { _ = a.conn.Close() }()
	welcomed, err = u.hold(ctx, a.conn)
	if ctx.Err() != nil {
		return welcomed, ctx.Err()
	}
	return welcomed, u.recover(ctx, a, err)
}

// dial prepares the connection of an attempt.
func (u *Uplink) dial(a *attempt) (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(a.address)
	if err != nil {
		return nil, err
	}
	told := func(verdict error) {
		a.mu.Lock()
		a.verdict = verdict
		a.mu.Unlock()
		u.clock(verdict)
	}
	return grpc.NewClient(direct+a.address,
		grpc.WithTransportCredentials(credentials.NewTLS(u.identity.TLS(host, told))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
}

// clock tells of an error that is a clock's fault.
func (u *Uplink) clock(err error) {
	var clock *identity.ClockError
	if errors.As(err, &clock) {
		u.Problem(problemClock, clock.Error()+"; traffic does not depend on it")
	}
}

// hold opens the stream and runs the session on it, and the renewals beside it.
func (u *Uplink) hold(ctx context.Context, conn *grpc.ClientConn) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := agentv1.NewAgentServiceClient(conn).Session(ctx)
	if err != nil {
		return false, err
	}
	s := &session{
		Uplink: u, conn: conn, stream: stream, cancel: cancel, received: make(chan received),
		outbox: make(chan *agentv1.SessionRequest), results: make(chan carried),
		renewer: newRenewer(u.IdentityDir, conn, func(text string) { u.Problem(problemCertificate, text) }, u.Logger),
	}
	go s.receive(ctx)
	if err := s.greet(ctx); err != nil {
		return false, err
	}
	var renewing sync.WaitGroup
	id := u.identity
	renewing.Go(func() { s.renewer.run(ctx, id) })
	err = s.run(ctx)
	cancel(nil)
	renewing.Wait()
	select {
	case u.identity = <-s.renewer.renewed: // as the session ended
	default:
	}
	return true, err
}

// describe gives an error for a log line; gRPC's own prefix tells nothing.
func describe(err error) string {
	if err == nil {
		return "the controller ended the session"
	}
	s, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return "the controller refuses this node: " + s.Message()
	case codes.Unavailable:
		return "the controller cannot be reached: " + s.Message()
	default:
		return s.Message()
	}
}

// errStalled ends a session whose controller does not read.
var errStalled = errors.New("the controller left a message unread for 30 s")

// errNoWelcome is returned when a controller says something else first.
var errNoWelcome = errors.New("the controller did not begin with a welcome")
