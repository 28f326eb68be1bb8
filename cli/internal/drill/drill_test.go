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
		least     time.Duration
		most      time.Duration
	}{
		"all is well": {nil, false, Interval, Interval},
		"refused":     {func(time.Duration) error { return errors.New("refused") }, true, until - from, until - from + Interval},
		"late":        {func(left time.Duration) error { <-time.After(left); return nil }, false, until - from, until - from + Interval},
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
				if m.Requests != 100 || m.Failed > 0 != test.failed || (m.Failure != nil) != test.failed || m.Blackout < test.least || m.Blackout > test.most {
					t.Errorf("measured %+v, want %v to %v", m, test.least, test.most)
				}
			})
		})
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
		"any answer":        {Target{address, &tandemv1.Probe{}}, "http://" + address + "/", false},
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
