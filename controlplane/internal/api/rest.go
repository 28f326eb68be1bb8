package api

import (
	"context"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/gen/openapi"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// writeTimeout is how long a client may leave one write unread. Streams live
// longer, so it is set anew with each write.
const writeTimeout = 30 * time.Second

// How long and how much a refused client may still send.
const (
	drainTimeout = 10 * time.Second
	maxDrain     = 256 << 20
)

// handler is all that the HTTPS port serves.
func (s *Server) handler(ctx context.Context) (http.Handler, error) {
	conn, err := s.dialInside()
	if err != nil {
		return nil, err
	}
	gateway, err := s.gateway(ctx, conn)
	if err != nil {
		return nil, err
	}
	open := http.NewServeMux()
	open.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, "ok") })
	open.HandleFunc("GET /readyz", s.ready)
	known := http.NewServeMux()
	known.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.Swagger)
	})
	known.Handle("GET /metrics", metrics())
	streams := &sse{
		events: tandemv1.NewEventServiceClient(conn), fleet: tandemv1.NewFleetServiceClient(conn),
		codec: s.codec, fail: s.writeError,
	}
	known.Handle("/", streams.route(gateway))
	open.Handle("/", s.requireOperator(bounded(s, known)))
	return patient(s.unambiguous(open)), nil
}

// unambiguous keeps paths away that two readers may take for different ones: with
// an encoded slash, an empty segment, "." or "..". http.ServeMux would send anyone
// elsewhere with them, and the gateway takes an encoded slash for a plain one, so
// that a proxy's rules for paths could be passed by.
func (s *Server) unambiguous(next http.Handler) http.Handler {
	refuse := s.requireOperator(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeError(w, routeError(r, http.StatusNotFound))
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean("/"+r.URL.Path) != r.URL.Path || strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") {
			refuse.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// gateway turns REST into calls.
func (s *Server) gateway(ctx context.Context, conn *grpc.ClientConn) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, s.codec),
		runtime.SetQueryParameterParser(&queryParser{}),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			s.writeError(w, err)
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
			s.writeError(w, routeError(r, code))
		}),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		tandemv1.RegisterConfigServiceHandler,
		tandemv1.RegisterFleetServiceHandler,
		tandemv1.RegisterEventServiceHandler,
		tandemv1.RegisterAccessServiceHandler,
		tandemv1.RegisterStoreServiceHandler,
	} {
		if err := register(ctx, mux, conn); err != nil {
			return nil, err
		}
	}
	return mux, nil
}

// outgoingHeader lets the two headers of a change out, no other.
func outgoingHeader(key string) (string, bool) {
	switch key {
	case revisionHeader:
		return "Tandem-Revision", true
	case epochHeader:
		return "Tandem-Epoch", true
	default:
		return "", false
	}
}

// ready tells whether new calls are welcome.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.stopping.Err() != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		answer(w, "stopping")
		return
	}
	answer(w, "ok")
}

func answer(w http.ResponseWriter, text string) { _, _ = w.Write([]byte(text + "\n")) }

// requireOperator keeps strangers out before anything of theirs is read.
func (s *Server) requireOperator(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.authenticate(r.Context(), r.Header.Values("Authorization")); err != nil {
			s.writeError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bounded bounds bodies. One that says that it is too large is not read before
// it is refused.
func bounded(s *Server, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		if r.ContentLength > maxRequest {
			w.Header().Set("Connection", "close")
			s.writeError(w, tooLarge(maxRequest))
		} else {
			r.Body = http.MaxBytesReader(w, body, maxRequest)
			next.ServeHTTP(w, r)
		}
		drain(w, body)
	})
}

// drain reads what a refused client still sends, within bounds. A connection
// closed on it would be reset, and the client would never see the answer; over
// HTTP/2 it is the stream, of which curl then drops the answer.
func drain(w http.ResponseWriter, body io.Reader) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(drainTimeout))
	if _, err := io.ReadFull(body, make([]byte, 1)); err != nil {
		return // all has been read, as always but then
	}
	_ = control.Flush()
	_, _ = io.CopyN(io.Discard, body, maxDrain)
}

// patient gives every write its own deadline.
func patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&patientWriter{w}, r)
	})
}

type patientWriter struct{ http.ResponseWriter }

// Unwrap is for http.ResponseController.
func (p *patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *patientWriter) Write(data []byte) (int, error) {
	if err := http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(data)
}

func routeError(r *http.Request, code int) error {
	switch code {
	case http.StatusNotFound:
		return fail(codes.NotFound, reasonRouteUnknown, "%s is not a path of this API: /openapi.json lists them", r.URL.Path)
	case http.StatusMethodNotAllowed:
		return fail(codes.Unimplemented, reasonRouteUnknown, "%s is not possible on %s: /openapi.json lists what is", r.Method, r.URL.Path)
	default:
		return fail(codes.InvalidArgument, reasonRouteUnknown, "the path cannot be read: %s", http.StatusText(code))
	}
}

// writeError writes an error as google.rpc.Status in JSON.
func (s *Server) writeError(w http.ResponseWriter, err error) {
	st := statusOf(err)
	if whole, ok := uncarry(st.Message()); ok {
		st = whole
	}
	if len(st.Details()) == 0 {
		// The gateway's own complaints have no reason yet.
		st = withReason(st.Code(), gatewayReason(st.Code()), "", st.Message())
	}
	text, err := s.codec.Marshal(st.Proto())
	if err != nil {
		s.Logger.Error("an error cannot be written", "error", err)
	}
	if st.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(httpStatus(st))
	_, _ = w.Write(text)
}

func gatewayReason(code codes.Code) string {
	if code == codes.InvalidArgument {
		return reasonBodyInvalid
	}
	return reasonInternal
}

func httpStatus(st *status.Status) int {
	switch st.Code() {
	case codes.ResourceExhausted:
		return http.StatusRequestEntityTooLarge
	case codes.Unimplemented:
		return http.StatusMethodNotAllowed
	default:
		return runtime.HTTPStatusFromCode(st.Code())
	}
}
