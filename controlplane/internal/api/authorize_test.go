package api_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func pemKey(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// methods are those of every service that is linked in and served.
func methods(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, service.Methods().Get(j))
			}
		}
		return true
	})
	if len(all) < 45 {
		t.Fatalf("only %d methods are linked in", len(all))
	}
	return all
}

// call makes one call with an empty request and returns its status.
func call(t *testing.T, conn *grpc.ClientConn, token string, method protoreflect.MethodDescriptor) codes.Code {
	t.Helper()
	ctx := t.Context()
	if token != "" {
		ctx = as(ctx, token)
	}
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{
		ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient(),
	}, name)
	if err != nil {
		return status.Code(err)
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(method.Input())); err != nil && !errors.Is(err, io.EOF) {
		return status.Code(err)
	}
	must(t, stream.CloseSend())
	return status.Code(stream.RecvMsg(dynamicpb.NewMessage(method.Output())))
}

// Every method of every service, against what each caller shows.
func TestAuthorizationMatrix(t *testing.T) {
	c := start(t)
	removed := c.join(t, "lb-removed")
	_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-removed"})
	must(t, err)
	node := c.join(t, "lb-master")
	plain, asNode, asRemoved := c.dial(t), c.dial(t, node), c.dial(t, removed)
	callers := []struct {
		name  string
		conn  *grpc.ClientConn
		token string
	}{
		{"nobody", plain, ""},
		{"wrong token", plain, c.token + "A"},
		{"join token", plain, "tandem-join.AAAA." + c.joinToken(t, "lb-backup")},
		{"node", asNode, ""},
		{"node with a wrong token", asNode, c.token + "A"},
		{"removed node", asRemoved, ""},
		{"operator", plain, c.token},
	}
	const in, who, no = codes.OK, codes.Unauthenticated, codes.PermissionDenied
	// What each service lets in, by caller in the order above.
	operators := []codes.Code{who, who, who, who, who, who, in}
	nodes := []codes.Code{who, who, who, in, in, no, who}
	anybody := []codes.Code{in, in, in, in, in, in, in}
	want := map[string][]codes.Code{
		"tandem.v1.ConfigService":                  operators,
		"tandem.v1.FleetService":                   operators,
		"tandem.v1.EventService":                   operators,
		"tandem.v1.AccessService":                  operators,
		"tandem.v1.StoreService":                   operators,
		"tandem.agent.v1.AgentService":             nodes,
		"grpc.reflection.v1.ServerReflection":      operators,
		"grpc.reflection.v1alpha.ServerReflection": operators,
		"grpc.health.v1.Health":                    anybody,
	}
	for _, method := range methods(t) {
		expected, ok := want[string(method.Parent().FullName())]
		if !ok {
			t.Errorf("%s: the matrix does not know this service", method.FullName())
			continue
		}
		if method.FullName() == "tandem.agent.v1.AgentService.Enrol" {
			expected = anybody
		}
		for i, caller := range callers {
			got := call(t, caller.conn, caller.token, method)
			if got != who && got != no {
				got = in // whatever the service says to an empty request
			}
			if got != expected[i] {
				t.Errorf("%s by %s: %v; want %v", method.FullName(), caller.name, got, expected[i])
			}
		}
	}
}

