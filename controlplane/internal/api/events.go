package api

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heartbeatInterval is how long a watch may be silent.
const heartbeatInterval = 10 * time.Second

// eventService tells what happened.
type eventService struct {
	tandemv1.UnimplementedEventServiceServer
	ledger *ledger.Ledger
	events *events.Log
}

func (e *eventService) ListEvents(_ context.Context, r *tandemv1.ListEventsRequest) (*tandemv1.ListEventsResponse, error) {
	head, err := headOf(e.ledger, r.GetParent(), "parent")
	if err != nil {
		return nil, err
	}
	below, err := before(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size, ask := backward(r.GetPageSize())
	list, err := e.events.List(head.ID(), below, ask)
	if err != nil {
		return nil, err
	}
	response := &tandemv1.ListEventsResponse{Events: list}
	if len(list) > size {
		response.Events = list[:size]
		response.NextPageToken = encodeToken(events.ID(list[size-1]))
	}
	return response, nil
}

func (e *eventService) WatchEvents(r *tandemv1.WatchEventsRequest, stream grpc.ServerStreamingServer[tandemv1.WatchEventsResponse]) error {
	head, err := headOf(e.ledger, r.GetParent(), "parent")
	if err != nil {
		return err
	}
	after, err := e.start(head.ID(), r)
	if err != nil {
		return err
	}
	watch, err := e.events.Watch(head.ID(), after)
	if err != nil {
		return err
	}
	// The client knows by the header that from here on it misses nothing.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		event, err := next(stream.Context(), watch)
		if err != nil {
			return err
		}
		step := &tandemv1.WatchEventsResponse{Step: &tandemv1.WatchEventsResponse_Heartbeat{Heartbeat: true}}
		if event != nil {
			after = events.ID(event)
			step.Step = &tandemv1.WatchEventsResponse_Event{Event: event}
		}
		step.ResumeToken = e.resumeToken(after)
		if err := stream.Send(step); err != nil {
			return err
		}
	}
}

// next returns the next event, nil when none came for a heartbeat's time.
func next(ctx context.Context, watch *events.Watch) (*tandemv1.Event, error) {
	wait, cancel := context.WithTimeout(ctx, heartbeatInterval)
	defer cancel()
	event, err := watch.Next(wait)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return event, err
}

// start returns the id of the event that a watch goes on after.
func (e *eventService) start(cluster string, r *tandemv1.WatchEventsRequest) (uint64, error) {
	if r.GetResumeToken() != "" {
		return e.resume(r.GetResumeToken())
	}
	if r.GetTail() == 0 {
		return e.events.Last(cluster), nil
	}
	tail, err := e.events.List(cluster, 0, int(r.GetTail()))
	if err != nil || len(tail) == 0 {
		return 0, err
	}
	return events.ID(tail[len(tail)-1]) - 1, nil
}

// resumeToken is the log's epoch and an event's id: ids begin anew in a new log.
func (e *eventService) resumeToken(id uint64) string {
	return e.events.Epoch() + "." + strconv.FormatUint(id, 10)
}

func (e *eventService) resume(token string) (uint64, error) {
	epoch, text, ok := strings.Cut(token, ".")
	id, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil {
		return 0, fail(codes.InvalidArgument, reasonResumeInvalid, "resume_token must be the one that came with an event")
	}
	if epoch != e.events.Epoch() {
		return 0, events.ErrExpired
	}
	return id, nil
}
