package uplink

import (
	"strings"
	"testing"
	"time"
)

func TestClockProblem(t *testing.T) {
	sent := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		controller, trip time.Duration // after sent
		want             string
	}{
		"alike":                  {time.Millisecond, 2 * time.Millisecond, ""},
		"a little apart":         {5 * time.Second, 2 * time.Millisecond, ""},
		"behind":                 {7 * time.Minute, 2 * time.Millisecond, "this node's clock is 7m0s behind the controller's"},
		"ahead":                  {-time.Hour, 2 * time.Millisecond, "this node's clock is 1h0m0s ahead of the controller's"},
		"a slow answer":          {12 * time.Second, 9 * time.Second, ""},
		"slow, and far from all": {time.Minute, 9 * time.Second, "behind"},
	} {
		got := clockProblem(sent.Add(test.controller), sent, sent.Add(test.trip))
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// A wrong clock is told, with the cure, and ends with its cause.
func TestAWrongClockIsTold(t *testing.T) {
	c := newController(t, time.Now().Add(-time.Hour))
	c.clock = 10 * time.Minute
	a := newAgent(t, c)
	a.start()
	a.greets()
	a.tells("this node's clock is 10m0s behind the controller's: set the one that is wrong", true)
	a.stop()
	c.with(func() { c.clock = 0 })
	a.start()
	a.greets()
	a.tells("clock is", false)
}

// The words of a handshake that fails for a clock alone.
func TestAControllersCertificateOutOfItsTimeIsToldInPlainWords(t *testing.T) {
	for name, test := range map[string]struct {
		from time.Time
		want string
	}{
		"not yet":   {time.Now().Add(48 * time.Hour), "the controller's certificate is valid from " + time.Now().Add(48*time.Hour).UTC().Format("2006-01-02")},
		"no longer": {time.Now().AddDate(0, 0, -100), "the controller's certificate is valid until "},
	} {
		t.Run(name, func(t *testing.T) {
			good := newController(t, time.Now().Add(-time.Hour))
			a := newAgent(t, good)
			wrong := newControllerOf(t, good.ca, test.from)
			a.start(func(o *Options) { o.Controllers = []string{wrong.address} })
			a.tells("this node's clock says "+time.Now().UTC().Format("2006-01-02"), true)
			a.tells(test.want, true)
			a.tells("set the clock that is wrong", true)
		})
	}
}
