package api_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A backup over the API can be restored.
func TestBackup(t *testing.T) {
	c := start(t)
	service := tandemv1.NewStoreServiceClient(c.dial(t))
	stream, err := service.Backup(c.admin(t), &tandemv1.BackupRequest{})
	must(t, err)
	var got bytes.Buffer
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		got.Write(piece.GetData())
	}
	restored, err := backup.Restore(t.Context(), t.TempDir(), &got, "", nil)
	must(t, err)
	now, err := service.GetStore(c.admin(t), &tandemv1.GetStoreRequest{})
	must(t, err)
	if now.GetEpoch() != restored.Epoch || now.GetRestored() != nil {
		t.Errorf("the backup is of epoch %s, the store is %v", restored.Epoch, now)
	}
	if _, err := service.ConfirmRestore(c.admin(t), &tandemv1.ConfirmRestoreRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("nothing was restored, and it is confirmed: %v", err)
	}
}

// While a restored store waits, nothing is changed, and a node that it does not
// know is not told that it was removed: it may have joined after the backup.
func TestRestoredChangesNothing(t *testing.T) {
	dir := t.TempDir()
	var known, gone tls.Certificate
	var credential string
	t.Run("before", func(t *testing.T) {
		c := startIn(t, dir)
		known, gone, credential = c.join(t, "lb-master"), c.join(t, "lb-backup"), c.joinToken(t, "lb-third")
		_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-backup"})
		must(t, err)
	})
	_, err := bolt.Renew(t.Context(), filepath.Join(dir, "state.db"), time.Now())
	must(t, err)
	c := startIn(t, dir)
	conn := c.dial(t)
	_, csr := newRequest(t)
	session := func(certificate tls.Certificate) error {
		s, err := agentv1.NewAgentServiceClient(c.dial(t, certificate)).Session(t.Context())
		must(t, err)
		// Recv tells why a session is over that was refused before this is sent.
		_ = s.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{Protocol: 1}}})
		_, err = s.Recv()
		return err
	}
	for what, test := range map[string]struct {
		want codes.Code
		do   func() error
	}{
		"pool": {codes.FailedPrecondition, func() error {
			_, err := tandemv1.NewConfigServiceClient(conn).CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", Pool: &tandemv1.Pool{}})
			return err
		}},
		"join token": {codes.FailedPrecondition, func() error {
			_, err := tandemv1.NewFleetServiceClient(conn).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
				Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: "lb-fourth"}})
			return err
		}},
		"operator token": {codes.FailedPrecondition, func() error {
			_, err := tandemv1.NewAccessServiceClient(conn).CreateToken(c.admin(t), &tandemv1.CreateTokenRequest{Token: &tandemv1.Token{Operator: "eve"}})
			return err
		}},
		"a node's drift": {codes.FailedPrecondition, func() error {
			_, err := tandemv1.NewFleetServiceClient(conn).DiscardDrift(c.admin(t), &tandemv1.DiscardDriftRequest{Name: "clusters/default/nodes/unknown"})
			return err
		}},
		"enrol": {codes.FailedPrecondition, func() error {
			_, err := agentv1.NewAgentServiceClient(conn).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-third", Credential: credential, Csr: csr})
			return err
		}},
		"session of a node":             {codes.OK, func() error { return session(known) }},
		"session of one not known here": {codes.Unavailable, func() error { return session(gone) }},
	} {
		if err := test.do(); status.Code(err) != test.want {
			t.Errorf("%s: %v; want %s", what, err, test.want)
		}
	}
	shown, err := tandemv1.NewFleetServiceClient(conn).GetStatus(c.admin(t), &tandemv1.GetStatusRequest{Name: "clusters/default"})
	if err != nil || !strings.Contains(shown.GetAlarms()[0].GetMessage(), "removed or replaced before it: lb-backup") {
		t.Errorf("%v, %v; want the node that is not known here", shown.GetAlarms(), err)
	}
	service := tandemv1.NewStoreServiceClient(conn)
	_, err = service.ConfirmRestore(c.admin(t), &tandemv1.ConfirmRestoreRequest{})
	must(t, err)
	if err := session(gone); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after an operator's word, a node not known here: %v", err)
	}
	if now, err := service.GetStore(c.admin(t), &tandemv1.GetStoreRequest{}); err != nil || now.GetRestored() != nil {
		t.Errorf("%v, %v", now, err)
	}
}
