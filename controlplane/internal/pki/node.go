package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// nodeLifetime is the life of a node's certificate. Agents renew at half of it.
const nodeLifetime = 30 * 24 * time.Hour

// Renewable is how long after its end, or before its beginning, a certificate is
// still good for its own renewal.
const Renewable = 90 * 24 * time.Hour

// What CheckNode finds of a certificate that is good in all but its time.
var (
	ErrExpired     = errors.New("the node's certificate has expired")
	ErrNotYetValid = errors.New("the node's certificate is not valid yet")
)

// ErrBadRequest is returned for a certificate request that cannot be granted.
var ErrBadRequest = errors.New("certificate request refused")

// NodeIdentity is who a node's certificate says that it is.
type NodeIdentity struct {
	Cluster string // id
	Node    string // id
	UID     string // never given to another node
}

// uri is tandem://clusters/{cluster}/nodes/{node}/{uid}.
func (n NodeIdentity) uri() *url.URL {
	return &url.URL{Scheme: "tandem", Host: "clusters", Path: "/" + n.Cluster + "/nodes/" + n.Node + "/" + n.UID}
}

// IdentityOf reads the identity from a certificate that TLS has verified.
func IdentityOf(certificate *x509.Certificate) (NodeIdentity, error) {
	if len(certificate.URIs) != 1 {
		return NodeIdentity{}, fmt.Errorf("a node's certificate has one URI, this one has %d", len(certificate.URIs))
	}
	uri := certificate.URIs[0]
	parts := strings.Split(uri.Path, "/")
	if uri.Scheme != "tandem" || uri.Host != "clusters" || len(parts) != 5 || parts[2] != "nodes" {
		return NodeIdentity{}, fmt.Errorf("%s is not tandem://clusters/{cluster}/nodes/{node}/{uid}", uri)
	}
	id := NodeIdentity{Cluster: parts[1], Node: parts[3], UID: parts[4]}
	if id.Cluster == "" || id.Node == "" || id.UID == "" {
		return NodeIdentity{}, fmt.Errorf("%s leaves a part of the identity empty", uri)
	}
	return id, nil
}

// CheckNode tells whether a certificate is one that this authority has given to a
// node. The error is ErrExpired or ErrNotYetValid when only its time is wrong.
func (a *Authority) CheckNode(certificate *x509.Certificate, now time.Time) error {
	within := now
	if within.After(certificate.NotAfter) {
		within = certificate.NotAfter
	}
	if within.Before(certificate.NotBefore) {
		within = certificate.NotBefore
	}
	_, err := certificate.Verify(x509.VerifyOptions{
		Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: within,
	})
	if err != nil {
		return err
	}
	const form = "2006-01-02 15:04:05 MST"
	switch {
	case now.After(certificate.NotAfter):
		return fmt.Errorf("%w: it ended at %s, and the controller's clock says %s", ErrExpired, certificate.NotAfter.UTC().Format(form), now.UTC().Format(form))
	case now.Before(certificate.NotBefore):
		return fmt.Errorf("%w: it begins at %s, and the controller's clock says %s", ErrNotYetValid, certificate.NotBefore.UTC().Format(form), now.UTC().Format(form))
	}
	return nil
}

// MayRenew tells whether a certificate that is out of its time may still be
// renewed by who holds its key.
func MayRenew(certificate *x509.Certificate, now time.Time) bool {
	return now.Before(certificate.NotAfter.Add(Renewable)) && now.After(certificate.NotBefore.Add(-Renewable))
}

// RequestKey returns the public key of a certificate request, PKCS #10 in DER;
// nothing else in it counts. The error is ErrBadRequest.
func RequestKey(csr []byte) (crypto.PublicKey, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: not PKCS #10 in DER: %w", ErrBadRequest, err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: not signed by its own key: %w", ErrBadRequest, err)
	}
	switch request.PublicKey.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return request.PublicKey, nil
	default:
		return nil, fmt.Errorf("%w: the key is a %s key, must be ECDSA or Ed25519", ErrBadRequest, request.PublicKeyAlgorithm)
	}
}

// KeyHash is SHA-256 of a public key that RequestKey has returned.
func KeyHash(key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil // RequestKey lets only keys through that have a form
	}
	sum := sha256.Sum256(der)
	return sum[:]
}

// IssueNode signs a client certificate for a node's public key. It returns PEM.
func (a *Authority) IssueNode(key crypto.PublicKey, id NodeIdentity) ([]byte, error) {
	der, err := a.now.Load().sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: id.Node},
		URIs:        []*url.URL{id.uri()},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key, nodeLifetime)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(der), nil
}
