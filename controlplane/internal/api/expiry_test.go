package api_test

import (
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// at runs f with the clock at a time.
func at(t *testing.T, when time.Time, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		<-time.After(time.Until(when))
		f(t)
	})
}

// A certificate that is out of its time is good for its own renewal, for a
// while and for a member, and for nothing else.
func TestCertificatesOutOfTheirTime(t *testing.T) {
	now, day := time.Now(), 24*time.Hour
	dir := t.TempDir()
	at(t, now.Add(-400*day), func(t *testing.T) {
		_, err := pki.Open(dir)
		must(t, err)
	})
	c := startIn(t, dir)
	member := c.join(t, "lb-master")
	id, err := pki.IdentityOf(member.Leaf)
	must(t, err)
	// issued gives the member's certificate of another time.
	issued := func(when time.Time, id pki.NodeIdentity) tls.Certificate {
		key, _ := newRequest(t)
		var text []byte
		at(t, when, func(t *testing.T) {
			a, err := pki.Open(dir)
			must(t, err)
			text, err = a.IssueNode(key.Public(), id)
			must(t, err)
		})
		return keyPair(t, key, text)
	}
	gone := id
	gone.UID = "another"
	for name, test := range map[string]struct {
		certificate    tls.Certificate
		session, renew string // reasons; empty: let in
	}{
		"in its time":       {issued(now.Add(-20*day), id), "", ""},
		"over for a day":    {issued(now.Add(-31*day), id), "CERTIFICATE_EXPIRED", ""},
		"over for 89 days":  {issued(now.Add(-119*day), id), "CERTIFICATE_EXPIRED", ""},
		"over for 91 days":  {issued(now.Add(-121*day), id), "CERTIFICATE_EXPIRED", "CERTIFICATE_EXPIRED"},
		"not yet":           {issued(now.Add(10*day), id), "CERTIFICATE_NOT_YET_VALID", ""},
		"not for long":      {issued(now.Add(100*day), id), "CERTIFICATE_NOT_YET_VALID", "CERTIFICATE_NOT_YET_VALID"},
		"over, no member's": {issued(now.Add(-31*day), gone), "CERTIFICATE_EXPIRED", "NODE_REPLACED"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := agentv1.NewAgentServiceClient(c.dial(t, test.certificate))
			stream, err := agent.Session(t.Context())
			must(t, err)
			if test.session == "" {
				c.session(t, test.certificate)
			} else if _, err := stream.Recv(); grpcFault(t, err).reason != test.session {
				t.Errorf("a session: %v; want %s", err, test.session)
			}
			key, csr := newRequest(t)
			answer, err := agent.Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
			if got := grpcFault(t, err); got.reason != test.renew || err == nil && test.renew != "" {
				t.Fatalf("a renewal: %+v; want %q", got, test.renew)
			}
			if err == nil {
				c.session(t, keyPair(t, key, answer.GetCertificate()))
			}
		})
	}
	// It is told, since somebody else may have found the machine.
	told := func() (n int) {
		list, err := tandemv1.NewEventServiceClient(c.dial(t)).ListEvents(c.admin(t), &tandemv1.ListEventsRequest{Parent: "clusters/default", PageSize: 100})
		must(t, err)
		for _, e := range list.GetEvents() {
			if e.GetReason() == "CERTIFICATE_RECOVERED" {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); told() != 3; {
		if time.Now().After(deadline) {
			t.Fatalf("%d events of late renewals, want 3", told())
		}
	}
}

// Neither another CA's certificate nor the CA's own poses as a node's, in
// whatever time.
func TestAnExpiredCertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	dir := t.TempDir()
	key, csr := newRequest(t)
	var forged []byte
	at(t, time.Now().Add(-31*24*time.Hour), func(t *testing.T) {
		other, err := pki.Open(dir)
		must(t, err)
		forged, err = other.IssueNode(key.Public(), pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: "x"})
		must(t, err)
	})
	_, err := agentv1.NewAgentServiceClient(c.dial(t, keyPair(t, key, forged))).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
	if got := grpcFault(t, err); got.code != codes.Unavailable && got.reason != "CERTIFICATE_REQUIRED" {
		t.Errorf("%+v; want a failed handshake", got)
	}
}
