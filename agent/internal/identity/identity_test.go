package identity

import (
	"bytes"
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
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// authority is a CA and a controller's enrolment service behind it.
type authority struct {
	agentv1.UnimplementedAgentServiceServer
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	address  string
	enrolled atomic.Int32
	lose     atomic.Int32 // answers to lose
	keys     sync.Map     // public keys that were shown
}

func newAuthority(t *testing.T, serverName string) *authority {
	t.Helper()
	a := &authority{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.ca = a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &a.key.PublicKey)
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := a.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.ParseIP(serverName)}}, &serverKey.PublicKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.address = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{leaf.Raw, a.ca.Raw}, PrivateKey: serverKey,
		}},
	})))
	agentv1.RegisterAgentServiceServer(server, a)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(3*time.Hour)
	parent := a.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (a *authority) Enrol(_ context.Context, r *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	a.enrolled.Add(1)
	csr, err := x509.ParseCertificateRequest(r.GetCsr())
	if err != nil {
		return nil, err
	}
	a.keys.Store(string(csr.RawSubjectPublicKeyInfo), true)
	if a.lose.Add(-1) >= 0 {
		return nil, status.Error(codes.Unavailable, "the answer is lost")
	}
	template := &x509.Certificate{
		URIs:         []*url.URL{{Scheme: "tandem", Host: "clusters", Path: "/default/nodes/" + r.GetNode() + "/uid-1"}},
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(3 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &agentv1.EnrolResponse{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Ca:          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.Raw}),
	}, nil
}

func (a *authority) token() string {
	hash := sha256.Sum256(a.ca.RawSubjectPublicKeyInfo)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(hash[:]) + ".id.secret"
}

func writeToken(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "join.token")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnrolKeepsAnIdentityThatLoads(t *testing.T) {
	a := newAuthority(t, "127.0.0.1")
	dir := filepath.Join(t.TempDir(), "identity")
	if id, err := Load(dir); id != nil || err != nil {
		t.Fatalf("before joining there is %v, %v", id, err)
	}
	if _, err := Enrol(t.Context(), dir, "lb-master", writeToken(t, a.token()), a.address); err != nil {
		t.Fatal(err)
	}
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Until(id.RenewAt()); got < 50*time.Minute || got > 70*time.Minute {
		t.Errorf("a certificate from an hour ago for three more renews in %s, want about an hour", got)
	}
	if id.Expired() {
		t.Error("a new certificate counts as expired")
	}
	if id.Node() != "lb-master" || id.UID() != "uid-1" {
		t.Errorf("it is %s %s, want lb-master uid-1", id.Node(), id.UID())
	}
	hash := sha256.Sum256(a.ca.RawSubjectPublicKeyInfo)
	if s := id.State(); len(s.GetAuthorities()) != 1 || !bytes.Equal(s.GetAuthorities()[0], hash[:]) || !bytes.Equal(s.GetIssuer(), hash[:]) {
		t.Errorf("it tells the controller %v, want its one CA", s)
	}
	info, err := os.Stat(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the identity has permissions %o, want 600", info.Mode().Perm())
	}
}

// A join whose answer is lost is repeated with the same key, also by an agent
// that was started again; the next join has a key of its own.
func TestAnUnansweredJoinKeepsItsKey(t *testing.T) {
	a := newAuthority(t, "127.0.0.1")
	dir, token := filepath.Join(t.TempDir(), "identity"), writeToken(t, a.token())
	shown := func() (n int) {
		a.keys.Range(func(any, any) bool { n++; return true })
		return n
	}
	a.lose.Store(2)
	for range 2 {
		if _, err := Enrol(t.Context(), dir, "lb-master", token, a.address); err == nil {
			t.Fatal("joined without an answer")
		}
	}
	info, err := os.Stat(filepath.Join(dir, pendingFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key waits with %v, %v; want permissions 600", info.Mode(), err)
	}
	if _, err := Enrol(t.Context(), dir, "lb-master", token, a.address); err != nil {
		t.Fatal(err)
	}
	if n := shown(); n != 1 {
		t.Errorf("%d keys were shown for one join", n)
	}
	if _, err := Enrol(t.Context(), dir, "lb-master", token, a.address); err != nil {
		t.Fatal(err)
	}
	if n := shown(); n != 2 {
		t.Errorf("%d keys were shown for two joins", n)
	}
}

func TestTheCredentialIsSentToNobodyElse(t *testing.T) {
	ours, foreign := newAuthority(t, "127.0.0.1"), newAuthority(t, "127.0.0.1")
	otherName := newAuthority(t, "127.0.0.99")
	for name, test := range map[string]struct {
		token  string
		server *authority
	}{
		"another CA":         {ours.token(), foreign},
		"another name":       {otherName.token(), otherName},
		"a hash that is cut": {strings.Replace(ours.token(), ".id", "x.id", 1), ours},
		"no token at all":    {"something", ours},
	} {
		_, err := Enrol(t.Context(), t.TempDir(), "lb-master", writeToken(t, test.token), test.server.address)
		if err == nil {
			t.Errorf("%s: joined", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the credential: %v", name, err)
		}
		if n := test.server.enrolled.Load(); n != 0 {
			t.Errorf("%s: the credential was sent", name)
		}
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "join again") {
		t.Errorf("a damaged identity gives %v, want the cure", err)
	}
}
