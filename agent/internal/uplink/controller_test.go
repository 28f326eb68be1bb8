package uplink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/identity"
	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// ca signs certificates.
type ca struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{key: key}
	c.certificate = c.sign(&x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
	}, &key.PublicKey)
	return c
}

// sign signs for an hour unless the template says otherwise.
func (c *ca) sign(template *x509.Certificate, key any) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	template.SerialNumber, template.Subject = serial, pkix.Name{CommonName: "test"}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	parent := c.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, c.key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return certificate
}

// issue answers a certificate request of a node.
func (c *ca) issue(csr []byte, node, uid string) (chain, bundle []byte, err error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, nil, err
	}
	leaf := c.sign(&x509.Certificate{
		URIs: []*url.URL{{Scheme: "tandem", Host: "clusters", Path: "/default/nodes/" + node + "/" + uid}},
	}, request.PublicKey)
	return encode(leaf), encode(c.certificate), nil
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// controller is a controller of which a test says what it answers.
type controller struct {
	agentv1.UnimplementedAgentServiceServer
	*ca
	address string

	mu      sync.Mutex
	refuse  func(uid string) error // of a session; nil: it is welcome
	clock   time.Duration          // ahead of the node's
	joins   int
	renewed int
	hellos  chan *agentv1.Hello
}

// newController serves with a certificate that is valid from a time on.
func newController(t *testing.T, from time.Time) *controller {
	t.Helper()
	return newControllerOf(t, newCA(t), from)
}

func newControllerOf(t *testing.T, authority *ca, from time.Time) *controller {
	t.Helper()
	c := &controller{ca: authority, hellos: make(chan *agentv1.Hello, 100)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := c.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: from, NotAfter: from.Add(90 * 24 * time.Hour),
	}, &key.PublicKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, c.certificate.Raw}, PrivateKey: key}},
	})))
	agentv1.RegisterAgentServiceServer(server, c)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *controller) token() string {
	hash := sha256.Sum256(c.certificate.RawSubjectPublicKeyInfo)
	return "tandem-join." + base64.RawURLEncoding.EncodeToString(hash[:]) + ".id.secret"
}

// with changes what the controller answers.
func (c *controller) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// refuses lets sessions end with an error of that reason.
func refuses(code codes.Code, reason, domain string, about func(uid string) string) func(string) error {
	return func(uid string) error {
		st, err := status.New(code, "because of "+reason).WithDetails(&errdetails.ErrorInfo{
			Reason: reason, Domain: domain, Metadata: map[string]string{"uid": about(uid)},
		})
		if err != nil {
			return err
		}
		return st.Err()
	}
}

func itself(uid string) string { return uid }

func (c *controller) Enrol(_ context.Context, r *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.GetCredential() != "id.secret" {
		return nil, status.Error(codes.Unauthenticated, "token is not valid")
	}
	c.joins++
	chain, bundle, err := c.issue(r.GetCsr(), r.GetNode(), fmt.Sprint("uid-", c.joins))
	return &agentv1.EnrolResponse{Certificate: chain, Ca: bundle}, err
}

// caller is whose certificate a call showed.
func caller(ctx context.Context) (node, uid string) {
	p, _ := peer.FromContext(ctx)
	parts := strings.Split(p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].URIs[0].Path, "/")
	return parts[3], parts[4]
}

func (c *controller) Renew(ctx context.Context, r *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewed++
	c.refuse = nil // what was wrong with the old certificate is over
	node, uid := caller(ctx)
	chain, bundle, err := c.issue(r.GetCsr(), node, uid)
	return &agentv1.RenewResponse{Certificate: chain, Ca: bundle}, err
}

