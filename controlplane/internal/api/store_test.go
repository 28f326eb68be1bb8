package api_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/controlplane/internal/backup"
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
