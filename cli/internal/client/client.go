package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// maxMessage bounds a message in either direction, in bytes.
	maxMessage = 64 << 20
	// maxToken bounds a token file, in bytes.
	maxToken = 4 << 10
)

// retryPolicy repeats calls of ConfigService that met a controller which was
// just not there. Its changes carry request ids, so none is made twice.
const retryPolicy = `{"methodConfig": [{
	"name": [{"service": "tandem.v1.ConfigService"}],
	"retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.2s", "maxBackoff": "1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Client holds one connection to the controller. Its errors are those of
// package failure.
type Client struct {
	// Config holds what is desired.
	Config tandemv1.ConfigServiceClient
	// Fleet holds the nodes and what really is.
	Fleet tandemv1.FleetServiceClient
	// Events tells what happened.
	Events tandemv1.EventServiceClient
	// Access holds who may call.
	Access tandemv1.AccessServiceClient
	// Store is what the controller keeps everything in.
	Store tandemv1.StoreServiceClient

	conn *grpc.ClientConn
}

// Dial prepares the connection; the first call makes it. The error names the
// setting that is missing or wrong.
func Dial(s Settings) (*Client, error) {
	address, err := Address(s.Server)
	if err != nil {
		return nil, err
	}
	roots, err := loadCA(s.CA)
	if err != nil {
		return nil, err
	}
	token, err := loadToken(s.TokenFile)
	if err != nil {
		return nil, err
	}
	return dial(address, roots, token)
}

// DialWith is Dial with CAs and a token that no file holds yet. address is
// host:port.
func DialWith(address string, cas []*x509.Certificate, token string) (*Client, error) {
	return dial(address, poolOf(cas), token)
}

func poolOf(cas []*x509.Certificate) *x509.CertPool {
	roots := x509.NewCertPool()
	for _, ca := range cas {
		roots.AddCert(ca)
	}
	return roots
}

func dial(address string, roots *x509.CertPool, token string) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})),
		grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDefaultServiceConfig(retryPolicy),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithUnaryInterceptor(translateUnary(address)),
		grpc.WithStreamInterceptor(translateStream(address)),
	)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", address, err)
	}
	return &Client{
		Config: tandemv1.NewConfigServiceClient(conn),
		Fleet:  tandemv1.NewFleetServiceClient(conn),
		Events: tandemv1.NewEventServiceClient(conn),
		Access: tandemv1.NewAccessServiceClient(conn),
		Store:  tandemv1.NewStoreServiceClient(conn),
		conn:   conn,
	}, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

func loadCA(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, fmt.Errorf("no CA of the controller is known: run \"lbctl login\", or give --ca or %s the controller's ca.pem", EnvCA)
	}
	cas, err := ReadCAs(path)
	if err != nil {
		return nil, err
	}
	return poolOf(cas), nil
}

func loadToken(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("no operator token is known: run \"lbctl login\", or give --token-file or %s a file that holds it, such as the controller's admin.token", EnvTokenFile)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("operator token: %w", err)
	}
	defer file.Close()
	token, err := ReadToken(file)
	if err != nil {
		return "", fmt.Errorf("operator token: %s %w", path, err)
	}
	return token, nil
}

// ReadToken reads a token: one word, with white space around it at most.
func ReadToken(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxToken+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	printable := func(r rune) bool { return r > ' ' && r < 0x7f }
	if token == "" || len(data) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return !printable(r) }) {
		return "", errors.New("must hold the token alone: one line of printable characters")
	}
	return token, nil
}

// bearer sends a token with each call, over TLS only.
type bearer string

// GetRequestMetadata gives a call its token.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity keeps the token off an open connection.
func (bearer) RequireTransportSecurity() bool { return true }

func translateUnary(address string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		err := invoke(ctx, method, request, reply, conn, options...)
		message, _ := request.(proto.Message)
		return translate(err, message, address)
	}
}

func translateStream(address string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := streamer(ctx, desc, conn, method, options...)
		if err != nil {
			return nil, translate(err, nil, address)
		}
		return &translatedStream{stream, address}, nil
	}
}

type translatedStream struct {
	grpc.ClientStream
	address string
}

// RecvMsg is the stream's own, with its error translated.
func (s *translatedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if errors.Is(err, io.EOF) {
		return err
	}
	return translate(err, nil, s.address)
}

func translate(err error, request proto.Message, address string) error {
	err = failure.From(err, request)
	var call *failure.Error
	if !errors.As(err, &call) {
		return err
	}
	switch call.Code {
	case codes.Unavailable:
		call.Message = unreachable(call.Message, address)
	case codes.DeadlineExceeded:
		call.Message = fmt.Sprintf("the controller at %s did not answer in time: see \"lbctl status\" for what is in effect, or give a longer --timeout", address)
	default: // the controller's own words say it best
	}
	return err
}

// unreachable says what keeps the connection from being made, and the cure.
func unreachable(message, address string) string {
	_, cause, dialled := strings.Cut(message, `connection error: desc = "`)
	if !dialled {
		return message
	}
	cause = strings.TrimSuffix(cause, `"`)
	cause = strings.TrimPrefix(cause, "transport: ")
	cause = strings.TrimPrefix(cause, "Error while dialing: ")
	text := fmt.Sprintf("cannot reach the controller at %s: %s", address, cause)
	switch {
	case strings.Contains(cause, "signed by unknown authority"), strings.Contains(cause, "ECDSA verification failure"):
		text += ": it is not the controller whose CA is configured; compare with its ca.pem, and run \"lbctl login\" only if it is the right one: its CA may have been rotated"
	case strings.Contains(cause, "certificate is valid for"), strings.Contains(cause, "doesn't contain any IP SANs"):
		text += ": use one of these names, or start lb-controller with --advertise and this one"
	case strings.Contains(cause, "connection refused"):
		text += ": is lb-controller running there, with --grpc-listen on this port?"
	}
	return text
}
