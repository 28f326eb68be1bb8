package unit

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheWaitForAJobEnds(t *testing.T) {
	for name, test := range map[string]struct {
		result  string        // empty: none comes
		gone    time.Duration // when the connection is; 0: never
		context time.Duration // until its end; 0: none
		within  time.Duration
		want    string // in the error; empty: none
	}{
		"done":               {result: "done"},
		"failed":             {result: "timeout", want: `ended with "timeout"`},
		"connection dropped": {gone: 5 * time.Second, within: 5*time.Second + lookEvery, want: "connection is gone"},
		"nothing comes":      {within: jobTimeout, want: "not ended after 1m35s"},
		"no longer wanted":   {context: time.Second, within: time.Second, want: context.DeadlineExceeded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if test.context > 0 {
					ctx, cancel = context.WithTimeout(ctx, test.context)
					defer cancel()
				}
				began, done := time.Now(), make(chan string, 1)
				if test.result != "" {
					done <- test.result
				}
				err := await(ctx, done, func() bool { return test.gone == 0 || time.Since(began) < test.gone })
				if took := time.Since(began); took > test.within {
					t.Errorf("it takes %v, want %v at most", took, test.within)
				}
				if test.want == "" && err == nil {
					return
				}
				if err == nil || test.want == "" || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			})
		})
	}
}
