// Package handmade runs a pair of load balancers as people write them by hand:
// two virtual addresses, TLS, ACLs, cookies and a TCP service, with the real
// haproxy and keepalived.
package handmade

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/e2e/lab"
)

//go:embed files
var files embed.FS

// Nodes of the pair; the first holds both virtual addresses.
var Nodes = []string{"lb-master", "lb-backup"}

// Addresses are the virtual ones: HTTP and HTTPS with ACLs are on the first,
// plain HTTP and a TCP service on the second.
var Addresses = []netip.Addr{netip.MustParseAddr("192.168.1.100"), netip.MustParseAddr("192.168.1.101")}

// Files that the daemons read.
const (
	HAProxyFile    = "/etc/haproxy/haproxy.cfg"
	KeepalivedFile = "/etc/keepalived/keepalived.conf"
)

// Spec returns the guide's lab with the directories that the files are in,
// which each load balancer needs for itself.
func Spec() lab.Spec {
	spec := lab.Guide()
	for i, h := range spec.Hosts {
		if slices.Contains(Nodes, h.Name) {
			spec.Hosts[i].Private = []string{"/etc/haproxy", "/etc/keepalived"}
			// The file binds the virtual addresses on both nodes.
			spec.Hosts[i].NonlocalBind = true
		}
	}
	return spec
}

// Start installs the files and starts both daemons on both nodes, the first
// node first. It returns when that one alone holds both addresses.
func Start(ctx context.Context, l *lab.Lab) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	for _, name := range Nodes {
		if err := start(ctx, l.Host(name), cert); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, address := range Addresses {
		err := lab.Until(ctx, fmt.Sprintf("%s on %s alone", address, Nodes[0]), func(ctx context.Context) error {
			holders, err := l.Holders(ctx, address)
			if err == nil && !slices.Equal(holders, Nodes[:1]) {
				err = fmt.Errorf("held by %v", holders)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func start(ctx context.Context, h *lab.Host, cert []byte) error {
	proxy, err := files.ReadFile("files/haproxy.cfg")
	if err != nil {
		return err
	}
	vrrp, err := files.ReadFile("files/keepalived-" + h.Name + ".conf")
	if err != nil {
		return err
	}
	for path, text := range map[string][]byte{HAProxyFile: proxy, KeepalivedFile: vrrp, "/etc/haproxy/site.pem": cert} {
		if err := os.WriteFile(h.Path(path), text, 0o640); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(h.Path("/run/haproxy"), 0o755); err != nil {
		return err
	}
	if _, err := h.Output(ctx, "haproxy", "-W", "-D", "-f", HAProxyFile, "-p", "/run/haproxy.pid"); err != nil {
		return err
	}
	_, err = h.Start(ctx, lab.ProcessSpec{
		Name: "keepalived",
		Args: []string{"keepalived", "--dont-fork", "--log-console", "--use-file", KeepalivedFile},
		Env:  []string{"TMPDIR=/run"}, // the hosts share /tmp, where it would dump its state
	})
	return err
}

// certificate makes a key and a certificate for it, in one PEM file.
func certificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "www.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}, nil), nil
}
