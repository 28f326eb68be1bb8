package haproxy

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// UntilServing waits until the HAProxy of the agent with that run directory
// serves: its newest worker answers and accepts connections. It needs no agent.
func UntilServing(ctx context.Context, runDir string) error {
	client := &runtime.Client{Path: masterSocket(runDir), Timeout: answerTimeout}
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	for {
		err := serves(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("haproxy does not serve: %w", err)
		}
	}
}

// Serves is UntilServing that asks once.
func Serves(ctx context.Context, runDir string) error {
	return serves(ctx, &runtime.Client{Path: masterSocket(runDir), Timeout: answerTimeout})
}

// serves asks the newest worker.
func serves(ctx context.Context, client *runtime.Client) error {
	found, err := client.Processes(ctx)
	if err != nil {
		return err
	}
	if len(found.Workers) == 0 {
		return fmt.Errorf("process %d has no worker", found.Master.PID)
	}
	worker, err := client.Info(ctx, found.Workers[0].PID)
	if err == nil && worker.Stopping {
		err = fmt.Errorf("worker %d accepts no connections", worker.PID)
	}
	return err
}
