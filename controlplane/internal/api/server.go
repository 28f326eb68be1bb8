// Package api serves the controller's API: gRPC on one port, the same as REST
// with the event stream on the other. Both go the same way: who calls, is the
// request well formed, the service, and one map from errors to what callers
// see.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// maxHeaders bounds what a caller may put into headers, in bytes.
	maxHeaders = 64 << 10
	// maxStreams bounds what one connection may ask at a time.
	maxStreams = 256
	// maxIdle is how long a connection without a call is kept.
	maxIdle = 5 * time.Minute
	// stopTimeout is how long calls under way have when the server stops.
	stopTimeout = 5 * time.Second
)

// Options of a Server; all but the version are needed.
type Options struct {
	Ledger      *ledger.Ledger
	Events      *events.Log
	Fleet       *fleet.Fleet
	Operators   *auth.Operators
	JoinTokens  *auth.JoinTokens
	Authority   *pki.Authority
	Certificate *pki.Server
	Logger      hclog.Logger
	// Backup is what backups are made of.
	Backup backup.Source
	// Version of the controller, for people.
	Version string
}

// Server serves the API.
type Server struct {
	Options
	grpc *grpc.Server // the native port
	rest *grpc.Server // what REST calls, through inside
	// inside is in memory: REST needs no port of its own.
	inside *bufconn.Listener
	http   *http.Server
	codec  *codec
	opened chan struct{} // holds one for each call under way that anyone may make
	// callsOfHosts are of those, and callsOfNodes of others, by identity.
	callsOfHosts, callsOfNodes *places
	// stopping ends when the server does, before its calls are cut off.
	stopping context.Context //nolint:containedctx // it is the server's life, handed to each stream
	stop     context.CancelFunc
}

// New returns a server that Run makes listen. ctx is for values only.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{Options: o, inside: bufconn.Listen(1 << 20), codec: newCodec(), opened: make(chan struct{}, maxOpenCalls),
		callsOfHosts: newPlaces(maxHostCalls), callsOfNodes: newPlaces(maxNodeCalls)}
	s.stopping, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.grpc = grpc.NewServer(s.grpcOptions(
		grpc.InTapHandle(s.tap),
		// Operators have tokens, agents certificates; admit asks for either.
		grpc.Creds(credentials.NewTLS(o.Certificate.TLS())),
	)...)
	s.rest = grpc.NewServer(s.grpcOptions()...)
	s.register()
	handler, err := s.handler(ctx)
	if err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler: handler,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: o.Certificate.GetCertificate,
		},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaders,
		// net/http would answer anyone who asks for the options of "*".
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     o.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	return s, nil
}

func (s *Server) grpcOptions(more ...grpc.ServerOption) []grpc.ServerOption {
	return append(more,
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// What a node does that has lost its power or its network is not known 10 s
			// later, and sooner where an alarm depends on it (fleet.ErrSilent).
			Time: 5 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: maxIdle,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
}

// register puts the services on both servers; agents have no REST.
func (s *Server) register() {
	w := &writer{Ledger: s.Ledger, events: s.Events}
	store := &storeService{ledger: s.Ledger, source: s.Backup, one: make(chan struct{}, 1), logger: s.Logger}
	for _, server := range []*grpc.Server{s.grpc, s.rest} {
		tandemv1.RegisterConfigServiceServer(server, &configService{writer: w, fleet: s.Fleet})
		tandemv1.RegisterFleetServiceServer(server, &fleetService{writer: w, fleet: s.Fleet, joinTokens: s.JoinTokens})
		tandemv1.RegisterEventServiceServer(server, &eventService{ledger: s.Ledger, events: s.Events})
		tandemv1.RegisterAccessServiceServer(server, &accessService{
			operators: s.Operators, ready: s.Ledger.Ready, version: s.Version, logger: s.Logger,
			authority: s.Authority, certificate: s.Certificate, fleet: s.Fleet,
		})
		tandemv1.RegisterStoreServiceServer(server, store)
	}
	agentv1.RegisterAgentServiceServer(s.grpc, &agentService{
		writer: w, fleet: s.Fleet, joinTokens: s.JoinTokens, authority: s.Authority,
	})
	healthv1.RegisterHealthServer(s.grpc, health.NewServer())
	reflection.Register(s.grpc)
}

// Run serves on both listeners until ctx ends; then it lets the calls under way
// finish and closes the listeners.
func (s *Server) Run(ctx context.Context, grpcListener, httpListener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return served("gRPC", s.grpc.Serve(grpcListener), grpc.ErrServerStopped) })
	group.Go(func() error { return served("REST", s.rest.Serve(s.inside), grpc.ErrServerStopped) })
	group.Go(func() error { return served("HTTPS", s.http.ServeTLS(httpListener, "", ""), http.ErrServerClosed) })
	group.Go(func() error {
		<-ctx.Done()
		s.shutdown(context.WithoutCancel(ctx))
		return nil
	})
	return group.Wait()
}

func served(what string, err, ended error) error {
	if err == nil || errors.Is(err, ended) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

// shutdown ends streams at once and gives other calls a while.
func (s *Server) shutdown(ctx context.Context) {
	s.stop()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	for _, server := range []*grpc.Server{s.grpc, s.rest} {
		undo := context.AfterFunc(ctx, server.Stop)
		server.GracefulStop()
		undo()
	}
}

// dialInside connects REST to the services.
func (s *Server) dialInside() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///inside",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.inside.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The ports bound what comes in; an answer may be a whole configuration.
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxRequest), grpc.MaxCallRecvMsgSize(4*maxRequest)),
	)
}
