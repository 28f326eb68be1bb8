// Package pki is the controller's certificate authority: it signs the
// controller's own server certificate and the client certificates of nodes.
package pki

import (
	"bytes"
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
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
)

// The files of an authority in its directory. The key is readable by its owner
// alone.
const (
	CertificateFile = "ca.pem"
	keyFile         = "ca-key.pem"
)

// FileNames are those of an authority's files. The last is there while a
// rotation has Begun, and only then.
var FileNames = []string{CertificateFile, keyFile, NextKeyFile}

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// backdate lets peers whose clocks are behind accept a new certificate.
	backdate = 5 * time.Minute
)

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	dir string
	now atomic.Pointer[trust]
	// stepping is held by one step of a rotation; nothing else waits for it.
	stepping sync.Mutex
}

// Open loads the authority in dir, or makes one at the first start.
func Open(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	key, err := loadKey(a.path(keyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(a.path(CertificateFile)); err == nil {
			return nil, fmt.Errorf("%s is there and its key %s is not: restore the key from a backup, or remove %s to start with a new authority that every node must join again",
				CertificateFile, keyFile, CertificateFile)
		}
		if key, err = createKey(a.path(keyFile)); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	bundle, err := os.ReadFile(a.path(CertificateFile))
	if errors.Is(err, fs.ErrNotExist) {
		// A first start, perhaps one that was cut short after the key.
		return a, a.first(key)
	}
	if err != nil {
		return nil, err
	}
	all, err := parseCertificates(bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.path(CertificateFile), err)
	}
	next, err := a.loadNext()
	if err != nil {
		return nil, err
	}
	now, err := newTrust(all, key, next)
	if err != nil {
		return nil, err
	}
	a.now.Store(now)
	if !bytes.Equal(bundle, now.bundle) {
		// A step was cut short after its rename.
		return a, atomicfile.WriteFile(a.path(CertificateFile), now.bundle, 0o644)
	}
	return a, nil
}

// first makes the first certificate.
func (a *Authority) first(key *ecdsa.PrivateKey) error {
	certificate, err := selfSigned(key)
	if err != nil {
		return err
	}
	now, err := a.keep([]*x509.Certificate{certificate}, key, nil)
	if now != nil {
		a.now.Store(now)
	}
	return err
}

// Bundle is all that is trusted, in PEM. The caller must not change it.
func (a *Authority) Bundle() []byte { return a.now.Load().bundle }

// Pool holds all that is trusted. The caller must not change it.
func (a *Authority) Pool() *x509.CertPool { return a.now.Load().pool }

// Hash is SHA-256 of the SubjectPublicKeyInfo of the certificate that issues.
// Join tokens carry it, so that an agent knows the authority before it trusts
// anything else.
func (a *Authority) Hash() [sha256.Size]byte { return a.now.Load().current }

// sign completes the template with a serial number and the beginning of its
// life, and signs it for the public key. It returns DER.
func (t *trust) sign(template *x509.Certificate, public any, lifetime time.Duration) ([]byte, error) {
	if err := complete(template, lifetime); err != nil {
		return nil, err
	}
	if template.NotAfter.After(t.issuer.NotAfter) {
		template.NotAfter = t.issuer.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, template, t.issuer, public, t.key)
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

// selfSigned makes the certificate of an authority. Its name is its own, as a
// client may find an issuer by the name alone.
func selfSigned(key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Tandem CA %x", KeyHash(&key.PublicKey)[:4])},
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
	return x509.ParseCertificate(der)
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCertificates(text []byte) (all []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("holds no certificate in PEM")
	}
	return all, nil
}
