// Package identity is who this node is to its controller: a key that never
// leaves the node and a certificate for it, got once with a join token and
// renewed at half of its life.
package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Identity is a node's key and certificate and the CA that it trusts. It is
// immutable; a renewal makes another one.
type Identity struct {
	node, uid   string
	certificate tls.Certificate
	roots       *x509.CertPool
	authorities []*x509.Certificate // of roots
}

// file in the directory: certificate chain, key and CA in one, so that a
// renewal replaces all of them at once.
const file = "identity.pem"

// pendingFile holds the key of an enrolment whose answer has not come. With the
// same key again the controller repeats its answer; with another one the token
// would be used up.
const pendingFile = "pending.pem"

// caBlock marks a CA certificate in the file.
const caBlock = "TANDEM CA CERTIFICATE"

// Load reads the identity in dir; nil when there is none.
func Load(dir string) (*Identity, error) {
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	id, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("node identity %s: %w: remove the file and join again", path, err)
	}
	return id, nil
}

func parse(data []byte) (*Identity, error) {
	id := &Identity{roots: x509.NewCertPool()}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			id.certificate.Certificate = append(id.certificate.Certificate, block.Bytes)
		case caBlock:
			ca, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			id.roots.AddCert(ca)
			id.authorities = append(id.authorities, ca)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			id.certificate.PrivateKey = key
		}
	}
	if len(id.certificate.Certificate) == 0 || id.certificate.PrivateKey == nil || len(id.authorities) == 0 {
		return nil, errors.New("certificate, key or CA is missing")
	}
	leaf, err := x509.ParseCertificate(id.certificate.Certificate[0])
	if err != nil {
		return nil, err
	}
	id.certificate.Leaf = leaf
	if id.node, id.uid, err = named(leaf); err != nil {
		return nil, err
	}
	return id, nil
}

// named reads who a certificate is for: tandem://clusters/{cluster}/nodes/{node}/{uid}.
func named(leaf *x509.Certificate) (node, uid string, err error) {
	if len(leaf.URIs) == 1 {
		if parts := strings.Split(leaf.URIs[0].Path, "/"); len(parts) == 5 && parts[2] == "nodes" {
			return parts[3], parts[4], nil
		}
	}
	return "", "", errors.New("the certificate is no node's")
}

// Node is the id that the node has joined with. It says who this is, whatever
// the hostname is now.
func (id *Identity) Node() string { return id.node }

// UID is new with every join.
func (id *Identity) UID() string { return id.uid }

// String names the identity and holds nothing secret.
func (id *Identity) String() string { return "node " + id.node + " (" + id.uid + ")" }

// State is what the controller is told of the identity.
func (id *Identity) State() *agentv1.IdentityState {
	s := &agentv1.IdentityState{ExpireTime: timestamppb.New(id.certificate.Leaf.NotAfter)}
	for _, ca := range id.authorities {
		hash := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
		s.Authorities = append(s.Authorities, hash[:])
		if id.certificate.Leaf.CheckSignatureFrom(ca) == nil {
			s.Issuer = hash[:]
		}
	}
	return s
}

// ExpireTime is the end of the certificate's life.
func (id *Identity) ExpireTime() time.Time { return id.certificate.Leaf.NotAfter }

// RenewAt is half of the certificate's life.
func (id *Identity) RenewAt() time.Time {
	leaf := id.certificate.Leaf
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
}

// Expired tells whether the certificate is past its time, by this node's clock.
func (id *Identity) Expired() bool { return time.Now().After(id.certificate.Leaf.NotAfter) }

// Enrol shows the join token in tokenFile to the controller at address,
// host:port, and keeps the certificate that it gives in dir.
func Enrol(ctx context.Context, dir, node, tokenFile, address string) (*Identity, error) {
	token, err := readToken(tokenFile)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(token.tlsConfig(host))))
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	defer func() { _ = conn.Close() }()
	key, err := pendingKey(dir)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	csr, err := request(key)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	answer, err := agentv1.NewAgentServiceClient(conn).Enrol(ctx, &agentv1.EnrolRequest{
		Node: node, Credential: token.credential, Csr: csr,
	})
	if err != nil {
		return nil, fmt.Errorf("join %s as %q: %w", address, node, err)
	}
	id, err := save(dir, key, answer.GetCertificate(), answer.GetCa())
	if err != nil {
		return nil, err
	}
	// The next enrolment is another one.
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	return id, nil
}

// pendingKey returns the key of the enrolment under way, durable before it is
// used.
func pendingKey(dir string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, pendingFile)
	data, err := os.ReadFile(path)
	if err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := key.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
		// A damaged one is of no use to anyone.
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	data, err = encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(path, data)
}

// Renew gets a new certificate over a connection that shows the old one.
func Renew(ctx context.Context, dir string, conn grpc.ClientConnInterface) (*Identity, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("renew the node's certificate: %w", err)
	}
	csr, err := request(key)
	if err != nil {
		return nil, fmt.Errorf("renew the node's certificate: %w", err)
	}
	answer, err := agentv1.NewAgentServiceClient(conn).Renew(ctx, &agentv1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("renew the node's certificate: %w", err)
	}
	return save(dir, key, answer.GetCertificate(), answer.GetCa())
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// request returns a certificate request for a key, in DER.
func request(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// save writes the identity and reads it back.
func save(dir string, key *ecdsa.PrivateKey, chain, ca []byte) (*Identity, error) {
	data, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	data = append(data, chain...)
	for block, rest := pem.Decode(ca); block != nil; block, rest = pem.Decode(rest) {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: caBlock, Bytes: block.Bytes})...)
	}
	id, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("node identity: the controller's answer: %w", err)
	}
	if err := write(filepath.Join(dir, file), data); err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	return id, nil
}

// write puts a file that only root can read into the identity's directory.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.WriteFile(path, data, 0o600)
}
