// Package local serves lb-agent's own commands on the machine, over a socket
// that only root may use. It needs no controller: what an operator changes here
// lies on top of what the controller wants (package drift), and takes the
// ordinary way to the daemons.
package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/drift"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/target"
	"github.com/tandem-lb/tandem/agent/internal/uplink"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// maxRequest bounds a request, in bytes.
	maxRequest = 1 << 20
	// maxReason bounds a reason, in bytes, as the API does.
	maxReason = 256
	// defaultLease, minLease and maxLease are how long a failover lasts.
	defaultLease = time.Minute
	minLease     = time.Second
	maxLease     = time.Hour
	// leaveTimeout is how long a drain waits for the VIPs to be gone: a takeover
	// at the slowest usual interval, 1 s, takes up to 4 s.
	leaveTimeout = 5 * time.Second
)

// Reconciler is who puts a change in effect.
type Reconciler interface {
	// Base is the target that changes lie on, nil when there is none.
	Base() *target.Target
	// Applied is the target in effect, nil when there is none.
	Applied() *target.Target
	// Again puts the base in effect with the changes as they are now.
	Again(ctx context.Context) error
}

// VRRP is the keepalived driver.
type VRRP interface {
	Snapshot() keepalived.Snapshot
	Failover(ctx context.Context, vip string, lease time.Duration) error
}

// Report is what the node observes.
type Report interface {
	State() *agentv1.Observation
	Note(text string)
}

// Options of a Server; all are needed.
type Options struct {
	Path          string // of the socket; its directory must be there
	Node, Version string
	Changes       *drift.Set
	Reconciler    Reconciler
	VRRP          VRRP
	Report        Report
	// Session tells of the session with the controller.
	Session func() uplink.Status
}

// Server serves one node.
type Server struct {
	localv1.UnimplementedLocalServiceServer
	Options
}

// New returns a server; Run does the work.
func New(o Options) *Server { return &Server{Options: o} }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen(s.Path)
	if err != nil {
		return fmt.Errorf("local socket: %w", err)
	}
	server := grpc.NewServer(
		grpc.Creds(peerCredentials{}), grpc.UnaryInterceptor(admit),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(16), grpc.ConnectionTimeout(5*time.Second),
	)
	localv1.RegisterLocalServiceServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("local socket: %w", err)
	}
	return nil
}

// SetDrain drains the node, or ends its drain.
func (s *Server) SetDrain(ctx context.Context, r *localv1.SetDrainRequest) (*localv1.SetDrainResponse, error) {
	base, by, err := s.begin(ctx, r.GetReason())
	if err != nil {
		return nil, err
	}
	change, warning := s.Changes.SetDrain(base, r.GetDrain(), by)
	if err := s.putInEffect(ctx); err != nil {
		// Scores do not wait for HAProxy.
		if drained := s.VRRP.Snapshot().Drain != 0; drained != r.GetDrain() {
			return nil, err
		}
		warning = errors.Join(warning, fmt.Errorf("the scores have changed, the rest has not: %s", status.Convert(err).Message()))
	}
	response := &localv1.SetDrainResponse{Change: change, Warning: text(warning)}
	if r.GetDrain() {
		response.Held = s.left(ctx)
	}
	return response, nil
}

// left waits until the node holds no VIP, and returns those that nobody takes.
func (s *Server) left(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		held := held(s.VRRP.Snapshot())
		if len(held) == 0 {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return held
		}
	}
}

// held returns the VIPs that this node holds, in order.
func held(s keepalived.Snapshot) []string {
	var vips []string
	for _, i := range s.Instances {
		if i.Holds || i.State == keepalived.InstanceMaster {
			vips = append(vips, i.VIP)
		}
	}
	slices.Sort(vips)
	return slices.Compact(vips)
}

// SetBackend sets a backend's state or weight.
func (s *Server) SetBackend(ctx context.Context, r *localv1.SetBackendRequest) (*localv1.SetBackendResponse, error) {
	base, by, err := s.begin(ctx, r.GetReason())
	if err != nil {
		return nil, err
	}
	if err := checkBackend(base, r); err != nil {
		return nil, err
	}
	change, warning := s.Changes.SetBackend(base, &agentv1.LocalBackend{
		Pool: r.GetPool(), Backend: r.GetBackend(), State: r.GetState(), Weight: r.Weight,
	}, by)
	if err := s.putInEffect(ctx); err != nil {
		return nil, err
	}
	return &localv1.SetBackendResponse{Change: change, Warning: text(warning)}, nil
}

func checkBackend(base *target.Target, r *localv1.SetBackendRequest) error {
	_, known := agentv1.AdminState_name[int32(r.GetState())]
	switch {
	case base.Server(r.GetPool(), r.GetBackend()) == nil:
		return unknownBackend(base, r.GetPool()+"/"+r.GetBackend())
	case r.GetWeight() > 256:
		return status.Errorf(codes.InvalidArgument, "weight is %d: must be 0 to 256", r.GetWeight())
	case !known:
		return status.Errorf(codes.InvalidArgument, "state is %d: must be ready, drain or maintenance", r.GetState())
	case r.GetState() == agentv1.AdminState_ADMIN_STATE_UNSPECIFIED && r.Weight == nil:
		return status.Error(codes.InvalidArgument, "nothing to change: give a state or a weight")
	}
	return nil
}

// maxListed is how many backends an error names.
const maxListed = 10

