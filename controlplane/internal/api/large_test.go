package api_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// endless is a body of the size given that is never in memory.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for i := range n {
		p[i] = ' '
	}
	e.left -= n
	return n, nil
}

func TestBodyOf100MBIsRefused(t *testing.T) {
	c := start(t)
	const size = 100 << 20
	for name, transport := range map[string]*http.Transport{
		"HTTP/2":   {TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool()}, ForceAttemptHTTP2: true},
		"HTTP/1.1": {TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool()}},
	} {
		for _, length := range []int64{size, -1} { // announced or not
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/v1/clusters/default:apply", &endless{size})
			must(t, err)
			request.ContentLength = length
			request.Header.Set("Authorization", "Bearer "+c.token)
			request.Header.Set("Expect", "100-continue")
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Errorf("%s, length %d: %v", name, length, err)
				continue
			}
			text, err := io.ReadAll(response.Body)
			must(t, err)
			must(t, response.Body.Close())
			got := restFault(t, answer{response.StatusCode, response.Header, text})
			if response.StatusCode != http.StatusRequestEntityTooLarge || got.reason != "REQUEST_TOO_LARGE" || got.message != "the request is larger than 16 MiB" {
				t.Errorf("%s, length %d: %d %+v", name, length, response.StatusCode, got)
			}
		}
		transport.CloseIdleConnections()
	}
	_, err := tandemv1.NewConfigServiceClient(c.dial(t)).ApplyConfig(c.admin(t), &tandemv1.ApplyConfigRequest{
		Parent: "clusters/default", Config: &tandemv1.ClusterConfig{Cluster: &tandemv1.Cluster{Name: strings.Repeat("a", size)}},
	})
	if got := grpcFault(t, err); got.code != codes.ResourceExhausted {
		t.Errorf("over gRPC: %+v; want RESOURCE_EXHAUSTED", got)
	}
}

func TestOnlyAWholeConfigurationMayBeLarge(t *testing.T) {
	c := start(t)
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	_, err := configs.GetPool(c.admin(t), &tandemv1.GetPoolRequest{Name: strings.Repeat("a", 5<<20)})
	if got := grpcFault(t, err); got.reason != "REQUEST_TOO_LARGE" || got.message != "the request is larger than 4 MiB" {
		t.Errorf("got %s %q", got.reason, got.message)
	}
	large := &tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{{Name: "p"}}}
	for i := range 20_000 {
		large.Pools[0].Backends = append(large.Pools[0].Backends, &tandemv1.Backend{
			Name: fmt.Sprintf("backend-with-a-rather-long-name-to-fill-the-file-%05d", i), Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), Port: 80,
		})
	}
	if size := proto.Size(large); size < 1<<20 {
		t.Fatalf("the configuration has only %d bytes", size)
	}
	response, err := configs.ApplyConfig(c.admin(t), &tandemv1.ApplyConfigRequest{Parent: "clusters/default", Config: large}, grpc.MaxCallRecvMsgSize(64<<20))
	must(t, err)
	if got := len(response.GetRevision().GetChanges()); got != 20_001 {
		t.Errorf("%d changes; want 20001", got)
	}
	a := c.rest(t, "GET", "/v1/clusters/default:export", "")
	if a.status != http.StatusOK || strings.Count(string(a.body), "backend-with-a-rather") != 20_000 {
		t.Errorf("the export: %d, %d bytes", a.status, len(a.body))
	}
}
