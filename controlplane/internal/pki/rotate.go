package pki

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
)

// Phase is how far a rotation of the authority is.
type Phase int

// The phases, in their order.
const (
	// Steady has one certificate.
	Steady Phase = iota
	// Begun has a new one that is trusted; the old one issues.
	Begun
	// Active has the new one issue; the old one is trusted still.
	Active
)

// ErrStep means that it is not the turn of a step of a rotation.
var ErrStep = errors.New("not the turn of this step")

// NextKeyFile holds the key of a new authority until that issues. Which
// certificate of the bundle issues is told by the key file alone, so that one
// rename passes the office on.
const NextKeyFile = "ca-next-key.pem"

// trust is an authority at one time. It is immutable.
type trust struct {
	issuer  *x509.Certificate
	key     *ecdsa.PrivateKey
	all     []*x509.Certificate // trusted; the issuer first
	bundle  []byte              // all, in PEM
	next    *ecdsa.PrivateKey   // nil: none is about to issue
	pool    *x509.CertPool
	hashes  [][sha256.Size]byte
	current [sha256.Size]byte // of the issuer
}

// newTrust puts the issuer first. The error tells that no certificate belongs
// to the key.
func newTrust(all []*x509.Certificate, key, next *ecdsa.PrivateKey) (*trust, error) {
	i := slices.IndexFunc(all, func(c *x509.Certificate) bool { return key.PublicKey.Equal(c.PublicKey) })
	if i < 0 {
		return nil, fmt.Errorf("%s does not belong to the key %s beside it: restore both from one backup", CertificateFile, keyFile)
	}
	t := &trust{issuer: all[i], key: key, pool: x509.NewCertPool()}
	t.all = append([]*x509.Certificate{all[i]}, slices.Delete(slices.Clone(all), i, i+1)...)
	for _, c := range t.all {
		t.bundle = append(t.bundle, encodeCertificate(c.Raw)...)
		t.pool.AddCert(c)
		t.hashes = append(t.hashes, sha256.Sum256(c.RawSubjectPublicKeyInfo))
		if next != nil && next.PublicKey.Equal(c.PublicKey) {
			t.next = next
		}
	}
	t.current = t.hashes[0]
	return t, nil
}

func (t *trust) phase() Phase {
	switch {
	case t.next != nil:
		return Begun
	case len(t.all) > 1:
		return Active
	default:
		return Steady
	}
}

// Phase tells how far a rotation is.
func (a *Authority) Phase() Phase { return a.now.Load().phase() }

// Certificates are those that are trusted, the one that issues first. The caller
// must not change them.
func (a *Authority) Certificates() []*x509.Certificate { return a.now.Load().all }

// Trusts tells whether hashes, of SubjectPublicKeyInfos, have every certificate of
// the bundle.
func (a *Authority) Trusts(hashes [][]byte) bool {
	return !slices.ContainsFunc(a.now.Load().hashes, func(want [sha256.Size]byte) bool {
		return !slices.ContainsFunc(hashes, func(h []byte) bool { return slices.Equal(h, want[:]) })
	})
}

// Issues tells whether the certificate with that hash is the one that issues.
func (a *Authority) Issues(hash []byte) bool {
	current := a.Hash()
	return slices.Equal(hash, current[:])
}

// Outdated tells whether one who trusts certificates with these hashes, and has
// one of that issuer, gets something else by a renewal.
func (a *Authority) Outdated(hashes [][]byte, issuer []byte) bool {
	return len(hashes) != len(a.Certificates()) || !a.Trusts(hashes) || !a.Issues(issuer)
}

// Begin makes a new certificate that is to be trusted beside the one that
// issues. ErrStep unless the authority is Steady.
func (a *Authority) Begin() error {
	return a.step(Steady, "a rotation is under way", func(t *trust) (*trust, error) {
		next, err := createKey(a.path(NextKeyFile))
		if err != nil {
			return nil, err
		}
		certificate, err := selfSigned(next)
		if err != nil {
			return nil, err
		}
		return a.keep(append(slices.Clone(t.all), certificate), t.key, next)
	})
}

// Activate lets the new certificate issue. The old key is gone then. ErrStep
// unless a rotation has Begun.
func (a *Authority) Activate() error {
	return a.step(Begun, "no new CA waits to issue", func(t *trust) (*trust, error) {
		next, err := newTrust(t.all, t.next, nil)
		if err != nil {
			return nil, err
		}
		if err := atomicfile.Rename(a.path(NextKeyFile), a.path(keyFile)); err != nil {
			if _, left := os.Lstat(a.path(NextKeyFile)); !errors.Is(left, fs.ErrNotExist) {
				return nil, err
			}
			// The old key is gone, though perhaps not for good: both certificates
			// must stay trusted, and a Cancel would leave no key.
			return next, err
		}
		// It issues from here on; the file's order is for those who read it.
		return next, atomicfile.WriteFile(a.path(CertificateFile), next.bundle, 0o644)
	})
}

// Retire ends the trust in all certificates but the one that issues. ErrStep
// unless a new one is Active.
func (a *Authority) Retire() error {
	return a.step(Active, "there is no old CA, or it issues still", func(t *trust) (*trust, error) {
		return a.keep(t.all[:1], t.key, nil)
	})
}

// Cancel drops a new certificate that does not issue yet. ErrStep unless a
// rotation has Begun.
func (a *Authority) Cancel() error {
	return a.step(Begun, "no new CA waits to issue", func(t *trust) (*trust, error) {
		next, err := a.keep(t.all[:1], t.key, nil)
		if err != nil {
			return nil, err
		}
		return next, os.Remove(a.path(NextKeyFile))
	})
}

// step goes from one phase to the next. Steps go one after the other; whoever
// issues meanwhile has the authority before or after, never between.
func (a *Authority) step(from Phase, otherwise string, do func(*trust) (*trust, error)) error {
	a.stepping.Lock()
	defer a.stepping.Unlock()
	now := a.now.Load()
	if now.phase() != from {
		return fmt.Errorf("%w: %s", ErrStep, otherwise)
	}
	next, err := do(now)
	if next != nil {
		a.now.Store(next)
	}
	return err
}

// keep makes the bundle durable and returns the authority with it.
func (a *Authority) keep(all []*x509.Certificate, key, next *ecdsa.PrivateKey) (*trust, error) {
	t, err := newTrust(all, key, next)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.WriteFile(a.path(CertificateFile), t.bundle, 0o644); err != nil {
		return nil, err
	}
	return t, nil
}

// File is one of an authority's files.
type File struct {
	Name string
	Data []byte
}

// Files are what a backup must hold, as they are between two steps of a
// rotation.
func (a *Authority) Files() ([]File, error) {
	a.stepping.Lock()
	defer a.stepping.Unlock()
	names := FileNames
	if a.Phase() != Begun {
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == NextKeyFile })
	}
	var files []File
	for _, name := range names {
		data, err := os.ReadFile(a.path(name))
		if err != nil {
			return nil, err
		}
		files = append(files, File{name, data})
	}
	return files, nil
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

// loadNext returns the key of a new certificate, nil where there is none. One
// without its certificate is of a step that was cut short.
func (a *Authority) loadNext() (*ecdsa.PrivateKey, error) {
	key, err := loadKey(a.path(NextKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}
