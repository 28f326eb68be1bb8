package haproxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// slow is a service manager that starts nothing, and tells after a while.
type slow struct {
	daemon.Exec
	takes time.Duration
}

func (s slow) Start(ctx context.Context, _ daemon.Spec) (*daemon.Process, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		return nil, errors.New(`the job ended with "timeout"`)
	}
}

// A start that fails slowly and another one to go back are no reason for the
// watchdog to end the agent, nor is a service manager that never tells.
func TestSlowStartsAreNoHang(t *testing.T) {
	dir := t.TempDir()
	for name, takes := range map[string]time.Duration{
		"systemd's own limit": 90 * time.Second,
		"never":               24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, err := New(Options{
					StateDir: dir, RunDir: dir, Runner: slow{takes: takes},
					Logger: hclog.NewNullLogger(), Notify: func(Event) {},
				})
				if err != nil {
					t.Fatal(err)
				}
				spec, err := d.spec()
				if err != nil {
					t.Fatal(err)
				}
				d.turn.Store(time.Now().UnixNano())
				for range 2 {
					if _, err := d.begun(t.Context(), spec); err == nil {
						t.Fatal("it starts")
					}
					<-time.After(reloadTimeout) // as if it had started and did not serve
				}
				if err := d.Alive(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