func TestUnknownMethodsAreRefused(t *testing.T) {
	c := start(t)
	for _, name := range []string{"/tandem.v1.ConfigService/Nope", "/tandem.v1.Nope/Get", "/nope", "//", "/tandem.v1.ConfigService"} {
		for _, token := range []string{"", c.token} {
			err := c.dial(t).Invoke(as(t.Context(), token), name, &tandemv1.GetCallerRequest{}, &tandemv1.Caller{})
			if code := status.Code(err); code != codes.Unimplemented && code != codes.Unauthenticated && code != codes.PermissionDenied {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Every REST route of every method, and what has no method.
func TestRESTNeedsAToken(t *testing.T) {
	c := start(t)
	variable := regexp.MustCompile(`\{[^}=]*=?([^}]*)\}`)
	routes := map[string]string{"/openapi.json": http.MethodGet, "/metrics": http.MethodGet, "/nope": http.MethodGet, "/v1/clusters/default/events:watch": http.MethodGet}
	for _, method := range methods(t) {
		rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		for verb, path := range map[string]string{
			http.MethodGet: rule.GetGet(), http.MethodPost: rule.GetPost(), http.MethodPatch: rule.GetPatch(), http.MethodDelete: rule.GetDelete(),
		} {
			if path != "" {
				routes[strings.ReplaceAll(variable.ReplaceAllString(path, "$1"), "*", "x")+"?"+verb] = verb
			}
		}
	}
	if len(routes) < 40 {
		t.Fatalf("only %d routes", len(routes))
	}
	for path, verb := range routes {
		for _, token := range []string{"", c.token + "A"} {
			got := c.restAs(t, token, verb, strings.TrimSuffix(path, "?"+verb), "")
			if got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s %s: %d; want 401", verb, path, got.status)
			}
		}
		if verb == http.MethodGet && strings.HasSuffix(path, ":watch") {
			continue // it would never end
		}
		if got := c.rest(t, verb, strings.TrimSuffix(path, "?"+verb), ""); got.status == http.StatusUnauthorized || got.status == http.StatusForbidden {
			t.Errorf("%s %s by the operator: %d", verb, path, got.status)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := c.restAs(t, "", http.MethodGet, path, ""); got.status != http.StatusOK {
			t.Errorf("%s: %d; want 200", path, got.status)
		}
	}
	if got := c.restAs(t, "", http.MethodPost, "/tandem.agent.v1.AgentService/Enrol", "{}"); got.status != http.StatusUnauthorized {
		t.Errorf("agents' calls over HTTPS: %d; want 401", got.status)
	}
}

func TestCertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	other, err := pki.Open(t.TempDir())
	must(t, err)
	key, _ := newRequest(t)
	forged, err := other.IssueNode(key.Public(), pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: "x"})
	must(t, err)
	_, csr := newRequest(t)
	_, err = agentv1.NewAgentServiceClient(c.dial(t, keyPair(t, key, forged))).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
	// The handshake fails, so no call gets as far as a status of ours.
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v; want a failed handshake", err)
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	c := start(t)
	stream, err := reflectionv1.NewServerReflectionClient(c.dial(t)).ServerReflectionInfo(c.admin(t))
	must(t, err)
	must(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: "*"},
	}))
	answer, err := stream.Recv()
	must(t, err)
	listed := map[string]bool{}
	for _, service := range answer.GetListServicesResponse().GetService() {
		listed[service.GetName()] = true
	}
	for _, name := range []string{"tandem.v1.ConfigService", "tandem.v1.FleetService", "tandem.v1.EventService", "tandem.v1.AccessService"} {
		if !listed[name] {
			t.Errorf("%s is not listed among %v", name, listed)
		}
	}
	must(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "tandem.v1.Pool"},
	}))
	answer, err = stream.Recv()
	if err != nil || len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("no descriptor of tandem.v1.Pool: %v, %v", answer, err)
	}
}

func TestHealthServes(t *testing.T) {
	c := start(t)
	answer, err := healthv1.NewHealthClient(c.dial(t)).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v; want SERVING", answer, err)
	}
}

// A call is refused by its header alone: the message of one who shows nothing
// takes up no memory.
func TestRefusedBeforeTheMessage(t *testing.T) {
	c := start(t)
	for method, want := range map[string]fault{
		"/tandem.v1.ConfigService/ApplyConfig": {code: codes.Unauthenticated, reason: "TOKEN_MISSING"},
		"/tandem.agent.v1.AgentService/Renew":  {code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"},
		"/tandem.v1.Nope/Get":                  {code: codes.PermissionDenied, reason: "METHOD_DENIED"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stream, err := c.dial(t).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
		must(t, err)
		err = stream.RecvMsg(&tandemv1.Caller{}) // no message was sent
		if got := status.Code(err); got == codes.DeadlineExceeded {
			t.Errorf("%s waits for its message", method)
		} else if got := grpcFault(t, err); got.code != want.code || got.reason != want.reason {
			t.Errorf("%s: %+v; want %+v", method, got, want)
		}
	}
}

// Joins that anyone may begin are few at a time, and make room when they end.
func TestUnfinishedJoinsAreBounded(t *testing.T) {
	c := start(t)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	conn := c.dial(t)
	join := func(ctx context.Context) fault {
		_, err := agentv1.NewAgentServiceClient(conn).Enrol(ctx, &agentv1.EnrolRequest{})
		return grpcFault(t, err)
	}
	for range 16 {
		_, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, agentv1.AgentService_Enrol_FullMethodName)
		must(t, err)
	}
	// One connection's calls come in order.
	if got := join(t.Context()); got.code != codes.Unavailable || got.reason != "BUSY" {
		t.Errorf("the 17th join: %+v; want BUSY", got)
	}
	hangUp()
	deadline := time.Now().Add(5 * time.Second)
	for got := join(t.Context()); got.reason != "NAME_INVALID"; got = join(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatalf("after the others hung up: %+v; want NAME_INVALID", got)
		}
	}
}
