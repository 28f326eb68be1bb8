package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var phases = map[pki.Phase]tandemv1.AuthorityPhase{
	pki.Steady: tandemv1.AuthorityPhase_AUTHORITY_PHASE_STEADY,
	pki.Begun:  tandemv1.AuthorityPhase_AUTHORITY_PHASE_BEGUN,
	pki.Active: tandemv1.AuthorityPhase_AUTHORITY_PHASE_ACTIVE,
}

func (a *accessService) GetAuthority(context.Context, *tandemv1.GetAuthorityRequest) (*tandemv1.Authority, error) {
	return a.describe(), nil
}

func (a *accessService) RotateAuthority(ctx context.Context, r *tandemv1.RotateAuthorityRequest) (*tandemv1.Authority, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	var err error
	switch r.GetStep() {
	case tandemv1.AuthorityStep_AUTHORITY_STEP_BEGIN:
		err = a.authority.Begin()
	case tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE:
		err = a.spares(r.GetForce(), pki.Begun, "does not trust the new CA yet", (*tandemv1.NodeTrust).GetTrusts)
		if err == nil {
			err = a.authority.Activate()
		}
	case tandemv1.AuthorityStep_AUTHORITY_STEP_RETIRE:
		err = a.spares(r.GetForce(), pki.Active, "has no certificate of the new CA yet", (*tandemv1.NodeTrust).GetCurrent)
		if err == nil {
			err = a.authority.Retire()
		}
	case tandemv1.AuthorityStep_AUTHORITY_STEP_CANCEL:
		err = a.authority.Cancel()
	default:
		err = fail(codes.InvalidArgument, reasonStep, "step %s is not known here", r.GetStep())
	}
	if err != nil {
		return nil, err
	}
	// What is shown from now on is of the authority as it is now.
	if err := a.certificate.Reissue(); err != nil {
		return nil, err
	}
	a.fleet.Renew()
	a.logger.Info("rotated the CA", "step", r.GetStep(), "force", r.GetForce(), "author", callerOf(ctx).operator)
	return a.describe(), nil
}

// spares refuses a step that would lock a node out, unless it is forced. Out of
// its turn a step has a refusal of its own.
func (a *accessService) spares(force bool, phase pki.Phase, lacks string, is func(*tandemv1.NodeTrust) bool) error {
	if force || a.authority.Phase() != phase {
		return nil
	}
	var not []string
	for _, n := range a.describe().GetNodes() {
		if !is(n) {
			word := "not connected"
			if n.GetConnected() {
				word = "connected"
			}
			not = append(not, fmt.Sprintf("%s (%s)", n.GetNode(), word))
		}
	}
	if len(not) == 0 {
		return nil
	}
	return fail(codes.FailedPrecondition, reasonNodesNotReady,
		"%s %s, and would be locked out: wait for it, or force the step and let it join again with a token of \"lbctl node replace\"",
		strings.Join(not, ", "), lacks)
}

// describe tells how the authority is, and how the nodes stand to it.
func (a *accessService) describe() *tandemv1.Authority {
	out := &tandemv1.Authority{Phase: phases[a.authority.Phase()], Bundle: string(a.authority.Bundle())}
	for i, c := range a.authority.Certificates() {
		out.Certificates = append(out.Certificates, &tandemv1.AuthorityCertificate{
			Fingerprint: fingerprint(c.Raw), Issues: i == 0, ExpireTime: timestamppb.New(c.NotAfter),
		})
	}
	for _, t := range a.fleet.Trusts() {
		out.Nodes = append(out.Nodes, &tandemv1.NodeTrust{
			Node: t.Name, Connected: t.Connected,
			Trusts:     t.Identity != nil && a.authority.Trusts(t.Identity.GetAuthorities()),
			Current:    t.Identity != nil && a.authority.Issues(t.Identity.GetIssuer()),
			ExpireTime: t.Identity.GetExpireTime(),
		})
	}
	return out
}

// fingerprint is SHA-256 of a certificate as openssl prints it.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}
