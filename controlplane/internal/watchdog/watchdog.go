// Package watchdog tells systemd that the program is ready and alive, where
// systemd runs it (sd_notify(3), Type=notify and WatchdogSec=).
package watchdog

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
)

// Run tells that the program is ready when alive first returns without an
// error, and then, as often as the unit asks for it, that it is alive whenever
// alive does so again. One that returns an error or hangs is not vouched for, and
// systemd starts the program anew. Run ends with ctx.
func Run(ctx context.Context, alive func(context.Context) error, logger hclog.Logger) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog of systemd: %w", err)
	}
	if err := alive(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	tell(logger, daemon.SdNotifyReady)
	defer tell(logger, daemon.SdNotifyStopping)
	if limit == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		if err := alive(ctx); err == nil {
			tell(logger, daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			logger.Error("not alive", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func tell(logger hclog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		logger.Warn("systemd cannot be told", "state", state, "error", err)
	}
}
