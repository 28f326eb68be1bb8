package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// eventStream reads server-sent events.
type eventStream struct {
	t     *testing.T
	lines *bufio.Scanner
}

type sentEvent struct{ id, name, data string }

// open starts a stream with extra headers in pairs.
func (c *controller) open(t *testing.T, path string, headers ...string) *eventStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.client().Do(request)
	must(t, err)
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %d %s", path, response.StatusCode, response.Header)
	}
	return &eventStream{t, bufio.NewScanner(response.Body)}
}

// next returns the next event; false: the stream has ended.
func (s *eventStream) next() (event sentEvent, ok bool) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			event.id = line[4:]
		case strings.HasPrefix(line, "event: "):
			event.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			event.data = line[6:]
		case line == "" && event.name != "":
			return event, true
		}
	}
	return event, false
}

// pools reads the next events until n pools were made, and returns their ids in
// order and the last event.
func (s *eventStream) pools(n int) (ids string, last sentEvent) {
	s.t.Helper()
	var made []string
	for len(made) < n {
		event, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended after %v: %v", made, s.lines.Err())
		}
		if _, id, ok := strings.Cut(event.data, "made pools/"); ok {
			made = append(made, id[:strings.Index(id, `"`)])
		}
		last = event
	}
	return strings.Join(made, " "), last
}

func (c *controller) createPools(t *testing.T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if a := c.rest(t, "POST", fmt.Sprintf("/v1/clusters/default/pools?pool_id=p%d", i), "{}"); a.status != http.StatusOK {
			t.Fatalf("%s", a.body)
		}
	}
}

func TestEventStreamResumesWhereItWas(t *testing.T) {
	c := start(t)
	const path = "/v1/clusters/default/events:watch"
	stream := c.open(t, path)
	c.createPools(t, 0, 3)
	ids, _ := stream.pools(2)
	if ids != "p0 p1" {
		t.Errorf("first %s; want p0 p1", ids)
	}
	_, last := stream.pools(1)
	c.createPools(t, 3, 6)
	if ids, _ := c.open(t, path, "Last-Event-ID", last.id).pools(3); ids != "p3 p4 p5" {
		t.Errorf("resumed with %s; want p3 p4 p5", ids)
	}
	if ids, _ := c.open(t, path+"?resume_token="+last.id).pools(3); ids != "p3 p4 p5" {
		t.Errorf("resumed by a parameter with %s; want p3 p4 p5", ids)
	}
	if ids, _ := stream.pools(3); ids != "p3 p4 p5" {
		t.Errorf("the first stream went on with %s; want p3 p4 p5", ids)
	}
	if ids, _ := c.open(t, path+"?tail=2").pools(2); ids != "p4 p5" {
		t.Errorf("the tail is %s; want p4 p5", ids)
	}
}

func TestEventStreamRefuses(t *testing.T) {
	c := start(t)
	for query, want := range map[string]struct {
		status int
		reason string
	}{
		"default/events:watch?resume_token=0123456789abcdef.1": {http.StatusBadRequest, "EVENTS_EXPIRED"}, // another log's
		"default/events:watch?resume_token=nonsense":           {http.StatusBadRequest, "RESUME_TOKEN_INVALID"},
		"default/events:watch?tail=1001":                       {http.StatusBadRequest, "FIELD_INVALID"},
		"default/events:watch?tail=x":                          {http.StatusBadRequest, "FIELD_INVALID"},
		"default/events:watch?last=1":                          {http.StatusBadRequest, "FIELD_UNKNOWN"},
		"nope/events:watch":                                    {http.StatusNotFound, "NOT_FOUND"},
		"a%20b/events:watch":                                   {http.StatusBadRequest, "NAME_INVALID"},
	} {
		a := c.rest(t, http.MethodGet, "/v1/clusters/"+query, "")
		if got := restFault(t, a); a.status != want.status || got.reason != want.reason {
			t.Errorf("%s: %d %s; want %d %s", query, a.status, a.body, want.status, want.reason)
		}
	}
	stream, err := tandemv1.NewEventServiceClient(c.dial(t)).WatchEvents(c.admin(t), &tandemv1.WatchEventsRequest{
		Parent: "clusters/default", ResumeToken: "0123456789abcdef.1",
	})
	must(t, err)
	_, err = stream.Recv()
	if got := grpcFault(t, err); got.code != codes.OutOfRange || got.reason != "EVENTS_EXPIRED" {
		t.Errorf("over gRPC: %+v; want EVENTS_EXPIRED", got)
	}
}

func TestEventsArePagedBackward(t *testing.T) {
	c := start(t)
	stream := c.open(t, "/v1/clusters/default/events:watch")
	c.createPools(t, 0, 5)
	stream.pools(5) // they are in the log now
	var messages []string
	for token := ""; ; {
		body := c.rest(t, "GET", "/v1/clusters/default/events?page_size=2&page_token="+token, "").decode(t)
		for _, event := range body["events"].([]any) {
			messages = append(messages, event.(map[string]any)["message"].(string))
		}
		if token = body["nextPageToken"].(string); token == "" {
			break
		}
	}
	if got := strings.Join(messages, ", "); got != "admin: made pools/p4, admin: made pools/p3, admin: made pools/p2, admin: made pools/p1, admin: made pools/p0" {
		t.Errorf("events %s", got)
	}
}

func TestStatusStreamFollowsChanges(t *testing.T) {
	c := start(t)
	stream := c.open(t, "/v1/clusters/default/status:watch", "Accept", "text/event-stream")
	waitFor := func(part string) {
		t.Helper()
		for {
			event, ok := stream.next()
			if !ok {
				t.Fatalf("the stream ended before %s", part)
			}
			if strings.Contains(event.data, part) {
				return
			}
		}
	}
	waitFor(`"synced":true`)
	c.createPools(t, 0, 1)
	c.rest(t, "POST", "/v1/clusters/default/pools/p0/backends?backend_id=b", `{"address":"10.0.0.1","port":80}`)
	waitFor("pools/p0/backends/b")
}

func TestStopEndsStreamsAndSaysSo(t *testing.T) {
	c := start(t)
	sent := c.open(t, "/v1/clusters/default/events:watch")
	watch, err := tandemv1.NewFleetServiceClient(c.dial(t)).WatchStatus(c.admin(t), &tandemv1.WatchStatusRequest{Name: "clusters/default"})
	must(t, err)
	_, err = watch.Recv()
	must(t, err)
	begin := time.Now()
	c.stop()
	for err == nil {
		_, err = watch.Recv()
	}
	if got := grpcFault(t, err); got.code != codes.Unavailable || got.reason != "STOPPING" {
		t.Errorf("the watch ended with %+v; want STOPPING", got)
	}
	event, ok := sent.next()
	if !ok || event.name != "error" || !strings.Contains(event.data, "STOPPING") {
		t.Errorf("the event stream ended with %+v; want an error event with STOPPING", event)
	}
	if _, ok := sent.next(); ok {
		t.Error("the event stream goes on")
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}
