package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/tandem-lb/tandem/controlplane/internal/api"
	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// controller is a whole controller on ports of 127.0.0.1, over real TLS.
type controller struct {
	grpcAddress string
	url         string
	authority   *pki.Authority
	token       string // of operator admin
	stop        context.CancelFunc
	ended       <-chan error
}

// start runs a controller until the test ends.
func start(t *testing.T) *controller {
	t.Helper()
	return startIn(t, t.TempDir())
}

// startIn runs a controller with what is in a directory already.
func startIn(t *testing.T, dir string) *controller {
	t.Helper()
	store, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
	must(t, err)
	return startOn(t, dir, store)
}

// startOn runs a controller on a store, which it closes in the end.
func startOn(t *testing.T, dir string, store store.Store) *controller {
	t.Helper()
	happened, err := events.Open(filepath.Join(dir, "events.db"), events.Options{})
	must(t, err)
	book, err := ledger.Open(t.Context(), store, ledger.Options{
		Announce: api.Announce(happened), Ports: []state.Reserved{{Port: 9443, Owner: "lb-controller"}}})
	must(t, err)
	authority, err := pki.Open(dir)
	must(t, err)
	certificate, err := authority.NewServer(nil)
	must(t, err)
	operators := auth.NewOperators(store)
	_, err = operators.Bootstrap(t.Context(), filepath.Join(dir, "admin.token"))
	must(t, err)
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	must(t, err)
	nodes := fleet.New(fleet.Options{
		Ledger: book, Events: happened, Version: "test",
		Outdated: func(s *agentv1.IdentityState) bool { return authority.Outdated(s.GetAuthorities(), s.GetIssuer()) },
	})
	server, err := api.New(t.Context(), api.Options{
		Ledger: book, Events: happened, Fleet: nodes, Operators: operators,
		JoinTokens: auth.NewJoinTokens(store, authority.Hash), Authority: authority, Certificate: certificate,
		Backup: backup.Source{Authority: authority, Store: store, Version: "test"},
		Logger: hclog.NewNullLogger(), Version: "test",
	})
	must(t, err)
	grpcListener, httpListener := listen(t), listen(t)

	ctx, stop := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{book.Run, happened.Run, nodes.Run, certificate.Run} {
		group.Go(func() error { return part(ctx) })
	}
	group.Go(func() error { return server.Run(ctx, grpcListener, httpListener) })
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	c := &controller{
		grpcAddress: grpcListener.Addr().String(), url: "https://" + httpListener.Addr().String(),
		authority: authority, token: strings.TrimSpace(string(token)), stop: stop, ended: ended,
	}
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the controller ended: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the controller did not end")
		}
		must(t, happened.Close())
		must(t, store.Close())
	})
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return listener
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dial connects over gRPC with a client certificate, if one is given.
func (c *controller) dial(t *testing.T, certificates ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	config := &tls.Config{RootCAs: c.authority.Pool()}
	if len(certificates) > 0 {
		// Shown whether or not the controller names its CA.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	conn, err := grpc.NewClient(c.grpcAddress,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30)))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// as adds a bearer token to a call.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// admin is a context for calls by operator admin.
func (c *controller) admin(t *testing.T) context.Context { return as(t.Context(), c.token) }

// client speaks HTTPS.
func (c *controller) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: c.authority.Pool()},
		ForceAttemptHTTP2: true,
	}}
}

// answer is what REST said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// decode reads the answer's JSON.
func (a answer) decode(t *testing.T) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return body
}

// rest makes one call by operator admin.
func (c *controller) rest(t *testing.T, method, path, body string) answer {
	t.Helper()
	return c.restAs(t, c.token, method, path, body)
}

func (c *controller) restAs(t *testing.T, token, method, path, body string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, c.url+path, bytes.NewReader([]byte(body)))
	must(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := c.client()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return answer{response.StatusCode, response.Header, text}
}

// joinToken makes a token and returns what the agent sends of it.
func (c *controller) joinToken(t *testing.T, node string) string {
	t.Helper()
	return c.joinTokenIn(t, "default", node)
}

func (c *controller) joinTokenIn(t *testing.T, cluster, node string) string {
	t.Helper()
	token, err := tandemv1.NewFleetServiceClient(c.dial(t)).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
		Parent: "clusters/" + cluster, JoinToken: &tandemv1.JoinToken{Node: node},
	})
	must(t, err)
	return strings.SplitN(token.GetToken(), ".", 3)[2]
}

// newRequest makes a key and a certificate request for it.
func newRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	return key, csr
}

// join makes a node join and returns its certificate.
func (c *controller) join(t *testing.T, node string) tls.Certificate {
	t.Helper()
	return c.enrol(t, node, c.joinToken(t, node))
}

// joinIn makes a node join another cluster, which it makes.
func (c *controller) joinIn(t *testing.T, cluster, node string) tls.Certificate {
	t.Helper()
	_, err := tandemv1.NewConfigServiceClient(c.dial(t)).CreateCluster(c.admin(t), &tandemv1.CreateClusterRequest{ClusterId: cluster})
	must(t, err)
	return c.enrol(t, node, c.joinTokenIn(t, cluster, node))
}

func (c *controller) enrol(t *testing.T, node, credential string) tls.Certificate {
	t.Helper()
	key, csr := newRequest(t)
	answer, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: node, Credential: credential, Csr: csr})
	must(t, err)
	return keyPair(t, key, answer.GetCertificate())
}

func keyPair(t *testing.T, key *ecdsa.PrivateKey, certificate []byte) tls.Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	pair, err := tls.X509KeyPair(certificate, pemKey(der))
	must(t, err)
	return pair
}
