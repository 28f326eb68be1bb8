package api

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// maxRequest bounds every message; only a whole configuration comes near.
	maxRequest = 16 << 20
	// maxSmallRequest bounds all other requests.
	maxSmallRequest = 4 << 20
)

// unary passes a call on when it is allowed and well formed.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	defer s.finish(info.FullMethod, time.Now(), &err)
	ctx, err = s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if err := checkRequest(request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// stream passes a streaming call on when it is allowed; what it receives is
// checked as it comes. The stream ends when the server stops.
func (s *Server) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer s.finish(info.FullMethod, time.Now(), &err)
	begin := time.Now()
	ctx, err := s.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	admitted := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	again := func() error { return s.readmit(admitted, info.FullMethod) }
	err = handler(service, &checkedStream{ServerStream: stream, ctx: ctx, again: again, admitted: begin})
	if err != nil && context.Cause(ctx) == errStopping { //nolint:errorlint // the cause is this very value
		return errStopping
	}
	return err
}

var errStopping = fail(codes.Unavailable, reasonStopping, "the controller is stopping: connect again")

// finish turns a panic into an error, and any error into what callers see.
func (s *Server) finish(method string, begin time.Time, err *error) {
	if r := recover(); r != nil {
		s.Logger.Error("a call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = fmt.Errorf("the controller made a mistake; its log has the details")
	}
	if *err == nil {
		s.Logger.Debug("served a call", "method", method, "took", time.Since(begin))
		return
	}
	st := statusOf(*err)
	if st.Code() == codes.Internal {
		s.Logger.Error("a call failed", "method", method, "error", *err)
	} else {
		s.Logger.Debug("refused a call", "method", method, "took", time.Since(begin), "code", st.Code(), "error", *err)
	}
	*err = st.Err()
}

// checkedStream checks what it receives and has the caller in its context. It
// goes on only as long as the caller would be let in anew.
type checkedStream struct {
	grpc.ServerStream
	ctx      context.Context //nolint:containedctx // grpc.ServerStream hands out its context by a method
	again    func() error    // lets the caller in anew
	admitted time.Time       // the last time; only SendMsg uses it
}

// Context returns the call's context.
func (c *checkedStream) Context() context.Context { return c.ctx }

// RecvMsg receives a message and checks it.
func (c *checkedStream) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return checkRequest(m)
}

// SendMsg sends a message. Watches have a heartbeat, so that it notices soon
// that a token was deleted or has expired.
func (c *checkedStream) SendMsg(m any) error {
	if time.Since(c.admitted) >= heartbeatInterval {
		if err := c.again(); err != nil {
			return err
		}
		c.admitted = time.Now()
	}
	return c.ServerStream.SendMsg(m)
}

// checkRequest checks a request's size and its own fields. The resource in it
// is left to state, which alone knows what an update makes of it.
func checkRequest(m any) error {
	request, ok := m.(proto.Message)
	if !ok || request.ProtoReflect().Descriptor().ParentFile().Package() != tandemv1.File_tandem_v1_node_proto.Package() {
		return nil // agents and reflection have their own rules
	}
	if _, whole := request.(*tandemv1.ApplyConfigRequest); !whole && proto.Size(request) > maxSmallRequest {
		return tooLarge(maxSmallRequest)
	}
	if path, unknown := unknownField(request.ProtoReflect(), ""); unknown {
		return refuse(path, state.ReasonFieldUnknown, "holds a field that this controller does not know: update the controller")
	}
	return state.Validate(shallow(request.ProtoReflect()), "")
}

// shallow returns a request without the resources in it.
func shallow(request protoreflect.Message) proto.Message {
	own := request.New()
	request.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() == nil || field.Message().ParentFile().Package() != request.Descriptor().ParentFile().Package() {
			own.Set(field, value)
		}
		return true
	})
	return own.Interface()
}

// unknownField returns the path of a message that carries a field unknown here.
func unknownField(m protoreflect.Message, path string) (at string, found bool) {
	if len(m.GetUnknown()) > 0 {
		return path, true
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		inner := join(path, string(field.Name()))
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for i := range value.List().Len() {
				if at, found = unknownField(value.List().Get(i).Message(), fmt.Sprintf("%s[%d]", inner, i)); found {
					return false
				}
			}
		default:
			at, found = unknownField(value.Message(), inner)
		}
		return !found
	})
	return at, found
}
