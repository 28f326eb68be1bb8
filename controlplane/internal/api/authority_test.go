package api_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// member is an agent as far as its identity goes.
type member struct {
	t      *testing.T
	c      *controller
	pair   tls.Certificate
	roots  []*x509.Certificate
	conn   *grpc.ClientConn
	stream agentv1.AgentService_SessionClient
}

func newMember(t *testing.T, c *controller, node string) *member {
	t.Helper()
	m := &member{t: t, c: c, pair: c.join(t, node)}
	m.trust(c.authority.Bundle())
	m.connect()
	return m
}

func (m *member) trust(bundle []byte) {
	m.roots = nil
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		ca, err := x509.ParseCertificate(block.Bytes)
		must(m.t, err)
		m.roots = append(m.roots, ca)
	}
}

// identity is what the agent tells of it.
func (m *member) identity() *agentv1.IdentityState {
	s := &agentv1.IdentityState{}
	for _, ca := range m.roots {
		hash := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
		s.Authorities = append(s.Authorities, hash[:])
		if m.pair.Leaf.CheckSignatureFrom(ca) == nil {
			s.Issuer = hash[:]
		}
	}
	return s
}

// connect begins a session with what the member has and trusts.
func (m *member) connect() {
	m.t.Helper()
	pool := x509.NewCertPool()
	for _, ca := range m.roots {
		pool.AddCert(ca)
	}
	var err error
	m.conn, err = grpc.NewClient(m.c.grpcAddress, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, Certificates: []tls.Certificate{m.pair}, MinVersion: tls.VersionTLS13,
	})))
	must(m.t, err)
	m.t.Cleanup(func() { m.conn.Close() })
	m.stream, err = agentv1.NewAgentServiceClient(m.conn).Session(m.t.Context())
	must(m.t, err)
	must(m.t, m.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{
		Protocol: 1, AgentVersion: "test", BootId: "b", SessionId: "s", Identity: m.identity(),
	}}}))
	welcome, err := m.stream.Recv()
	if err != nil || welcome.GetWelcome() == nil {
		m.t.Fatalf("got %v, %v; want a welcome", welcome, err)
	}
}

// renews waits until the controller asks for a renewal, renews, and tells it.
func (m *member) renews() {
	m.t.Helper()
	for {
		message, err := m.stream.Recv()
		must(m.t, err)
		if message.GetRenew() != nil {
			break
		}
	}
	key, csr := newRequest(m.t)
	answer, err := agentv1.NewAgentServiceClient(m.conn).Renew(m.t.Context(), &agentv1.RenewRequest{Csr: csr})
	must(m.t, err)
	m.pair = keyPair(m.t, key, answer.GetCertificate())
	m.trust(answer.GetCa())
	must(m.t, m.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Identity{Identity: m.identity()}}))
}

// access calls AccessService as an operator with the bundle of now.
func (c *controller) access(t *testing.T) tandemv1.AccessServiceClient {
	t.Helper()
	return tandemv1.NewAccessServiceClient(c.dial(t))
}

// waitAuthority waits until the authority is as it should be.
func (c *controller) waitAuthority(t *testing.T, what string, is func(*tandemv1.Authority) bool) {
	t.Helper()
	access := c.access(t)
	for deadline := time.Now().Add(10 * time.Second); ; {
		got, err := access.GetAuthority(c.admin(t), &tandemv1.GetAuthorityRequest{})
		must(t, err)
		if is(got) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, got)
		}
	}
}

func (c *controller) step(t *testing.T, step tandemv1.AuthorityStep, force bool) (*tandemv1.Authority, error) {
	t.Helper()
	return c.access(t).RotateAuthority(c.admin(t), &tandemv1.RotateAuthorityRequest{Step: step, Force: force})
}

// trusting tells whether all nodes but some trust the whole bundle.
func trusting(except ...string) func(*tandemv1.Authority) bool {
	return func(a *tandemv1.Authority) bool {
		for _, n := range a.GetNodes() {
			if n.GetTrusts() == slices.Contains(except, n.GetNode()) {
				return false
			}
		}
		return true
	}
}

func current(a *tandemv1.Authority) bool {
	return !slices.ContainsFunc(a.GetNodes(), func(n *tandemv1.NodeTrust) bool { return !n.GetCurrent() })
}

