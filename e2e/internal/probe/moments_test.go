package probe

import (
	"testing"
	"time"
)

func TestMoments(t *testing.T) {
	start := time.Now()
	failed := func(at, after int, phase Phase) Failure {
		return Failure{At: start.Add(time.Duration(at) * time.Millisecond), AfterMS: float64(after), Kind: New, Phase: phase}
	}
	for name, test := range map[string]struct {
		failures []Failure
		more     int // beyond those that the report holds
		want     int
	}{
		"none":                      {nil, 0, 0},
		"one":                       {[]Failure{failed(10, 5, Answer)}, 0, 1},
		"three under way at once":   {[]Failure{failed(0, 30, Answer), failed(10, 15, Answer), failed(24, 5000, Answer)}, 0, 1},
		"one after the other":       {[]Failure{failed(0, 9, Answer), failed(10, 9, Answer), failed(20, 9, Answer)}, 0, 3},
		"a long one spans two":      {[]Failure{failed(0, 100, Answer), failed(10, 5, Answer), failed(50, 5, Answer)}, 0, 2},
		"not even connected":        {[]Failure{failed(0, 30, Answer), failed(10, 30, Connect)}, 0, -1},
		"more than the report has":  {[]Failure{failed(0, 30, Answer)}, 1, -1},
		"two moves, two for either": {[]Failure{failed(0, 30, Answer), failed(10, 30, Answer), failed(100, 20, Answer), failed(110, 20, Answer)}, 0, 2},
	} {
		r := &Report{Failures: test.failures, Kinds: map[Kind]Count{New: {Failed: len(test.failures) + test.more}}}
		if got := r.Moments(); got != test.want {
			t.Errorf("%s: %d moments, want %d", name, got, test.want)
		}
	}
}
