package drill

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// The longest time without an answer is measured, whether connections are refused
// meanwhile or wait.
func TestTheBlackoutIsMeasured(t *testing.T) {
	const from, until = 500 * time.Millisecond, 620 * time.Millisecond
	for name, test := range map[string]struct {
		meanwhile func(left time.Duration) error // left of the blackout
		failed    bool
		errors    bool
		least     time.Duration
		most      time.Duration
	}{
		"all is well": {nil, false, false, Interval, Interval},
		"refused":     {func(time.Duration) error { return errors.New("refused") }, true, false, until - from, until - from + Interval},
		"late":        {func(left time.Duration) error { <-time.After(left); return nil }, false, false, until - from, until - from + Interval},
		"in error":    {func(time.Duration) error { return &ServerError{"503 Service Unavailable"} }, false, true, until - from, until - from + Interval},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				w := Begin(t.Context(), func(context.Context) error {
					if since := time.Since(began); test.meanwhile != nil && since > from && since < until {
						return test.meanwhile(until - since)
					}
					return nil
				})
				<-time.After(time.Second + Interval/2)
				m := w.End()
				if m.Requests != 100 || m.Failed > 0 != test.failed || (m.Failure != nil) != test.failed ||
					m.Errors > 0 != test.errors || (m.Error != nil) != test.errors || m.Blackout < test.least || m.Blackout > test.most {
					t.Errorf("measured %+v, want %v to %v", m, test.least, test.most)
				}
			})
		})
	}
}

// Any answer counts that is no error of the server, unless one is expected: then that one.
func TestWhatIsAnAnswer(t *testing.T) {
	var gives int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(gives) }))
	defer server.Close()
	for _, test := range []struct {
		gives, want int
		fails       bool
		server      bool
	}{
		{200, 0, false, false}, {404, 0, false, false}, {499, 0, false, false}, {500, 0, true, true}, {503, 0, true, true},
		{503, 503, false, false}, {503, 200, true, false}, {404, 200, true, false},
	} {
		gives = test.gives
		err := Target{strings.TrimPrefix(server.URL, "http://"), &tandemv1.Probe{ExpectedStatus: uint32(test.want)}}.Ask(t.Context())
		var answer *ServerError
		if (err != nil) != test.fails || errors.As(err, &answer) != test.server {
			t.Errorf("status %d, where %d is expected: %v", test.gives, test.want, err)
		}
	}
}

// A VIP that never answers is black all the time, and does not hold up the end.
func TestNoAnswerAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Begin(t.Context(), func(ctx context.Context) error {
			<-time.After(patience)
			return errors.New("timeout")
		})
		<-time.After(time.Second)
		if m := w.End(); m.Blackout < time.Second || m.Failed != m.Requests || m.Requests < 90 {
			t.Errorf("measured %+v", m)
		}
	})
}

func TestATargetIsAsked(t *testing.T) {
	var path, host string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, host = r.URL.Path, r.Host
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, test := range map[string]struct {
		target Target
		text   string
		fails  bool
	}{
		"a connection":      {Target{Address: address}, "tcp://" + address, false},
		"an error":          {Target{address, &tandemv1.Probe{}}, "http://" + address + "/", true},
		"another one":       {Target{address, &tandemv1.Probe{Path: "/health", Host: "www.example.com", ExpectedStatus: 200}}, "http://" + address + "/health", true},
		"the right one":     {Target{address, &tandemv1.Probe{Path: "/health", Host: "www.example.com", ExpectedStatus: 503}}, "http://" + address + "/health", false},
		"nobody there":      {Target{Address: closed.Addr().String()}, "tcp://" + closed.Addr().String(), true},
		"nobody there, GET": {Target{closed.Addr().String(), &tandemv1.Probe{}}, "http://" + closed.Addr().String() + "/", true},
	} {
		if err := test.target.Ask(t.Context()); (err != nil) != test.fails || test.target.String() != test.text {
			t.Errorf("%s: %v, %s", name, err, test.target)
		}
		if p := test.target.Probe; p.GetHost() != "" && (path != p.GetPath() || host != p.GetHost()) {
			t.Errorf("%s: it asks %s for %s", name, host, path)
		}
	}
}
