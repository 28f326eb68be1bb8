// Package pki is the controller's certificate authority: it signs the
// controller's own server certificate and the client certificates of nodes.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
)

// The files of an authority in its directory. The key is readable by its owner
// alone.
const (
	CertificateFile = "ca.pem"
	keyFile         = "ca-key.pem"
)

// Files are what a backup of an authority must hold, by their names.
var Files = []string{CertificateFile, keyFile}

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// backdate lets peers whose clocks are behind accept a new certificate.
	backdate = 5 * time.Minute
)

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	certificate *x509.Certificate
	bundle      []byte // PEM
	key         *ecdsa.PrivateKey
}

// Open loads the authority in dir, or makes one at the first start.
func Open(dir string) (*Authority, error) {
	key, err := loadKey(filepath.Join(dir, keyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, CertificateFile)); err == nil {
			return nil, fmt.Errorf("%s is there and its key %s is not: restore the key from a backup, or remove %s to start with a new authority that every node must join again",
				CertificateFile, keyFile, CertificateFile)
		}
		if key, err = createKey(filepath.Join(dir, keyFile)); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	path := filepath.Join(dir, CertificateFile)
	bundle, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A first start, perhaps one that was cut short after the key.
		bundle, err = createCertificate(path, key)
	}
	if err != nil {
		return nil, err
	}
	certificate, err := parseCertificate(bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to the key %s beside it: restore both from one backup", path, keyFile)
	}
	return &Authority{certificate: certificate, bundle: bundle, key: key}, nil
}

// Bundle is the authority's certificate in PEM. The caller must not change it.
func (a *Authority) Bundle() []byte { return a.bundle }

// Pool holds the authority as the only root.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Hash is SHA-256 of the authority's SubjectPublicKeyInfo. Join tokens carry
// it, so that an agent knows the authority before it trusts anything else.
func (a *Authority) Hash() [sha256.Size]byte {
	return sha256.Sum256(a.certificate.RawSubjectPublicKeyInfo)
}

// sign completes the template with a serial number and the beginning of its
// life, and signs it for the public key. It returns DER.
func (a *Authority) sign(template *x509.Certificate, public any, lifetime time.Duration) ([]byte, error) {
	if err := complete(template, lifetime); err != nil {
		return nil, err
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
}

func complete(template *x509.Certificate, lifetime time.Duration) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return err
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(lifetime)
	return nil
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block: restore it from a backup", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an ECDSA key", path, parsed)
	}
	return key, nil
}

func createKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, atomicfile.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func createCertificate(path string, key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Tandem CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if err := complete(template, authorityLifetime); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	text := encodeCertificate(der)
	return text, atomicfile.WriteFile(path, text, 0o644)
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("holds no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
