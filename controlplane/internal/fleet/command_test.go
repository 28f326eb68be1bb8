package fleet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		a.pause = func() time.Duration { return time.Minute }
		var got *agentv1.Command
		a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			got = c
			if c.GetProbe().GetUrl() == "silence" {
				return nil
			}
			return &agentv1.CommandResult{Output: "done"}
		}
		probe := func(url string) *agentv1.Command {
			return &agentv1.Command{Kind: &agentv1.Command_Probe{Probe: &agentv1.ProbeCommand{Url: url}}}
		}
		r, err := l.fleet.Command(l.ctx, home, "lb-master", probe("http://127.0.0.1/"))
		if err != nil || r.GetOutput() != "done" || r.GetId() == "" {
			t.Errorf("Command = %v, %v", r, err)
		}
		if d := time.Until(got.GetDeadline().AsTime()); d != commandTimeout {
			t.Errorf("deadline in %v, want %v", d, commandTimeout)
		}
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		if _, err := l.fleet.Command(ctx, home, "lb-master", probe("silence")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Command without an answer = %v", err)
		}
		if _, err := l.fleet.Command(l.ctx, home, "nobody", probe("")); !errors.Is(err, ErrDisconnected) {
			t.Errorf("Command to nobody = %v", err)
		}
		// Those that wait when the session ends are told.
		failed := make(chan error, 1)
		l.all.Go(func() {
			_, err := l.fleet.Command(l.ctx, home, "lb-master", probe("silence"))
			failed <- err
		})
		synctest.Wait()
		_ = a.disconnect()
		if err := <-failed; !errors.Is(err, ErrDisconnected) {
			t.Errorf("Command whose session ended = %v", err)
		}
	})
}

func TestUnansweredCommandsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
		busy := make(chan error, maxPending+1)
		for range maxPending + 1 {
			l.all.Go(func() {
				_, err := l.fleet.Command(l.ctx, home, "lb-master", &agentv1.Command{})
				busy <- err
			})
		}
		synctest.Wait()
		if err := <-busy; !errors.Is(err, ErrBusy) || len(busy) != 0 {
			t.Errorf("the first answer = %v, %d more; want ErrBusy alone", err, len(busy))
		}
		pass(commandTimeout)
		// Those that have given up make room.
		a.mu.Lock()
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return &agentv1.CommandResult{} }
		a.mu.Unlock()
		if _, err := l.fleet.Command(l.ctx, home, "lb-master", &agentv1.Command{}); err != nil {
			t.Errorf("Command = %v", err)
		}
	})
}
