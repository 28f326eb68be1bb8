package api

import (
	"bufio"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// backupPiece is how much one message of a backup carries, in bytes.
	backupPiece = 256 << 10
	// backupStall bounds how long a piece may be left unread: a backup keeps
	// the store from using space again that it no longer needs.
	backupStall = 30 * time.Second
)

// storeService holds the store, its backup, and the end of a restore.
type storeService struct {
	tandemv1.UnimplementedStoreServiceServer
	ledger *ledger.Ledger
	source backup.Source
	one    chan struct{} // holds one while a backup is under way
	logger hclog.Logger
}

func (s *storeService) GetStore(context.Context, *tandemv1.GetStoreRequest) (*tandemv1.Store, error) {
	return s.view(), nil
}

func (s *storeService) view() *tandemv1.Store {
	out := &tandemv1.Store{Epoch: s.ledger.Epoch()}
	if r := s.ledger.Restored(); r != nil {
		out.Restored = &tandemv1.Restored{Epoch: r.Epoch, RestoreTime: timestamppb.New(r.Restore)}
		if !r.Backup.IsZero() {
			out.Restored.BackupTime = timestamppb.New(r.Backup)
		}
	}
	return out
}

func (s *storeService) ConfirmRestore(ctx context.Context, _ *tandemv1.ConfirmRestoreRequest) (*tandemv1.Store, error) {
	if err := s.ledger.Confirm(ctx); err != nil {
		return nil, err
	}
	s.logger.Warn("the restored configuration goes to the nodes", "author", callerOf(ctx).operator, "epoch", s.ledger.Epoch())
	return s.view(), nil
}

func (s *storeService) Backup(_ *tandemv1.BackupRequest, stream grpc.ServerStreamingServer[tandemv1.BackupResponse]) error {
	select {
	case s.one <- struct{}{}:
	default:
		return fail(codes.ResourceExhausted, reasonBusy, "another backup is under way: try again when it is done")
	}
	ctx, begin := stream.Context(), time.Now()
	out := &pieces{stream: stream, read: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() { // it ends when the stream does, after this method has returned
		defer func() { <-s.one }()
		buffered := bufio.NewWriterSize(out, backupPiece)
		done <- errors.Join(s.source.Write(ctx, buffered), buffered.Flush())
	}()
	stalled := time.NewTimer(backupStall)
	defer stalled.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				s.logger.Info("sent a backup", "author", callerOf(ctx).operator, "took", time.Since(begin))
			}
			return err
		case <-out.read:
			stalled.Reset(backupStall)
		case <-stalled.C:
			return fail(codes.DeadlineExceeded, reasonStalled, "the backup was left unread for %s", backupStall)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pieces is a backup's stream as a writer.
type pieces struct {
	stream grpc.ServerStreamingServer[tandemv1.BackupResponse]
	read   chan struct{} // room for one: a piece was taken
}

// Write sends a piece; it blocks while the caller does not read.
func (p *pieces) Write(data []byte) (int, error) {
	if err := p.stream.Send(&tandemv1.BackupResponse{Data: data}); err != nil {
		return 0, err
	}
	select {
	case p.read <- struct{}{}:
	default:
	}
	return len(data), nil
}
