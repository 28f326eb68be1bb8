package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// joinToken is a one-time token: which CA to trust, and the credential for it.
// docs/security.md describes its form.
type joinToken struct {
	caHash     []byte // SHA-256 of the CA's SubjectPublicKeyInfo
	credential string
}

const tokenPrefix = "tandem-join."

// maxTokenFile bounds what is read of a token file, in bytes.
const maxTokenFile = 4096

// readToken reads a token file. Its errors never hold the token.
func readToken(path string) (*joinToken, error) {
	if path == "" {
		return nil, errors.New("join_token_file: not set, and this node has no certificate yet: make a token with \"lbctl node token create\"")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("join token: %w", err)
	}
	token, ok := strings.CutPrefix(strings.TrimSpace(string(data)), tokenPrefix)
	if len(data) > maxTokenFile || !ok {
		return nil, fmt.Errorf("join token: %s does not hold a join token: make one with \"lbctl node token create\"", path)
	}
	hash, credential, ok := strings.Cut(token, ".")
	if !ok || credential == "" {
		return nil, fmt.Errorf("join token: the token in %s is cut off", path)
	}
	caHash, err := base64.RawURLEncoding.DecodeString(hash)
	if err != nil || len(caHash) != sha256.Size {
		return nil, fmt.Errorf("join token: the token in %s is damaged", path)
	}
	return &joinToken{caHash: caHash, credential: credential}, nil
}

// tlsConfig trusts exactly the CA that the token names. The check is part of
// the handshake, so that the credential is never sent to anyone else.
func (t *joinToken) tlsConfig(serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		// The chain is verified below, against a CA that only its hash names.
		InsecureSkipVerify: true, //nolint:gosec // G402: VerifyConnection verifies
		VerifyConnection: func(state tls.ConnectionState) error {
			return t.verify(state, serverName)
		},
	}
}

func (t *joinToken) verify(state tls.ConnectionState, serverName string) error {
	for _, certificate := range state.PeerCertificates[1:] {
		hash := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(hash[:], t.caHash) != 1 {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(certificate)
		return verify(state, serverName, roots)
	}
	return errors.New("the controller's CA is not the one that the join token names: the token is another controller's, or something stands between")
}
