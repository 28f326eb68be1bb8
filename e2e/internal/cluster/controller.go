package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tandem-lb/tandem/e2e/lab"
)

// tailLines is how much of a program's log an error carries.
const tailLines = 15

// Endpoint is where a controller is reached.
type Endpoint struct {
	Host       netip.Addr
	GRPC, HTTP uint16
}

// GRPCAddress is host:port of the gRPC API.
func (e Endpoint) GRPCAddress() string { return netip.AddrPortFrom(e.Host, e.GRPC).String() }

// HTTPAddress is host:port of the REST API.
func (e Endpoint) HTTPAddress() string { return netip.AddrPortFrom(e.Host, e.HTTP).String() }

// Controller is an lb-controller, running or not.
type Controller struct {
	Endpoint
	Host *lab.Host
	// Env is added to the environment of the next start, as "KEY=value".
	Env []string
	// Flags are added to the arguments of the next start.
	Flags []string

	program string
	process *lab.Process

	mu   sync.Mutex
	conn *grpc.ClientConn // made by the first Conn
}

func newController(h *lab.Host, program string, e Endpoint) *Controller {
	return &Controller{Endpoint: e, Host: h, program: program}
}

// DataDir is the controller's data directory.
func (c *Controller) DataDir() string { return filepath.Join(c.Host.Dir(), "data") }

// TokenFile holds the first operator's token.
func (c *Controller) TokenFile() string { return filepath.Join(c.DataDir(), "admin.token") }

// CAFile holds the controller's CA.
func (c *Controller) CAFile() string { return filepath.Join(c.DataDir(), "ca.pem") }

// Args are the arguments that the controller is started with.
func (c *Controller) Args() []string {
	return append([]string{
		"serve", "--data-dir", c.DataDir(), "--advertise", c.Endpoint.Host.String(),
		"--grpc-listen", c.GRPCAddress(), "--http-listen", c.HTTPAddress(),
	}, c.Flags...)
}

// Start starts the controller, for the first time or again on its data, and
// returns when it says that it serves.
func (c *Controller) Start(ctx context.Context) error {
	var err error
	c.process, err = c.Host.Start(ctx, lab.ProcessSpec{Name: "lb-controller", Args: append([]string{c.program}, c.Args()...), Env: c.Env})
	if err != nil {
		return err
	}
	ctx, cancel := withDefault(ctx, startTimeout)
	defer cancel()
	return c.explain(until(ctx, "the controller to serve", c.process, c.healthy))
}

func (c *Controller) healthy(ctx context.Context) error {
	conn, err := c.Conn()
	if err != nil {
		return err
	}
	// Each attempt asks at once, without the pause between two connections.
	conn.ResetConnectBackoff()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("its health is %s", answer.GetStatus())
	}
	return err
}

// Kill kills the controller with SIGKILL and waits for its end.
func (c *Controller) Kill() error { return c.process.Kill() }

// Stop asks the controller to end and waits for it; one that takes longer than
// the grace time is killed, which is an error.
func (c *Controller) Stop(grace time.Duration) error { return c.process.Stop(grace) }

// Process is the running or last ended controller.
func (c *Controller) Process() *lab.Process { return c.process }

// Conn returns the connection that calls the controller as its first operator.
// It is made once, when the controller has made its CA and token, and connects
// again by itself.
func (c *Controller) Conn() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(c.TokenFile())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", c.CAFile())
	}
	c.conn, err = grpc.NewClient("passthrough:///"+c.GRPCAddress(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})),
		grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return c.Host.Dial(ctx, "tcp", address)
		}),
	)
	return c.conn, err
}

func (c *Controller) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// explain adds the last lines of the controller's log to an error.
func (c *Controller) explain(err error) error { return withTail(err, c.process) }

// bearer is an operator's token.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return true }

// until waits for a condition, and no longer than the process lives.
func until(ctx context.Context, what string, p *lab.Process, condition func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	return lab.Until(ctx, what, func(ctx context.Context) error {
		select {
		case <-p.Done():
			giveUp()
			return fmt.Errorf("it has ended: %w", p.Wait(ctx))
		default:
			return condition(ctx)
		}
	})
}

// withTail adds the last lines of a process's log to an error.
func withTail(err error, p *lab.Process) error {
	var told *tailError
	if err == nil || p == nil || errors.As(err, &told) {
		return err
	}
	return &tailError{err: err, log: p.Log, tail: p.Tail(tailLines)}
}

// tailError is an error with the end of a log.
type tailError struct {
	err       error
	log, tail string
}

func (e *tailError) Error() string { return fmt.Sprintf("%v\n==> %s <==\n%s", e.err, e.log, e.tail) }
func (e *tailError) Unwrap() error { return e.err }
