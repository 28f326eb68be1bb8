package api_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

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
	plain, asNode, asRemoved := c.dial(t), c.dial(t, c.join(t, "lb-master")), c.dial(t, removed)
	asOther := c.dial(t, c.joinIn(t, "other", "lb-master"))
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
		{"node of another cluster", asOther, ""},
		{"removed node", asRemoved, ""},
		{"operator", plain, c.token},
		{"operator with a node's certificate", asNode, c.token},
	}
	const in, who, no = codes.OK, codes.Unauthenticated, codes.PermissionDenied
	// What each service lets in, by caller in the order above.
	operators := []codes.Code{who, who, who, who, who, who, who, in, in}
	nodes := []codes.Code{who, who, who, in, in, in, no, who, in}
	anybody := []codes.Code{in, in, in, in, in, in, in, in, in}
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

// misspelt are method names that are none, though they look like one.
func misspelt(service, method string) []string {
	return []string{
		"/" + service + "/" + method + "/", "//" + service + "/" + method, "/" + service + "//" + method,
		"/" + strings.ToUpper(service) + "/" + method, "/" + service + "/" + strings.ToLower(method),
		"/" + service + "%2f" + method, "/" + service + "." + method, "/" + service, "/" + service + "/",
		"/" + service + "/" + method + ";x", "/" + service + "/" + method + "?x=1",
		"/grpc.health.v1.Health/../" + service + "/" + method, "/grpc.health.v1.Health/" + service + "/" + method,
		"/" + service + "/../grpc.health.v1.Health/Check", "/v1/" + service + "/" + method,
	}
}

// What is nearly the name of a method is called by nobody.
func TestMisspeltMethodsAreRefused(t *testing.T) {
	c := start(t)
	callers := map[string]struct {
		conn  *grpc.ClientConn
		token string
	}{
		"nobody": {c.dial(t), ""}, "node": {c.dial(t, c.join(t, "lb-master")), ""}, "operator": {c.dial(t), c.token},
	}
	names := []string{"/nope", "//", "/", "/tandem.v1.Nope/Get", "/tandem.v1.ConfigService/Nope", "/tandem.agent.local.v1.LocalService/GetStatus"}
	for _, method := range methods(t) {
		names = append(names, misspelt(string(method.Parent().FullName()), string(method.Name()))...)
	}
	for _, name := range names {
		for who, caller := range callers {
			err := caller.conn.Invoke(as(t.Context(), caller.token), name, &tandemv1.GetCallerRequest{}, &tandemv1.Caller{})
			if code := status.Code(err); code != codes.Unimplemented && code != codes.Unauthenticated && code != codes.PermissionDenied {
				t.Errorf("%s by %s: %v", name, who, err)
			}
		}
	}
}

// An operator's token counts as the one authorization header of a call, nowhere
// else and in no other form.
func TestTokenIsTakenInOneFormOnly(t *testing.T) {
	c := start(t)
	caller := func(headers ...string) error {
		_, err := tandemv1.NewAccessServiceClient(c.dial(t)).GetCaller(metadata.AppendToOutgoingContext(t.Context(), headers...), &tandemv1.GetCallerRequest{})
		return err
	}
	for _, headers := range notAuthorized(c.token) {
		if strings.Contains(headers[0], "\t") {
			continue // gRPC's own client refuses to send it
		}
		var pairs []string
		for _, line := range headers {
			key, value, _ := strings.Cut(line, ": ")
			pairs = append(pairs, key, value)
		}
		if err := caller(pairs...); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%q: %v; want UNAUTHENTICATED", headers, err)
		}
	}
	must(t, caller("authorization", "bearer "+c.token)) // RFC 9110, section 11.1: in any case
}

// The certificate that another controller has given to a node of the same name is
// good for nothing here.
func TestCertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	c, other := start(t), start(t)
	c.join(t, "lb-master")
	conn := c.dial(t, other.join(t, "lb-master"))
	for _, method := range methods(t) {
		// The handshake fails, so no call gets as far as a status of ours.
		if code := call(t, conn, c.token, method); code != codes.Unavailable {
			t.Errorf("%s: %v; want a failed handshake", method.FullName(), code)
		}
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
