package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"regexp"
	"sync/atomic"
	"time"
)

// serverLifetime is the life of the server certificate. It is renewed at two
// thirds of it.
const serverLifetime = 90 * 24 * time.Hour

// Server holds the controller's own certificate. It is issued anew at each
// start, for the names of that start, and its key never leaves memory: clients
// trust the authority, not this certificate.
type Server struct {
	authority *Authority
	names     []string
	current   atomic.Pointer[tls.Certificate]
}

// hostName is a DNS name as RFC 1123 has it; the length of labels is left to DNS.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// NewServer issues a certificate for names, host names or IP addresses, and for
// the machine's loopback names. Run renews it.
func (a *Authority) NewServer(names []string) (*Server, error) {
	for _, name := range names {
		if net.ParseIP(name) == nil && !hostName.MatchString(name) {
			return nil, fmt.Errorf("%q must be a host name or an IP address, without a port", name)
		}
	}
	s := &Server{
		authority: a,
		names:     append([]string{"localhost", "127.0.0.1", "::1"}, names...),
	}
	return s, s.Reissue()
}

// GetCertificate is for tls.Config.
func (s *Server) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.current.Load(), nil
}

// TLS is for a port that nodes call. A client may show a certificate; one that
// this authority has not given to a node fails the handshake. One that is out of
// its time does not: what it is good for, the one who serves the call decides.
func (s *Server) TLS() *tls.Config {
	config := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2"},
		GetCertificate: s.GetCertificate,
		ClientAuth:     tls.RequestClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			err := s.authority.CheckNode(state.PeerCertificates[0], time.Now())
			if errors.Is(err, ErrExpired) || errors.Is(err, ErrNotYetValid) {
				return nil
			}
			return err
		},
	}
	// Clients choose their certificate by the authorities that are named to them.
	whole := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := whole.Clone()
		c.ClientCAs = s.authority.Pool()
		return c, nil
	}
	return config
}

// Run renews the certificate at two thirds of its life until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for {
		leaf := s.current.Load().Leaf
		due := leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
		select {
		case <-ctx.Done():
			return nil
		// The authority's own end shortens lives: never spin. The clock may be
		// set: look often, and at both ends.
		case <-time.After(min(max(time.Until(due), time.Minute), time.Hour)):
			if now := time.Now(); now.Before(due) && !now.Before(leaf.NotBefore) {
				continue
			}
			if err := s.Reissue(); err != nil {
				return fmt.Errorf("renew the server certificate: %w", err)
			}
		}
	}
}

// Reissue makes a new certificate, of the authority as it is now. Connections
// that are open go on.
func (s *Server) Reissue() error {
	now := s.authority.now.Load()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Tandem controller"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range s.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := now.sign(template, &key.PublicKey, serverLifetime)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s.current.Store(&tls.Certificate{
		// The authority is sent too: an agent that has only its hash, from a
		// join token, checks the whole chain with it.
		Certificate: [][]byte{der, now.issuer.Raw},
		PrivateKey:  key,
		Leaf:        leaf,
	})
	return nil
}