// A rotation with two agents: no step locks one out, each step waits for both,
// and at the end nothing of the old CA is of use.
func TestRotationOfTheCA(t *testing.T) {
	const (
		begin    = tandemv1.AuthorityStep_AUTHORITY_STEP_BEGIN
		activate = tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE
		retire   = tandemv1.AuthorityStep_AUTHORITY_STEP_RETIRE
	)
	c := start(t)
	a, b := newMember(t, c, "lb-master"), newMember(t, c, "lb-backup")
	old, oldRoots := a.pair, a.roots
	got, err := c.step(t, begin, false)
	must(t, err)
	if got.GetPhase() != tandemv1.AuthorityPhase_AUTHORITY_PHASE_BEGUN || len(got.GetCertificates()) != 2 || strings.Count(got.GetBundle(), "BEGIN CERTIFICATE") != 2 {
		t.Errorf("begun: %v", got)
	}
	a.renews()
	c.waitAuthority(t, "one of two trusts the new CA", trusting("clusters/default/nodes/lb-backup"))
	_, err = c.step(t, activate, false)
	if f := grpcFault(t, err); f.code != codes.FailedPrecondition || f.reason != "NODES_NOT_READY" || !strings.Contains(f.message, "lb-backup (connected)") || strings.Contains(f.message, "lb-master") {
		t.Fatalf("activated too early: %+v", f)
	}
	b.renews()
	c.waitAuthority(t, "both trust the new CA", trusting())
	_, err = c.step(t, activate, false)
	must(t, err)
	// What each has now, and what it had when all began, is good for a new
	// session on the controller's side; on theirs, the new bundle is needed.
	a.connect()
	_, err = c.step(t, retire, false)
	if f := grpcFault(t, err); f.reason != "NODES_NOT_READY" {
		t.Fatalf("retired too early: %+v", f)
	}
	a.renews()
	b.renews()
	c.waitAuthority(t, "both have certificates of the new CA", current)
	a.connect()
	b.connect()
	_, err = c.step(t, retire, false)
	must(t, err)
	a.renews()
	b.renews()
	c.waitAuthority(t, "one CA is left", func(a *tandemv1.Authority) bool {
		return a.GetPhase() == tandemv1.AuthorityPhase_AUTHORITY_PHASE_STEADY && len(a.GetCertificates()) == 1 && trusting()(a) && current(a)
	})
	a.connect()
	b.connect()
	_, csr := newRequest(t)
	if _, err := agentv1.NewAgentServiceClient(c.dial(t, old)).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr}); err == nil {
		t.Error("a certificate of the retired CA is of use")
	}
	if oldRoots[0].Equal(a.roots[0]) || len(a.roots) != 1 {
		t.Errorf("the agent trusts %d CAs", len(a.roots))
	}
}

func TestAForcedStepAndOneOutOfTurn(t *testing.T) {
	c := start(t)
	newMember(t, c, "lb-master")
	for step, want := range map[tandemv1.AuthorityStep]string{
		tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE: "STEP_OUT_OF_TURN",
		tandemv1.AuthorityStep_AUTHORITY_STEP_RETIRE:   "STEP_OUT_OF_TURN",
		tandemv1.AuthorityStep_AUTHORITY_STEP_CANCEL:   "STEP_OUT_OF_TURN",
		99: "INVALID_ARGUMENT",
	} {
		if _, err := c.step(t, step, true); err == nil || want != "INVALID_ARGUMENT" && grpcFault(t, err).reason != want {
			t.Errorf("%v: %v; want %s", step, err, want)
		}
	}
	for _, step := range []tandemv1.AuthorityStep{tandemv1.AuthorityStep_AUTHORITY_STEP_BEGIN, tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE} {
		if _, err := c.step(t, step, true); err != nil {
			t.Errorf("%v, forced: %v", step, err)
		}
	}
	// A token of now is for the CA of now.
	token, err := tandemv1.NewFleetServiceClient(c.dial(t)).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: "lb-backup"},
	})
	must(t, err)
	if hash := c.authority.Hash(); !strings.Contains(token.GetToken(), base64.RawURLEncoding.EncodeToString(hash[:])) {
		t.Error("a join token names a CA that does not issue")
	}
}
