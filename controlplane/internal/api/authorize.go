package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// need is what a caller must show.
type need int

const (
	denied      need = iota // nobody may call it
	nothing                 // anybody may, a few at a time
	token                   // an operator's bearer token
	certificate             // a node's client certificate
)

// needs says what each service or method needs. A method goes before its
// service; what is not here is denied.
var needs = map[string]need{
	tandemv1.ConfigService_ServiceDesc.ServiceName: token,
	tandemv1.FleetService_ServiceDesc.ServiceName:  token,
	tandemv1.EventService_ServiceDesc.ServiceName:  token,
	tandemv1.AccessService_ServiceDesc.ServiceName: token,
	tandemv1.StoreService_ServiceDesc.ServiceName:  token,
	agentv1.AgentService_Enrol_FullMethodName:      nothing, // its credential is in the request
	agentv1.AgentService_ServiceDesc.ServiceName:   certificate,
	"grpc.reflection.v1.ServerReflection":          token,
	"grpc.reflection.v1alpha.ServerReflection":     token,
	"grpc.health.v1.Health":                        nothing,
}

// needOf returns what a full method name, "/package.Service/Method", needs.
func needOf(method string) need {
	if n, ok := needs[method]; ok {
		return n
	}
	service, _, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if !ok {
		return denied
	}
	return needs[service]
}

type callerKey struct{}

// caller is who a call comes from; one of the two is set, or none.
type caller struct {
	operator string
	node     pki.NodeIdentity
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit lets a call in, with its caller in the context, or refuses it.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	switch needOf(method) {
	case nothing:
		return ctx, nil
	case token:
		operator, err := s.authenticate(ctx, metadata.ValueFromIncomingContext(ctx, "authorization"))
		if err != nil {
			return nil, err
		}
		return context.WithValue(ctx, callerKey{}, caller{operator: operator}), nil
	case certificate:
		id, err := s.nodeOf(ctx, method)
		if err != nil {
			return nil, err
		}
		return context.WithValue(ctx, callerKey{}, caller{node: id}), nil
	default:
		return nil, fail(codes.PermissionDenied, reasonMethodDenied, "%s may not be called", method)
	}
}

// readmit tells whether a stream of a caller who was let in may go on. A session
// may outlive the certificate that it began with: the node has renewed it, or
// the end of the session would help nobody. It does not outlive membership.
func (s *Server) readmit(ctx context.Context, method string) error {
	if node := callerOf(ctx).node; node != (pki.NodeIdentity{}) {
		return membership(s.Ledger, node)
	}
	_, err := s.admit(ctx, method)
	return err
}

// authenticate returns the operator of the authorization headers given.
func (s *Server) authenticate(ctx context.Context, headers []string) (string, error) {
	if len(headers) != 1 {
		return "", fail(codes.Unauthenticated, reasonTokenMissing, "give an operator token: authorization: Bearer TOKEN")
	}
	scheme, text, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fail(codes.Unauthenticated, reasonTokenMissing, "the authorization must be Bearer TOKEN")
	}
	return s.Operators.Authenticate(ctx, strings.TrimSpace(text))
}

// nodeOf returns the node whose certificate the connection showed, if the node
// still is one. With a certificate that is out of its time it may renew it and
// nothing else: its key was proven by the handshake, and who is a member the
// ledger tells, not the time.
func (s *Server) nodeOf(ctx context.Context, method string) (pki.NodeIdentity, error) {
	leaf := shownLeaf(ctx)
	if leaf == nil {
		return pki.NodeIdentity{}, fail(codes.Unauthenticated, reasonCertificate, "only agents may call this, with the client certificate that they got when they joined")
	}
	now := time.Now()
	switch err := s.Authority.CheckNode(leaf, now); {
	case err == nil:
	case !errors.Is(err, pki.ErrExpired) && !errors.Is(err, pki.ErrNotYetValid):
		return pki.NodeIdentity{}, fail(codes.Unauthenticated, reasonCertificate, "the client certificate is of no CA in use: %w", err)
	case method != agentv1.AgentService_Renew_FullMethodName || !pki.MayRenew(leaf, now):
		reason := reasonExpired
		if errors.Is(err, pki.ErrNotYetValid) {
			reason = reasonNotYetValid
		}
		return pki.NodeIdentity{}, fail(codes.Unauthenticated, reason, "%w", err)
	}
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return pki.NodeIdentity{}, fail(codes.Unauthenticated, reasonCertificate, "the client certificate is no node's: %w", err)
	}
	err = membership(s.Ledger, id)
	if errors.Is(err, ledger.ErrWaiting) {
		s.Fleet.Unknown(fleet.Identity{Cluster: id.Cluster, Node: id.Node, UID: id.UID})
	}
	return id, err
}

// membership fails unless a node is a member with exactly that identity. The
// agent takes the reasons for certain: it gives its VIPs up.
func membership(book *ledger.Ledger, id pki.NodeIdentity) error {
	var now *tandemv1.Node
	// Without the cluster there are none of its nodes either.
	if head, err := book.Head(id.Cluster); err == nil {
		now = head.Node(id.Node)
	}
	if err := book.Ready(); err != nil && now.GetUid() != id.UID {
		// It may have joined after the backup: nothing is certain yet.
		return fail(codes.Unavailable, reasonWaiting, "%w", err)
	}
	refusal := &failure{code: codes.PermissionDenied, metadata: map[string]string{"uid": id.UID}}
	switch {
	case now.GetUid() == id.UID:
		return nil
	case now == nil:
		refusal.reason = reasonNodeRemoved
		refusal.err = fmt.Errorf("node %s is no longer in cluster %s: let it join again with a new token", id.Node, id.Cluster)
	default:
		refusal.reason = state.ReasonNodeReplaced
		refusal.err = fmt.Errorf("another machine has taken the place of node %s in cluster %s", id.Node, id.Cluster)
	}
	return refusal
}

// shownLeaf is the client certificate that the handshake has let in, nil if there
// is none.
func shownLeaf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}
