package api

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// watching is a client that reads a watch; it sends one request.
type watching struct {
	grpc.ServerStream
	ctx     context.Context //nolint:containedctx // as a stream has
	request proto.Message
}

func (w *watching) Context() context.Context     { return w.ctx }
func (w *watching) SendHeader(metadata.MD) error { return nil }
func (w *watching) SendMsg(any) error            { return nil }
func (w *watching) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), w.request)
	return nil
}

// A watch ends soon after its token has, be it deleted or expired.
func TestWatchesEndWithTheirToken(t *testing.T) {
	for _, ending := range []string{"deleted", "expired"} {
		t.Run(ending, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { watchesEnd(t, ending == "expired") })
		})
	}
}

func watchesEnd(t *testing.T, expires bool) {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
	try(err)
	defer db.Close()
	book, err := ledger.Open(t.Context(), db, ledger.Options{})
	try(err)
	happened, err := events.Open(filepath.Join(dir, "events.db"), events.Options{})
	try(err)
	defer happened.Close()
	operators := auth.NewOperators(db)
	_, err = operators.Create(t.Context(), "keeper", time.Time{}) // the last one cannot be deleted
	try(err)
	const life = 25 * time.Second
	var expire time.Time
	if expires {
		expire = time.Now().Add(life)
	}
	token, err := operators.Create(t.Context(), "admin", expire)
	try(err)

	s := &Server{Options: Options{Operators: operators, Logger: hclog.NewNullLogger()}, stopping: t.Context()}
	nodes := fleet.New(fleet.Options{Ledger: book, Events: happened})
	w := &writer{Ledger: book, events: happened}
	ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token.GetSecret())))
	defer cancel()
	ended := make(chan error, 2)
	watch := func(service any, desc grpc.ServiceDesc, method string, request proto.Message) {
		for _, x := range desc.Streams {
			if x.StreamName == method {
				go func() {
					info := &grpc.StreamServerInfo{FullMethod: "/" + desc.ServiceName + "/" + method}
					ended <- s.stream(service, &watching{ctx: ctx, request: request}, info, x.Handler)
				}()
			}
		}
	}
	watch(&eventService{ledger: book, events: happened}, tandemv1.EventService_ServiceDesc, "WatchEvents",
		&tandemv1.WatchEventsRequest{Parent: "clusters/default"})
	watch(&fleetService{writer: w, fleet: nodes}, tandemv1.FleetService_ServiceDesc, "WatchStatus",
		&tandemv1.WatchStatusRequest{Name: "clusters/default"})
	<-time.After(life - time.Second)
	synctest.Wait()
	if len(ended) != 0 {
		t.Fatalf("a watch ended before its token: %v", <-ended)
	}
	if !expires {
		try(operators.Delete(t.Context(), token.GetName()[len("tokens/"):]))
	}
	<-time.After(time.Second + heartbeatInterval)
	synctest.Wait()
	if len(ended) != 2 {
		t.Errorf("%d watches have ended with their token, want 2", len(ended))
	}
	for range len(ended) {
		if err := <-ended; statusOf(err).Code() != codes.Unauthenticated {
			t.Errorf("a watch ended with %v, want UNAUTHENTICATED", err)
		}
	}
	cancel()
	synctest.Wait()
}
