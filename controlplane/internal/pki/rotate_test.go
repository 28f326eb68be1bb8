package pki_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
)

var node = pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: "u"}

func issue(t *testing.T, a *pki.Authority) *x509.Certificate {
	t.Helper()
	text, err := a.IssueNode(newKey(t).Public(), node)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func bundle(t *testing.T, a *pki.Authority) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.Bundle()) {
		t.Fatal("the bundle holds no certificate")
	}
	return pool
}

// At no step is one who has done the step before locked out, in either
// direction.
func TestRotationLocksNobodyOut(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	s, err := a.NewServer(nil)
	if err != nil {
		t.Fatal(err)
	}
	first := a.Hash()
	clients, certificate := bundle(t, a), issue(t, a)
	for _, step := range []struct {
		name   string
		do     func() error
		phase  pki.Phase
		issues bool // the first one
		trusts int
	}{
		{"begin", a.Begin, pki.Begun, true, 2},
		{"activate", a.Activate, pki.Active, false, 2},
		{"retire", a.Retire, pki.Steady, false, 1},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if err := s.Reissue(); err != nil {
			t.Fatal(err)
		}
		if _, err := handshake(t, s, clients, "localhost"); err != nil {
			t.Errorf("%s: a client with the bundle of the step before: %v", step.name, err)
		}
		if err := a.CheckNode(certificate, time.Now()); err != nil {
			t.Errorf("%s: a node with a certificate of the step before: %v", step.name, err)
		}
		clients, certificate = bundle(t, a), issue(t, a)
		if a.Phase() != step.phase || a.Issues(first[:]) != step.issues || len(a.Certificates()) != step.trusts {
			t.Errorf("%s: phase %v, %d certificates", step.name, a.Phase(), len(a.Certificates()))
		}
		again := open(t, dir)
		if again.Phase() != step.phase || again.Hash() != a.Hash() || string(again.Bundle()) != string(a.Bundle()) {
			t.Errorf("%s: another one after a restart", step.name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left are %v, %v; want the CA and its key", entries, err)
	}
}

func TestWhatIsRetiredIsRefused(t *testing.T) {
	a := open(t, t.TempDir())
	old, clients := issue(t, a), bundle(t, a)
	s, err := a.NewServer(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{a.Begin, a.Activate, a.Retire, s.Reissue} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.CheckNode(old, time.Now()); err == nil {
		t.Error("a certificate of the retired CA is taken")
	}
	if _, err := handshake(t, s, clients, "localhost"); err == nil {
		t.Error("the server's certificate is still of the retired CA")
	}
}

func TestStepsOutOfTurn(t *testing.T) {
	a := open(t, t.TempDir())
	try := func(want error, steps ...func() error) {
		t.Helper()
		for i, step := range steps {
			if err := step(); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("step %d in phase %v: %v; want %v", i, a.Phase(), err, want)
			}
		}
	}
	try(pki.ErrStep, a.Activate, a.Retire, a.Cancel)
	try(nil, a.Begin)
	try(pki.ErrStep, a.Begin, a.Retire)
	before := a.Hash()
	try(nil, a.Cancel)
	if a.Phase() != pki.Steady || a.Hash() != before {
		t.Error("a cancelled rotation left something")
	}
	try(nil, a.Begin, a.Activate)
	try(pki.ErrStep, a.Begin, a.Activate, a.Cancel)
}

// A step that a crash cut short is done or not: the files of each moment.
func TestOpenAfterAStepThatWasCutShort(t *testing.T) {
	file := func(dir, name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	put := func(dir, name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	a := open(t, dir)
	steady := file(dir, "ca.pem")
	if err := a.Begin(); err != nil {
		t.Fatal(err)
	}
	begun, next := file(dir, "ca.pem"), file(dir, "ca-next-key.pem")

	put(dir, "ca.pem", steady) // begin: the key alone
	if again := open(t, dir); again.Phase() != pki.Steady {
		t.Errorf("a key alone: phase %v", again.Phase())
	} else if err := again.Begin(); err != nil {
		t.Errorf("a key alone: %v", err)
	}
	put(dir, "ca.pem", begun)
	put(dir, "ca-next-key.pem", next)
	old := file(dir, "ca-key.pem")
	put(dir, "ca-key.pem", next) // activate: after the rename
	if err := os.Remove(filepath.Join(dir, "ca-next-key.pem")); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if again.Phase() != pki.Active || again.Hash() == a.Hash() {
		t.Errorf("after the rename: phase %v", again.Phase())
	}
	if string(file(dir, "ca.pem")) == string(begun) {
		t.Error("ca.pem does not begin with the certificate that issues")
	}
	put(dir, "ca-key.pem", old) // cancel: before the key is removed
	put(dir, "ca-next-key.pem", next)
	put(dir, "ca.pem", steady)
	if again := open(t, dir); again.Phase() != pki.Steady || again.Hash() != a.Hash() {
		t.Errorf("cancelled: phase %v", again.Phase())
	}
}

// When the old key is gone and only the sync of the directory fails, the new CA
// issues: a cancelled step would leave a bundle without its key.
func TestActivateThatCannotSync(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	if err := a.Begin(); err != nil {
		t.Fatal(err)
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	// A rename needs no descriptor, a sync does.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err := a.Activate()
	if restore := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("activate: %v, want %v", err, syscall.EMFILE)
	}
	if err := a.Cancel(); !errors.Is(err, pki.ErrStep) {
		t.Errorf("cancel after it: %v", err)
	}
	again := open(t, dir)
	if again.Hash() != a.Hash() || again.Phase() != a.Phase() {
		t.Errorf("a restart makes phase %v of %v", again.Phase(), a.Phase())
	}
	if err := a.Retire(); err != nil {
		t.Error(err)
	}
}
