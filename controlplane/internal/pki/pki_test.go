package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
)

func open(t *testing.T, dir string) *pki.Authority {
	t.Helper()
	a, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestOpenKeepsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if second := open(t, dir); !bytes.Equal(first.Bundle(), second.Bundle()) || first.Hash() != second.Hash() {
		t.Error("a second start made another authority")
	}
	if onDisk, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || !bytes.Equal(onDisk, first.Bundle()) {
		t.Errorf("ca.pem is not the bundle: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca-key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca-key.pem: mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestOpenFinishesAStartThatWasCutShort(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if second := open(t, dir); first.Hash() != second.Hash() {
		t.Error("the key that was there was not used")
	}
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	other := t.TempDir()
	open(t, other)
	otherKey, err := os.ReadFile(filepath.Join(other, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		file    string
		content []byte // nil: removed
		want    string
	}{
		"no key":         {"ca-key.pem", nil, "restore the key from a backup"},
		"key of another": {"ca-key.pem", otherKey, "does not belong"},
		"broken key":     {"ca-key.pem", []byte("x"), "holds no PEM"},
		"broken CA":      {"ca.pem", []byte("x"), "holds no certificate"},
		"key for the CA": {"ca.pem", otherKey, "holds no certificate"},
		"truncated key":  {"ca-key.pem", []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "ca-key.pem"},
		"truncated CA":   {"ca.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "ca.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			path := filepath.Join(dir, test.file)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if test.content != nil {
				if err := os.WriteFile(path, test.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := pki.Open(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v; want an error with %q", err, test.want)
			}
		})
	}
}

func request(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	evil := &url.URL{Scheme: "tandem", Host: "clusters", Path: "/other/nodes/other/uid"}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "other"}, URIs: []*url.URL{evil}, DNSNames: []string{"localhost"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestNodeCertificateCarriesOnlyTheGivenIdentity(t *testing.T) {
	a := open(t, t.TempDir())
	id := pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: "3f0c"}
	key, err := pki.RequestKey(request(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.IssueNode(key, id)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.IdentityOf(certificate); err != nil || got != id {
		t.Errorf("identity %+v, %v; want %+v", got, err, id)
	}
	if len(certificate.DNSNames) != 0 || certificate.IsCA || certificate.Subject.CommonName != "lb-master" {
		t.Errorf("the certificate took over what the request asked for: %+v", certificate.Subject)
	}
	client := x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := certificate.Verify(client); err != nil {
		t.Errorf("not a client certificate: %v", err)
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: a.Pool()}); err == nil {
		t.Error("a node could pose as a server")
	}
}

func TestRequestKeyRefusesBadRequests(t *testing.T) {
	forged := request(t, newKey(t))
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{"empty": nil, "no DER": []byte("x"), "forged": forged, "RSA": request(t, weak)} {
		if _, err := pki.RequestKey(csr); !errors.Is(err, pki.ErrBadRequest) {
			t.Errorf("%s: got %v; want ErrBadRequest", name, err)
		}
	}
}

func TestIdentityOfRefusesOtherURIs(t *testing.T) {
	for _, text := range []string{"tandem://clusters/c/nodes/n", "tandem://clusters/c/nodes/n/u/x", "tandem://clusters//nodes/n/u",
		"tandem://clusters/c/vips/n/u", "https://clusters/c/nodes/n/u", "tandem://other/c/nodes/n/u"} {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := pki.IdentityOf(&x509.Certificate{URIs: []*url.URL{uri}}); err == nil {
			t.Errorf("%s was read as %+v", text, id)
		}
	}
	if _, err := pki.IdentityOf(&x509.Certificate{}); err == nil {
		t.Error("a certificate without a URI has an identity")
	}
}

// handshake does a handshake in memory and returns the certificate shown.
func handshake(t *testing.T, s *pki.Server, roots *x509.CertPool, name string) (*x509.Certificate, error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	server := tls.Server(far, &tls.Config{GetCertificate: s.GetCertificate})
	go func() {
		_ = server.Handshake()
		far.Close()
	}()
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: name})
	if err := client.Handshake(); err != nil {
		return nil, err
	}
	return client.ConnectionState().PeerCertificates[0], nil
}

func TestServerCertificateNames(t *testing.T) {
	a := open(t, t.TempDir())
	s, err := a.NewServer([]string{"ctl.example.com", "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ctl.example.com", "192.0.2.1", "localhost", "127.0.0.1", "::1"} {
		if _, err := handshake(t, s, a.Pool(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := handshake(t, s, a.Pool(), "other.example.com"); err == nil {
		t.Error("the certificate is good for any name")
	}
	if _, err := handshake(t, s, open(t, t.TempDir()).Pool(), "localhost"); err == nil {
		t.Error("the certificate is good for any authority")
	}
	for _, name := range []string{"ctl:9443", "a b", "", "https://ctl", "*"} {
		if _, err := a.NewServer([]string{name}); err == nil {
			t.Errorf("%q was taken for a host name", name)
		}
	}
}

func TestServerCertificateIsRenewedBeforeItEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := open(t, dir)
		s, err := a.NewServer(nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		first, err := s.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		advance(t, 59*24*time.Hour)
		if now, _ := s.GetCertificate(nil); now != first {
			t.Error("renewed before two thirds of its life")
		}
		advance(t, 2*24*time.Hour)
		if now, _ := s.GetCertificate(nil); now == first || time.Until(now.Leaf.NotAfter) < 80*24*time.Hour {
			t.Error("not renewed at two thirds of its life")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// advance moves the bubble's clock.
func advance(t *testing.T, d time.Duration) {
	t.Helper()
	<-time.After(d)
	synctest.Wait()
}