func (c *controller) Session(stream grpc.BidiStreamingServer[agentv1.SessionRequest, agentv1.SessionResponse]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	_, uid := caller(stream.Context())
	c.mu.Lock()
	refuse, now := c.refuse, time.Now().Add(c.clock)
	c.mu.Unlock()
	if refuse != nil {
		if err := refuse(uid); err != nil {
			return err
		}
	}
	c.hellos <- m.GetHello()
	if err := stream.Send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Welcome{Welcome: &agentv1.Welcome{
		Protocol: newestProtocol, Time: timestamppb.New(now),
	}}}); err != nil {
		return err
	}
	if m.GetHello().GetApplied().GetHash() == "" {
		if err := stream.Send(&agentv1.SessionResponse{Kind: &agentv1.SessionResponse_Update{Update: &agentv1.Update{
			Nonce: "1", Version: &agentv1.Version{Epoch: "e", Runtime: 9, Hash: "nine"},
		}}}); err != nil {
			return err
		}
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		c.mu.Lock()
		refuse := c.refuse
		c.mu.Unlock()
		if refuse != nil {
			if err := refuse(uid); err != nil {
				return err
			}
		}
	}
}

// applying puts every target in effect.
type applying struct {
	at
	outcomes chan reconcile.Outcome
}

func (a *applying) Submit(nonce string, t *target.Target) {
	a.outcomes <- reconcile.Outcome{Nonce: nonce, Target: t}
}
func (a *applying) Outcomes() <-chan reconcile.Outcome { return a.outcomes }
func (a *applying) Begun() <-chan struct{} {
	begun := make(chan struct{})
	close(begun)
	return begun
}

// agent is an uplink that runs.
type agent struct {
	t           *testing.T
	c           *controller
	dir         string
	token       string
	mu          sync.Mutex
	problems    map[string]string
	withdrawals chan bool
	stop        func()
}

// newAgent has joined; its uplink is not started yet.
func newAgent(t *testing.T, c *controller) *agent {
	t.Helper()
	a := &agent{t: t, c: c, dir: filepath.Join(t.TempDir(), "identity"), token: filepath.Join(t.TempDir(), "join.token")}
	a.put(c.token())
	if _, err := identity.Enrol(t.Context(), a.dir, "lb-master", a.token, c.address); err != nil {
		t.Fatal(err)
	}
	a.put("")
	return a
}

// put makes text the node's join token.
func (a *agent) put(text string) {
	a.t.Helper()
	if err := os.WriteFile(a.token, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// start runs the uplink until stop or the end of the test.
func (a *agent) start(change ...func(*Options)) {
	a.t.Helper()
	applied, err := target.FromConfig(&agentv1.NodeConfig{Version: &agentv1.Version{Epoch: "e", Runtime: 7, Hash: "seven"}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.problems, a.withdrawals = map[string]string{}, make(chan bool, 100)
	o := Options{
		Node: "lb-master", Controllers: []string{a.c.address}, TokenFile: a.token, IdentityDir: a.dir,
		Report: report.New("boot"), Reconciler: &applying{at{applied}, make(chan reconcile.Outcome, 1)},
		Problem: func(key, text string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.problems[key] = text
		},
		Withdraw: func(w bool) error { a.withdrawals <- w; return nil },
		Logger:   hclog.NewNullLogger(),
	}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(o).Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(a.stop)
}

// withdraws waits for the next word to keepalived.
func (a *agent) withdraws(want bool) {
	a.t.Helper()
	select {
	case got := <-a.withdrawals:
		if got != want {
			a.t.Fatalf("withdrawn: %v, want %v", got, want)
		}
	case <-time.After(20 * time.Second):
		a.t.Fatalf("keepalived is not told that withdrawn is %v", want)
	}
}

// greets waits for the next session.
func (a *agent) greets() *agentv1.Hello {
	a.t.Helper()
	select {
	case h := <-a.c.hellos:
		return h
	case <-time.After(20 * time.Second):
		a.t.Fatal("no session")
		return nil
	}
}

// tells waits until the report tells, or does not tell, a problem.
func (a *agent) tells(words string, want bool) {
	a.t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-poll.C {
		a.mu.Lock()
		problems := fmt.Sprint(a.problems)
		a.mu.Unlock()
		if strings.Contains(problems, words) == want {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%q in the problems: want %v; they are %q", words, want, problems)
		}
	}
}
