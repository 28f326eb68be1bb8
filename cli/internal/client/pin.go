package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// FetchCA asks the controller for its CA, without trusting it and without
// sending anything. A person compares the fingerprint before it is used.
func FetchCA(ctx context.Context, server string) (*x509.Certificate, error) {
	address, err := Address(server)
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// Whom to trust is what the fingerprint decides; nothing is sent.
		InsecureSkipVerify: true, //nolint:gosec // no secret is sent over this connection
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the controller at %s: %w", address, err)
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	ca := chain[len(chain)-1]
	if !ca.IsCA {
		return nil, fmt.Errorf("%s does not send its CA: it is no lb-controller, or not its gRPC port", address)
	}
	return ca, verifyServer(chain, ca, address)
}

// verifyServer reports whether the chain was issued by ca for the host of
// address.
func verifyServer(chain []*x509.Certificate, ca *x509.Certificate, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
		return fmt.Errorf("the controller's certificate does not fit %s: %w", address, err)
	}
	return nil
}

// ParseCAs reads CA certificates from PEM: one, or two while the CA is being
// rotated.
func ParseCAs(text []byte) (all []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, ca)
	}
	if len(all) == 0 {
		return nil, errors.New("must hold a certificate in PEM, as the controller's ca.pem does")
	}
	return all, nil
}

// ReadCAs reads a file of CA certificates.
func ReadCAs(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA of the controller: %w", err)
	}
	all, err := ParseCAs(text)
	if err != nil {
		return nil, fmt.Errorf("CA of the controller: %s %w", path, err)
	}
	return all, nil
}

// EncodeCAs writes CA certificates as PEM.
func EncodeCAs(all []*x509.Certificate) (text []byte) {
	for _, ca := range all {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
	}
	return text
}

// Fingerprint returns the SHA-256 of the certificate as openssl prints it.
func Fingerprint(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.Raw)
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}

// SameFingerprint compares a fingerprint that a person gave, with or without
// "sha256:" and colons, in either case.
func SameFingerprint(given, want string) bool {
	normal := func(text string) string {
		text = strings.ToLower(strings.TrimSpace(text))
		for _, prefix := range []string{"sha256 fingerprint=", "sha256:"} {
			text = strings.TrimPrefix(text, prefix)
		}
		return strings.ReplaceAll(text, ":", "")
	}
	return normal(given) == normal(want)
}