func unknownBackend(base *target.Target, name string) error {
	have := base.Servers()
	if len(have) == 0 {
		return status.Errorf(codes.NotFound, "this node has no backend %s, nor any other", name)
	}
	more := ""
	if n := len(have) - maxListed; n > 0 {
		have, more = have[:maxListed], fmt.Sprintf(" and %d more", n)
	}
	return status.Errorf(codes.NotFound, "this node has no backend %s: it has %s%s", name, strings.Join(have, ", "), more)
}

// Failover moves VIPs to another node.
func (s *Server) Failover(ctx context.Context, r *localv1.FailoverRequest) (*localv1.FailoverResponse, error) {
	if err := checkReason(r.GetReason()); err != nil {
		return nil, err
	}
	lease := defaultLease
	if r.GetLease() != nil {
		lease = r.GetLease().AsDuration()
	}
	if lease < minLease || lease > maxLease {
		return nil, status.Errorf(codes.InvalidArgument, "lease is %s: must be %s to %s", lease, minLease, maxLease)
	}
	vips := r.GetVips()
	if len(vips) == 0 {
		if vips = held(s.VRRP.Snapshot()); len(vips) == 0 {
			return nil, status.Error(codes.FailedPrecondition, "this node holds no VIP")
		}
	}
	response := &localv1.FailoverResponse{Lease: durationpb.New(lease)}
	var failed []error
	for _, vip := range vips {
		if err := s.VRRP.Failover(ctx, vip, lease); err != nil {
			failed = append(failed, err)
			continue
		}
		response.Vips = append(response.Vips, vip)
		s.noteMoved(vip, author(ctx), r.GetReason())
	}
	return response, failoverStatus(response.Vips, errors.Join(failed...))
}

// FailoverFor moves a VIP to another node for an operator of the controller.
func (s *Server) FailoverFor(ctx context.Context, c *agentv1.FailoverCommand) error {
	lease := min(max(c.GetLease().AsDuration(), minLease), maxLease)
	if err := s.VRRP.Failover(ctx, c.GetVip(), lease); err != nil {
		return err
	}
	s.noteMoved(c.GetVip(), c.GetAuthor(), c.GetReason())
	return nil
}

func (s *Server) noteMoved(vip, author, reason string) {
	s.Report.Note(note(fmt.Sprintf("VIP %s was moved to another node by %s", vip, author), reason))
}

func note(sentence, reason string) string {
	if reason != "" {
		sentence += ": " + reason
	}
	return sentence
}

// failoverStatus is the error of a failover that did not move everything.
func failoverStatus(moved []string, err error) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	switch {
	case errors.Is(err, keepalived.ErrNoVIP):
		code = codes.NotFound
	case errors.Is(err, keepalived.ErrNotInEffect), errors.Is(err, keepalived.ErrNotHeld), errors.Is(err, keepalived.ErrNoTaker):
		code = codes.FailedPrecondition
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = codes.DeadlineExceeded
	}
	message := err.Error()
	if len(moved) > 0 {
		message += "\nmoved: " + strings.Join(moved, ", ")
	}
	return status.Error(code, message)
}

// Discard ends local changes.
func (s *Server) Discard(ctx context.Context, r *localv1.DiscardRequest) (*localv1.DiscardResponse, error) {
	changes, warning := s.Changes.Discard(subjects(r), "discarded on the node by "+author(ctx))
	if len(changes) == 0 {
		return &localv1.DiscardResponse{}, nil
	}
	if err := s.putInEffect(ctx); err != nil {
		return nil, err
	}
	return &localv1.DiscardResponse{Changes: changes, Warning: text(warning)}, nil
}

// DiscardFor ends local changes for an operator of the controller, who has
// decided about them there, and returns when that is in effect.
func (s *Server) DiscardFor(ctx context.Context, c *agentv1.DiscardCommand) error {
	if changes, _ := s.Changes.Discard(subjects(c), "discarded on the controller by "+c.GetAuthor()); len(changes) == 0 {
		return nil
	}
	return s.Reconciler.Again(ctx)
}

// subjects are those of changes to discard.
func subjects(r interface {
	GetDrain() bool
	GetBackends() []string
}) []string {
	if r.GetDrain() {
		return append([]string{drift.Node}, r.GetBackends()...)
	}
	return r.GetBackends()
}

// begin returns what a change lies on and who makes it.
func (s *Server) begin(ctx context.Context, reason string) (*target.Target, drift.By, error) {
	by := drift.By{Author: author(ctx), Reason: reason}
	if err := checkReason(reason); err != nil {
		return nil, by, err
	}
	base := s.Reconciler.Base()
	if base == nil {
		return nil, by, status.Error(codes.FailedPrecondition,
			"this node has no configuration yet: it has never been in touch with its controller, so there is nothing to change")
	}
	return base, by, nil
}

func checkReason(reason string) error {
	if len(reason) > maxReason || strings.ContainsFunc(reason, unicode.IsControl) {
		return status.Errorf(codes.InvalidArgument, "reason must be at most %d bytes without control characters", maxReason)
	}
	return nil
}

// putInEffect returns when the changes are in effect. They stay when that fails.
func (s *Server) putInEffect(ctx context.Context) error {
	err := s.Reconciler.Again(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return status.Errorf(codes.DeadlineExceeded, "noted, and not in effect yet: the agent goes on with it")
	default:
		return status.Errorf(codes.Unavailable, "noted, and not in effect yet: %v; the agent goes on trying", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
