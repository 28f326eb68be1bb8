package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/controlplane/internal/api"
	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	"github.com/tandem-lb/tandem/controlplane/internal/watchdog"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// options are the flags of serve, and what main gives.
type options struct {
	dataDir, grpcListen, httpListen string
	advertise                       []string

	logger  hclog.Logger
	version string
	out     io.Writer
}

// Files of the data directory, beside those of pki.
const (
	stateFile  = backup.StateName
	eventsFile = "events.db"
	tokenFile  = "admin.token"
)

// serve runs the controller until ctx ends. It takes the data directory before
// it touches anything else, so that a second controller changes nothing.
func serve(ctx context.Context, o options) (err error) {
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if err := backup.CheckFinished(o.dataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	store, err := bolt.Open(filepath.Join(o.dataDir, stateFile), bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	grpcListener, err := listen(ctx, "grpc-listen", o.grpcListen)
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	httpListener, err := listen(ctx, "http-listen", o.httpListen)
	if err != nil {
		return err
	}
	defer httpListener.Close()

	authority, err := pki.Open(o.dataDir)
	if err != nil {
		return err
	}
	certificate, err := authority.NewServer(o.advertise)
	if err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	operators := auth.NewOperators(store)
	first, err := operators.Bootstrap(ctx, filepath.Join(o.dataDir, tokenFile))
	if err != nil {
		return err
	}
	happened, err := events.Open(filepath.Join(o.dataDir, eventsFile), events.Options{Logger: o.logger.Named("events")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, happened.Close()) }()
	book, err := ledger.Open(ctx, store, ledger.Options{
		Logger: o.logger.Named("ledger"), Announce: api.Announce(happened),
		Ports: []state.Reserved{reserved("--grpc-listen", grpcListener.Addr()), reserved("--http-listen", httpListener.Addr())},
	})
	if err != nil {
		return err
	}
	holds, err := fleet.OpenHolds(ctx, store, store.Epoch())
	if err != nil {
		return err
	}
	addresses, err := fleet.OpenAddresses(ctx, store)
	if err != nil {
		return err
	}
	agreements, err := fleet.OpenAgreements(ctx, store)
	if err != nil {
		return err
	}
	nodes := fleet.New(fleet.Options{
		Ledger: book, Events: happened, Holds: holds, Addresses: addresses, Agreements: agreements, Logger: o.logger.Named("fleet"), Version: o.version,
		Controllers: controllers(o.advertise, grpcListener.Addr()),
		Outdated: func(s *agentv1.IdentityState) bool {
			return authority.Outdated(s.GetAuthorities(), s.GetIssuer())
		},
	})
	server, err := api.New(ctx, api.Options{
		Ledger: book, Events: happened, Fleet: nodes, Operators: operators,
		JoinTokens: auth.NewJoinTokens(store, authority.Hash),
		Authority:  authority, Certificate: certificate,
		Backup: backup.Source{Authority: authority, Store: store, Version: o.version},
		Logger: o.logger.Named("api"), Version: o.version,
	})
	if err != nil {
		return err
	}
	if first {
		welcome(o)
	}
	if r := book.Restored(); r != nil {
		o.logger.Warn("restored and waiting for an operator: no change is accepted and no configuration is sent to the nodes, which keep serving; let it go on with: lbctl restore confirm",
			"from_epoch", r.Epoch, "backup_of", r.Backup, "restored", r.Restore)
	}
	o.logger.Info("serving", "version", o.version, "grpc", grpcListener.Addr(), "https", httpListener.Addr(), "data_dir", o.dataDir)
	return run(ctx, func(ctx context.Context) error {
		return server.Run(ctx, grpcListener, httpListener)
	}, book.Run, happened.Run, nodes.Run, certificate.Run, func(ctx context.Context) error {
		return watchdog.Run(ctx, book.Alive, o.logger)
	})
}

// run runs front and parts until ctx ends or one of them fails. Calls under way
// need the parts, so these end after front.
func run(ctx context.Context, front func(context.Context) error, parts ...func(context.Context) error) error {
	group, alive := errgroup.WithContext(context.WithoutCancel(ctx))
	alive, stop := context.WithCancel(alive)
	defer stop()
	for _, part := range parts {
		group.Go(func() error {
			if err := part(alive); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(alive, cancel)()
	err := front(ctx)
	stop()
	return errors.Join(err, group.Wait())
}

func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w: give a free address and port", flag, address, err)
	}
	return listener, nil
}

// reserved is what a listener of this controller takes from a load balancer on
// the same machine.
func reserved(flag string, listening net.Addr) state.Reserved {
	r := state.Reserved{Owner: "lb-controller (" + flag + ")"}
	if at, err := netip.ParseAddrPort(listening.String()); err == nil {
		r.Address, r.Port = at.Addr().Unmap(), uint32(at.Port())
	}
	return r
}

// controllers are the addresses that agents reach this controller by.
func controllers(advertise []string, listening net.Addr) []string {
	tcp, ok := listening.(*net.TCPAddr)
	if !ok {
		return nil
	}
	var addresses []string
	for _, host := range advertise {
		addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(tcp.Port)))
	}
	return addresses
}

// welcome tells a first start's operator what to take where.
func welcome(o options) {
	fmt.Fprintf(o.out, `First start. Everything is in %[1]s:
  %[2]s  the CA: clients and agents trust the controller by it
  %[3]s  the token of operator admin: keep it secret
`, o.dataDir, filepath.Join(o.dataDir, pki.CertificateFile), filepath.Join(o.dataDir, tokenFile))
}
