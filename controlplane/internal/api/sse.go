package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// sse serves watches as server-sent events. It calls the services as any client
// does, so that a watch is allowed, checked and refused as over gRPC.
type sse struct {
	events tandemv1.EventServiceClient
	fleet  tandemv1.FleetServiceClient
	codec  *codec
	fail   func(http.ResponseWriter, error)
}

// message is one server-sent event.
type message struct {
	id   string // empty: none
	name string // empty: a comment, which clients do not see
	data proto.Message
}

// route sends watches to this handler and the rest on. Patterns of net/http
// cannot end in a verb after a colon.
func (s *sse) route(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cluster, watch, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/clusters/"), "/")
		cluster = "clusters/" + cluster
		switch {
		case r.Method == http.MethodGet && watch == "events:watch":
			s.watchEvents(r.Context(), w, r, cluster)
		// Without that header the gateway gives it as lines of JSON.
		case r.Method == http.MethodGet && watch == "status:watch" && strings.Contains(r.Header.Get("Accept"), "text/event-stream"):
			s.watchStatus(r.Context(), w, r, cluster)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (s *sse) watchEvents(ctx context.Context, w http.ResponseWriter, r *http.Request, cluster string) {
	request, err := watchRequest(r, cluster)
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel := outgoing(ctx, r)
	defer cancel()
	stream, err := s.events.WatchEvents(ctx, request)
	serveStream(s, w, stream, err, func(step *tandemv1.WatchEventsResponse) message {
		if event := step.GetEvent(); event != nil {
			return message{id: step.GetResumeToken(), name: "event", data: event}
		}
		return message{id: step.GetResumeToken()}
	})
}

// watchRequest reads the same parameters as the call has. A browser that
// connects again says where it was by a header.
func watchRequest(r *http.Request, cluster string) (*tandemv1.WatchEventsRequest, error) {
	request := &tandemv1.WatchEventsRequest{Parent: cluster}
	query := r.URL.Query()
	for key := range query {
		switch key {
		case "resume_token", "resumeToken":
			request.ResumeToken = query.Get(key)
		case "tail":
			tail, err := strconv.ParseInt(query.Get(key), 10, 32)
			if err != nil {
				return nil, refuse("tail", state.ReasonFieldInvalid, "must be a whole number from 0 to 1000")
			}
			request.Tail = int32(tail)
		default:
			return nil, refuse(key, state.ReasonFieldUnknown, "is not a parameter here; the parameters are resume_token, tail")
		}
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		request.ResumeToken = id
	}
	return request, nil
}

func (s *sse) watchStatus(ctx context.Context, w http.ResponseWriter, r *http.Request, cluster string) {
	ctx, cancel := outgoing(ctx, r)
	defer cancel()
	stream, err := s.fleet.WatchStatus(ctx, &tandemv1.WatchStatusRequest{Name: cluster})
	serveStream(s, w, stream, err, func(step *tandemv1.WatchStatusResponse) message {
		if step.GetHeartbeat() {
			return message{}
		}
		return message{name: "status", data: step}
	})
}

// outgoing takes the caller's authorization along.
func outgoing(ctx context.Context, r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	return metadata.AppendToOutgoingContext(ctx, "authorization", r.Header.Get("Authorization")), cancel
}

// serveStream writes a stream until one of its ends is gone. A refusal is an
// ordinary answer, a later error the event "error".
func serveStream[T any](s *sse, w http.ResponseWriter, stream grpc.ServerStreamingClient[T], err error, show func(*T) message) {
	if err == nil {
		err = accepted(stream)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	control := http.NewResponseController(w)
	// The request has been read; a stream outlives the time for that.
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	for err == nil {
		if err = control.Flush(); err != nil {
			return // the client has gone
		}
		var step *T
		if step, err = stream.Recv(); err == nil {
			err = s.write(w, show(step))
		}
	}
	_ = s.write(w, message{name: "error", data: statusOf(err).Proto()})
}

// accepted waits for the header, which a service sends when it has accepted a
// watch. Without one, the stream holds nothing but the refusal.
func accepted[T any](stream grpc.ServerStreamingClient[T]) error {
	header, err := stream.Header()
	if err == nil && header == nil {
		_, err = stream.Recv()
	}
	return err
}

func (s *sse) write(w io.Writer, m message) error {
	var text bytes.Buffer
	if m.id != "" {
		fmt.Fprintf(&text, "id: %s\n", m.id)
	}
	if m.name == "" {
		text.WriteString(": heartbeat\n\n")
	} else {
		data, err := s.codec.Marshal(m.data)
		if err != nil {
			return err
		}
		// JSON has no line breaks, so one data line is enough.
		fmt.Fprintf(&text, "event: %s\ndata: %s\n\n", m.name, data)
	}
	_, err := w.Write(text.Bytes())
	return err
}
