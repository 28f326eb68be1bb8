package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ClockError means that the controller's certificate is not valid at the time
// that this node's clock shows. One of the two clocks is wrong.
type ClockError struct {
	// Now is the time by this node's clock.
	Now time.Time
	// NotBefore and NotAfter bound the life of the controller's certificate.
	NotBefore, NotAfter time.Time
}

// Error says which clock says what, and what to do.
func (e *ClockError) Error() string {
	const form = "2006-01-02 15:04:05 MST"
	bound := "valid from " + e.NotBefore.UTC().Format(form)
	if e.Now.After(e.NotAfter) {
		bound = "valid until " + e.NotAfter.UTC().Format(form)
	}
	return fmt.Sprintf("this node's clock says %s; the controller's certificate is %s: set the clock that is wrong, the node's or the controller's",
		e.Now.UTC().Format(form), bound)
}

// ErrStranger means that the controller's certificate is of no CA that this node
// trusts.
var ErrStranger = errors.New("the controller's certificate is of no CA that this node trusts: it is another controller, or its CA was replaced while this node was off; \"lbctl node replace\" makes a token for that case")

// verify tells whether the peer is the host, by a certificate that one of the
// roots has issued. The error is a *ClockError, ErrStranger, or x509's.
func verify(state tls.ConnectionState, host string, roots *x509.CertPool) error {
	leaf, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	now := time.Now()
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: host, CurrentTime: now})
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		bounds := invalid.Cert
		return &ClockError{Now: now, NotBefore: bounds.NotBefore, NotAfter: bounds.NotAfter}
	case errors.As(err, &unknown):
		return ErrStranger
	}
	return err
}

// TLS is the client's side of a connection to the controller at a host, a name
// or an address. told, if not nil, gets what the check of the controller's
// certificate says, nil when all is well; it runs before the handshake ends, on
// whatever goroutine does it.
func (id *Identity) TLS(host string, told func(error)) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.certificate},
		ServerName:   host,
		// VerifyConnection verifies, and says in plain words what is wrong.
		InsecureSkipVerify: true, //nolint:gosec // G402: see above
		VerifyConnection: func(state tls.ConnectionState) error {
			err := verify(state, host, id.roots)
			if told != nil {
				told(err)
			}
			return err
		},
	}
}
