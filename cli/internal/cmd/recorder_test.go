package cmd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tandem-lb/tandem/cli/internal/client"
)

const testToken = "tandem-test.token"

// recorder answers every call of the API with what it was told, and records
// the requests: what lbctl makes of a command line.
type recorder struct {
	t       *testing.T
	address string
	ca      *x509.Certificate
	dir     string
	// replies are by method, such as "GetVip"; several for a stream. A method
	// that is not in it answers with an empty message.
	replies map[string][]proto.Message
	// turns are what the next calls of a method return, each a proto.Message or an error,
	// before refusals and replies.
	turns map[string][]any
	// refusals are errors by method.
	refusals map[string]error
	// broken are errors by method that end a stream after its replies.
	broken map[string]error
	// hold keeps streams open after their replies.
	hold bool
	// header is the answer metadata of every call.
	header metadata.MD

	mu    sync.Mutex
	calls []string
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{t: t, dir: t.TempDir(), replies: map[string][]proto.Message{}, refusals: map[string]error{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = listener.Addr().String()
	chain := r.issue()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{chain}, MinVersion: tls.VersionTLS13})),
		grpc.UnknownServiceHandler(r.handle),
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	r.write("ca.pem", string(client.EncodeCAs([]*x509.Certificate{r.ca})))
	r.write("token", testToken+"\n")
	return r
}

// issue makes an authority and a certificate of it for the loopback address.
func (r *recorder) issue() tls.Certificate {
	r.t.Helper()
	certify := func(template, parent *x509.Certificate, public, key any) *x509.Certificate {
		template.SerialNumber = big.NewInt(1)
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
		if err != nil {
			r.t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			r.t.Fatal(err)
		}
		return certificate
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			r.t.Fatal(err)
		}
		return key
	}
	caKey, key := newKey(), newKey()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	r.ca = certify(template, template, caKey.Public(), caKey)
	leaf := certify(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, r.ca, key.Public(), caKey)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, r.ca.Raw}, PrivateKey: key}
}

func (r *recorder) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	method := full[strings.LastIndexByte(full, '/')+1:]
	request, reply, err := messagesOf(full)
	if err != nil {
		return err
	}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	sent, _ := metadata.FromIncomingContext(stream.Context())
	if got := sent.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+testToken {
		return status.Error(codes.Unauthenticated, "the token is not known")
	}
	r.record(method, request)
	switch turn := r.turn(method).(type) {
	case error:
		return turn
	case proto.Message:
		return stream.SendMsg(turn)
	}
	if err := r.refusals[method]; err != nil {
		return err
	}
	if err := stream.SetHeader(r.header); err != nil {
		return err
	}
	replies, known := r.replies[method]
	if !known {
		replies = []proto.Message{reply}
	}
	for _, reply := range replies {
		if err := stream.SendMsg(reply); err != nil {
			return err
		}
	}
	if err := r.broken[method]; err != nil {
		return err
	}
	if r.hold {
		<-stream.Context().Done()
	}
	return nil
}

// turn takes what a method's next call returns; nil: nothing of its own.
func (r *recorder) turn(method string) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.turns[method]) == 0 {
		return nil
	}
	next := r.turns[method][0]
	r.turns[method] = r.turns[method][1:]
	return next
}

// messagesOf makes the request and the reply of "/tandem.v1.XService/Method".
func messagesOf(full string) (request, reply proto.Message, err error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", "."))
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, nil, err
	}
	method := descriptor.(protoreflect.MethodDescriptor)
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return nil, nil, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, nil, err
	}
	return in.New().Interface(), out.New().Interface(), nil
}

// record keeps a call as one line. What differs each time is checked and left
// out.
func (r *recorder) record(method string, request proto.Message) {
	message := request.ProtoReflect()
	if fd := message.Descriptor().Fields().ByName("request_id"); fd != nil {
		if message.Get(fd).String() == "" {
			r.t.Errorf("%s has no request id", method)
		}
		message.Clear(fd)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request)
	if err != nil {
		r.t.Error(err)
	}
	// protojson varies its white space on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		r.t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, method+" "+compact.String())
}

func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// result is what a run of lbctl left behind.
type result struct {
	code           int
	stdout, stderr string
}

// run runs lbctl against the recorder.
func (r *recorder) run(stdin string, args ...string) result {
	return r.runEnv(map[string]string{
		"LBCTL_SERVER": r.address, "LBCTL_CA": filepath.Join(r.dir, "ca.pem"), "LBCTL_TOKEN_FILE": filepath.Join(r.dir, "token"),
	}, stdin, args...)
}

func (r *recorder) runEnv(env map[string]string, stdin string, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := Run(context.Background(), Env{
		Args: args, Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr, Version: "v-test",
		LookupEnv: func(name string) (string, bool) { value, ok := env[name]; return value, ok },
	})
	return result{code, stdout.String(), stderr.String()}
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
}
